"""Encoders of the few-shot literature (section 4), and the feature-wise transformation of the FT baseline (section 7).

Names of weights are those of the checkpoints that circulate (`trunk.4.C1.weight`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
BLOCKS = {"ResNet10": (1, 1, 1, 1), "ResNet18": (2, 2, 2, 2), "ResNet34": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)


class FeatureWiseTransform(nn.BatchNorm2d):
    """Batch normalisation, its output scaled and shifted at random in training (Tseng et al., ICLR 2020).

    y = BN(x) (1 + n_g softplus_100(gamma)) + n_b softplus_100(beta) with n_g, n_b ~ N(0, 1), one draw a forward pass
    and channel, shared by the whole episode; y = BN(x) in evaluation mode.

    Attributes:
        gamma, beta: [1, channels, 1, 1]; 0.3 and 0.5, not trained by the FT baseline (`fixed_parameters`).
        noisy: whether training mode transforms; tests with an episode's own statistics switch it off.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.noisy = True
        self.gamma = nn.Parameter(torch.full((1, channels, 1, 1), 0.3))
        self.beta = nn.Parameter(torch.full((1, channels, 1, 1), 0.5))

    def forward(self, input: Tensor) -> Tensor:
        """[batch, channels, height, width] to the same shape."""
        y = super().forward(input)
        if not (self.training and self.noisy):
            return y
        noise = torch.randn(2, *self.gamma.shape, device=y.device, dtype=y.dtype)
        return self.transform(y, noise[0], noise[1])

    def transform(self, y: Tensor, noise_gamma: Tensor, noise_beta: Tensor) -> Tensor:
        """The transformation for given noise, [1, channels, 1, 1] each."""
        scale, shift = (F.softplus(value, beta=100) for value in (self.gamma, self.beta))
        return (1 + noise_gamma * scale) * y + noise_beta * shift


def fixed_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The gammas and betas of a model, which the FT baseline keeps out of the optimiser."""
    layers = (module for module in model.modules() if isinstance(module, FeatureWiseTransform))
    return {value for layer in layers for value in (layer.gamma, layer.beta)}


class ResidualBlock(nn.Module):
    """conv3x3 BN ReLU conv3x3 BN plus shortcut, ReLU; the shortcut is a 1x1 convolution with BN where widths differ.

    Args:
        width_in, width_out: channels.
        stride: of the first convolution and of the shortcut.
        last_norm: of the second convolution and of the shortcut, `FeatureWiseTransform` for FT.
        leaky: LeakyReLU(0.2) instead of ReLU.
    """

    def __init__(
        self, width_in: int, width_out: int, stride: int = 1, *, last_norm: Norm = nn.BatchNorm2d, leaky: bool = False
    ) -> None:
        super().__init__()
        self.C1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.BN1 = nn.BatchNorm2d(width_out)
        self.C2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.BN2 = last_norm(width_out)
        self.activation = nn.LeakyReLU(0.2) if leaky else nn.ReLU()
        self.shortcut = self.BNshortcut = None
        if width_in != width_out:
            self.shortcut = nn.Conv2d(width_in, width_out, 1, stride, bias=False)
            self.BNshortcut = last_norm(width_out)
        elif stride != 1:
            raise ValueError(f"stride: a block that keeps its width has stride 1, got {stride}")

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width_in, h, w] -> [batch, width_out, h / stride, w / stride], rounded up."""
        y = self.BN2(self.C2(self.activation(self.BN1(self.C1(x)))))
        kept = x if self.shortcut is None or self.BNshortcut is None else self.BNshortcut(self.shortcut(x))
        return self.activation(y + kept)


class ResNet(nn.Module):
    """ResNet10, 18 or 34 of *A Closer Look at Few-shot Classification* (not torchvision's).

    Args:
        arch: one of `BLOCKS`.
        flatten: whether the output is pooled to a vector a image; else it is the map.
        last_norm: see `ResidualBlock`.
        leaky: see there.

    Raises:
        ValueError: an unknown `arch`.
    """

    def __init__(
        self, arch: str = "ResNet10", *, flatten: bool = True, last_norm: Norm = nn.BatchNorm2d, leaky: bool = False
    ) -> None:
        super().__init__()
        if arch not in BLOCKS:
            raise ValueError(f"arch: expected one of {sorted(BLOCKS)}, got {arch!r}")
        layers: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        ]  # fmt: skip
        before = 64
        for stage, (count, width) in enumerate(zip(BLOCKS[arch], WIDTHS, strict=True)):
            for number in range(count):
                stride = 2 if stage and number == 0 else 1
                layers.append(ResidualBlock(before, width, stride, last_norm=last_norm, leaky=leaky))
                before = width
        self.trunk = nn.Sequential(*layers)
        self.flatten, self.dim = flatten, before
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, h, w] -> [batch, 512], or [batch, 512, h / 32, w / 32] without `flatten`."""
        maps = self.trunk(images)
        return maps.mean(dim=(2, 3)) if self.flatten else maps


class SmallResNet(nn.Module):
    """A residual network for images of about 32 pixels: a 3x3 convolution of stride 2, BN, ReLU, and one block a width.

    Args:
        widths: channels of the blocks; the first keeps its size, the others halve it.
        flatten, last_norm: see `ResNet`.
    """

    def __init__(
        self, widths: Sequence[int] = (16, 32, 64), *, flatten: bool = True, last_norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        ]  # fmt: skip
        for before, width in zip((widths[0], *widths), widths, strict=False):
            layers.append(ResidualBlock(before, width, 1 if before == width else 2, last_norm=last_norm))
        self.trunk = nn.Sequential(*layers)
        self.flatten, self.dim = flatten, widths[-1]
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, h, w] -> [batch, widths[-1]], or maps of an eighth of the size without `flatten`."""
        maps = self.trunk(images)
        return maps.mean(dim=(2, 3)) if self.flatten else maps


class ConvBlock(nn.Module):
    """conv3x3 with bias, BN, ReLU and, where wanted, max-pooling by 2."""

    def __init__(self, width_in: int, width_out: int, *, pool: bool, padding: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.C = nn.Conv2d(width_in, width_out, 3, padding=padding)
        self.BN = norm(width_out)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width_in, h, w] -> [batch, width_out, ...]."""
        y = F.relu(self.BN(self.C(x)))
        return F.max_pool2d(y, 2) if self.pool else y


class ConvNet(nn.Module):
    """Conv4, Conv6 (four pooled blocks, padded), or their `maps` form: two pooled blocks unpadded, the others padded.

    Args:
        depth: 4 or 6 as a rule.
        maps: the form for RelationNet (`Conv4NP`), whose output is a map.
        norm: of every block; `FeatureWiseTransform` for FT.
    """

    def __init__(self, depth: int = 4, *, maps: bool = False, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        blocks = [
            ConvBlock(
                3 if number == 0 else 64, 64, norm=norm, pool=number < (2 if maps else 4),
                padding=0 if maps and number < 2 else 1,
            )
            for number in range(depth)
        ]  # fmt: skip
        self.trunk = nn.Sequential(*blocks)
        self.flatten = not maps
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, h, w] -> [batch, 64 (h // 16) (w // 16)], or a map."""
        maps = self.trunk(images)
        return maps.flatten(1) if self.flatten else maps


def init_convolutions(module: nn.Module) -> None:
    """Weights ~ N(0, 2 / (k k channels_out)), batch normalisation 1 and 0; in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
