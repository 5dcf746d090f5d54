"""Encoders with their stages, projectors, decoders (sections 4 and 5)."""

from __future__ import annotations

import math
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


PLANS: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {
    32: (4, ((64, 0), (256, 2), (128, 2), (64, 2), (3, 1))),
    64: (4, ((128, 0), (128, 2), (128, 2), (128, 2), (128, 2), (3, 1))),
    224: (7, ((64, 0), (128, 2), (128, 2), (128, 2), (64, 2), (3, 2))),
}


class Decoder(nn.Module):
    """A feature vector to an image by transposed convolutions; no activation at the end.

    Args:
        dim: of the features.
        size: of the images, one of `PLANS`.

    Raises:
        ValueError: another size.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        if size not in PLANS:
            raise ValueError(f"size: expected one of {sorted(PLANS)}, got {size}")
        self.side, steps = PLANS[size]
        self.channels = steps[0][0]
        width = self.channels * self.side**2
        self.fc, self.bn0 = nn.Linear(dim, width, bias=False), nn.BatchNorm1d(width)
        self.depth = len(steps) - 1
        before = self.channels
        for number, (channels, stride) in enumerate(steps[1:], start=1):
            last = number == self.depth
            layer = nn.ConvTranspose2d(before, channels, 3, stride, 1, stride - 1, bias=last)
            self.add_module(f"deconv{number}", layer)
            if not last:
                self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
            before = channels

    def forward(self, h: Tensor) -> Tensor:
        """[batch, dim] -> [batch, 3, size, size]."""
        x = torch.relu(self.bn0(self.fc(h))).view(-1, self.channels, self.side, self.side)
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"deconv{number}")(x)
            if number < self.depth:
                x = torch.relu(self.get_submodule(f"bn{number}")(x))
        return x
