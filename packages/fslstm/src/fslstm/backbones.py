"""Embedding networks Conv4 and ResNet12 (section 8). Parameters have the names of the published checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fslstm.drop_block import DropBlock

_STRIDE = 16


class Backbone(nn.Module):
    """Images `[B, in_channels, image_size, image_size]` -> features `[B, out_features]`.

    Four stages that halve the side; the map is flattened, after average pooling (kernel 2, stride 2, padding 1 with the
    zeros counted) where `pool`.

    Attributes:
        pool: True by default for maps larger than 2x2, that is at 84x84 but not at 32x32.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], image_size: int, pool: bool | None) -> None:
        super().__init__()
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths: expected four positive numbers, got {list(widths)}")
        if image_size < _STRIDE:
            raise ValueError(f"image_size: expected at least {_STRIDE}, got {image_size}")
        self.in_channels, self.widths, self.image_size = in_channels, tuple(widths), image_size
        self.pool = image_size // _STRIDE > 2 if pool is None else pool
        self.average = nn.AvgPool2d(2, stride=2, padding=1, count_include_pad=True)

    @property
    def out_features(self) -> int:
        """Size of the feature vector."""
        side = self.image_size // _STRIDE
        return self.widths[-1] * (side // 2 + 1 if self.pool else side) ** 2

    def stages(self) -> list[nn.Module]:
        """The four stages, in order."""
        raise TypeError("Backbone is abstract; use Conv4 or ResNet12")

    def feature_map(self, images: Tensor) -> Tensor:
        """The last stage's map `[B, widths[-1], side, side]`, before pooling and flattening."""
        expected = (self.in_channels, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"images: expected [batch, {', '.join(map(str, expected))}], got {list(images.shape)}")
        for stage in self.stages():
            images = stage(images)
        return images

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, out_features]`."""
        features = self.feature_map(images)
        return (self.average(features) if self.pool else features).flatten(1)


class Conv4(Backbone):
    """Four blocks of Conv3x3 -> BatchNorm -> MaxPool2 -> LeakyReLU(0.2); 1,848,832 parameters as published.

    Args:
        in_channels: 3 for colour, 1 for grey.
        widths: channels of the blocks.
        image_size: side of the images; sets `out_features`.
        dropout: probability of channel dropout (Dropout2d) after each block.
        pool: see `Backbone`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (128, 192, 256, 512),
        image_size: int = 84,
        *,
        dropout: Sequence[float] = (0.0, 0.0, 0.4, 0.5),
        pool: bool | None = None,
    ) -> None:
        super().__init__(in_channels, widths, image_size, pool)
        inputs = [in_channels, *widths[:-1]]
        self.conv_1, self.conv_2, self.conv_3, self.conv_4 = (
            _conv_block(*sizes) for sizes in zip(inputs, widths, dropout, strict=True)
        )
        initialise(self)

    def stages(self) -> list[nn.Module]:
        """The four blocks."""
        return [self.conv_1, self.conv_2, self.conv_3, self.conv_4]


class ResidualBlock(nn.Module):
    """3 x [Conv3x3, BatchNorm] with LeakyReLU(0.1), plus a 1x1 shortcut, then MaxPool2, then dropout.

    Args:
        in_channels, out_channels: widths.
        dropout: applied to the pooled map: plain dropout or `DropBlock`.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(in_channels, out_channels), nn.BatchNorm2d(out_channels)
        self.conv2, self.bn2 = _conv3x3(out_channels, out_channels), nn.BatchNorm2d(out_channels)
        self.conv3, self.bn3 = _conv3x3(out_channels, out_channels), nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.relu = nn.LeakyReLU(0.1)
        self.maxpool = nn.MaxPool2d(2)
        self.dropout = nn.Identity() if dropout is None else dropout

    def forward(self, features: Tensor) -> Tensor:
        """`[B, in, F, F]` -> `[B, out, F // 2, F // 2]`."""
        inner = self.relu(self.bn1(self.conv1(features)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        return self.dropout(self.maxpool(self.relu(inner + self.downsample(features))))


class ResNet12(Backbone):
    """Four residual blocks; 12,424,320 parameters as published.

    Args:
        in_channels, widths, image_size, pool: as in `Conv4`.
        dropout: probability of element-wise dropout after blocks 1 and 2.
        drop_block: DropBlock's final drop rate after blocks 3 and 4. Off by default: in the published multi-GPU runs it
            was most likely without effect; the intended rate is 0.1.
        block_size: side of DropBlock's squares; None for 5 on images of 84 and 2 on images of 32.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        image_size: int = 84,
        *,
        dropout: float = 0.1,
        drop_block: float = 0.0,
        block_size: int | None = None,
        pool: bool | None = None,
    ) -> None:
        super().__init__(in_channels, widths, image_size, pool)
        if block_size is None:
            block_size = 5 if image_size // _STRIDE >= 5 else 2
        last = [DropBlock(drop_block, block_size) if drop_block else None for _ in range(2)]
        ends = [nn.Dropout(dropout), nn.Dropout(dropout), *last]
        inputs = [in_channels, *widths[:-1]]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(ResidualBlock(*arguments)) for arguments in zip(inputs, widths, ends, strict=True)
        )
        initialise(self)

    def stages(self) -> list[nn.Module]:
        """The four residual blocks."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]


class PretrainingClassifier(nn.Module):
    """A backbone's trunk with global average pooling and a linear layer, for ordinary classification.

    Args:
        backbone: its parameters are shared, so the trained backbone is `classifier.backbone`.
        n_classes: number of classes (365 for Places365).
    """

    def __init__(self, backbone: Backbone, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.linear = nn.Linear(backbone.widths[-1], n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits `[B, n_classes]`."""
        return self.linear(self.backbone.feature_map(images).mean(dim=(2, 3)))


def initialise(network: nn.Module) -> None:
    """Kaiming normal convolutions (fan-out, gain sqrt(2)), batch norm at weight 1 and bias 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


def _conv_block(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    layers = [_conv3x3(in_channels, out_channels), nn.BatchNorm2d(out_channels), nn.MaxPool2d(2), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, *([nn.Dropout2d(dropout)] if dropout else []))
