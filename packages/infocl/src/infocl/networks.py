"""Encoders with their stages, projectors, decoders (sections 4 and 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

LAYERS: dict[str, tuple[Any, list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}
Stem = Literal["cifar", "stl10", "imagenet"]


class Encoder(ResNet):
    """torchvision's ResNet without classifier; gives the pooled outputs of its last three stages.

    Args:
        arch: one of `LAYERS`.
        stem: `cifar`, 3x3 without pooling; `stl10`, the same with stride 2; `imagenet`, torchvision's own.

    Raises:
        ValueError: an unknown `arch` or `stem`.
    """

    def __init__(self, arch: str = "resnet18", stem: Stem = "cifar") -> None:
        if arch not in LAYERS:
            raise ValueError(f"arch: expected one of {sorted(LAYERS)}, got {arch!r}")
        if stem not in ("cifar", "stl10", "imagenet"):
            raise ValueError(f"stem: expected 'cifar', 'stl10' or 'imagenet', got {stem!r}")
        block, layers = LAYERS[arch]
        super().__init__(block, layers)
        self.dim = int(self.fc.in_features)
        del self.fc
        if stem != "imagenet":
            self.conv1 = nn.Conv2d(3, 64, 3, 2 if stem == "stl10" else 1, 1, bias=False)
            self.maxpool = nn.Identity()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                if stem == "imagenet":
                    fan_out = math.prod(layer.kernel_size) * layer.out_channels
                    nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / fan_out))
                else:
                    layer.reset_parameters()

    def forward(self, x: Tensor) -> list[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Pooled outputs of stages 2, 3 and 4, [batch, channels] each, of images [batch, 3, h, w]."""
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        outputs = []
        for layer in (self.layer2, self.layer3, self.layer4):
            x = layer(x)
            outputs.append(x.mean(dim=(2, 3)))
        return outputs


def head(dim: int, hidden: int, out: int, *, norm: bool) -> nn.Sequential:
    """Linear, batch normalisation where wanted, ReLU, linear."""
    between = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Linear(dim, hidden), *between, nn.ReLU(), nn.Linear(hidden, out))


class SmallEncoder(nn.Module):
    """A ResNet with one block a stage, for the experiments on a laptop; gives what `Encoder` gives.

    Args:
        channels: of the images.
        widths: of the four stages.
    """

    def __init__(self, channels: int = 1, widths: tuple[int, int, int, int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.dim = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.stages = nn.ModuleList()
        for number, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stride = 2 if number else 1
            shortcut = None
            if stride != 1:
                shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            self.stages.append(BasicBlock(before, width, stride, shortcut))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Pooled outputs of stages 2, 3 and 4, [batch, width] each, of images [batch, channels, h, w]."""
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x.mean(dim=(2, 3)))
        return outputs[1:]


@dataclass(frozen=True)
class DecoderPlan:
    """Shapes of a decoder.

    Attributes:
        start: channels, height and width that the feature vector is brought to.
        layers: channels and stride (1 or 2) of each transposed convolution; the last one gives the image.
    """

    start: tuple[int, int, int]
    layers: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the image."""
        scale = math.prod(stride for _, stride in self.layers)
        return self.layers[-1][0], scale * self.start[1], scale * self.start[2]


PLANS: dict[int, DecoderPlan] = {
    32: DecoderPlan((64, 4, 4), ((256, 2), (128, 2), (64, 2), (3, 1))),
    64: DecoderPlan((128, 4, 4), ((128, 2), (128, 2), (128, 2), (128, 2), (3, 1))),
    224: DecoderPlan((64, 7, 7), ((128, 2), (128, 2), (128, 2), (64, 2), (3, 2))),
}


class Decoder(nn.Module):
    """A feature vector to an image by transposed convolutions; no activation at the end.

    Args:
        dim: of the features.
        plan: the side of a square image that the paper has a decoder for, one of `PLANS`; or a `DecoderPlan`.

    Raises:
        ValueError: another size.
    """

    def __init__(self, dim: int, plan: int | DecoderPlan) -> None:
        super().__init__()
        if isinstance(plan, int) and plan not in PLANS:
            raise ValueError(f"plan: expected one of {sorted(PLANS)} or a DecoderPlan, got {plan}")
        self.plan = PLANS[plan] if isinstance(plan, int) else plan
        width = math.prod(self.plan.start)
        self.fc, self.bn0 = nn.Linear(dim, width, bias=False), nn.BatchNorm1d(width)
        self.depth = len(self.plan.layers)
        before = self.plan.start[0]
        for number, (channels, stride) in enumerate(self.plan.layers, start=1):
            last = number == self.depth
            layer = nn.ConvTranspose2d(before, channels, 3, stride, 1, stride - 1, bias=last)
            self.add_module(f"deconv{number}", layer)
            if not last:
                self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
            before = channels

    def forward(self, h: Tensor) -> Tensor:
        """[batch, dim] -> [batch, *plan.shape]."""
        x = torch.relu(self.bn0(self.fc(h))).view(-1, *self.plan.start)
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"deconv{number}")(x)
            if number < self.depth:
                x = torch.relu(self.get_submodule(f"bn{number}")(x))
        return x
