"""UPerNet in plain torch: a head over four maps, an auxiliary head, inference at any size, mIoU (section 8)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmim.features import SwinFeatures, VitFeatures

IGNORED = 255
"""Label of pixels that count nowhere."""


class ConvNormRelu(nn.Sequential):
    """Convolution without bias, BatchNorm, ReLU; the size of the map stays."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.bn, self.relu = nn.BatchNorm2d(out), nn.ReLU(inplace=True)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """[batch, channels, height, width] at another size, bilinear."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """A map beside its means over grids of several sizes, merged.

    Args:
        channels: of the map.
        width: of the result.
        grids: cells a side.
    """

    def __init__(self, channels: int, width: int, grids: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.branches = nn.ModuleList(ConvNormRelu(channels, width, 1) for _ in grids)
        self.merge = ConvNormRelu(channels + len(grids) * width, width, 3)

    def forward(self, maps: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, width, height, width]."""
        pooled = [
            branch(F.adaptive_avg_pool2d(maps, grid)) for branch, grid in zip(self.branches, self.grids, strict=True)
        ]
        return self.merge(torch.cat([maps, *(resized(each, maps.shape[-2:]) for each in pooled)], dim=1))


class UPerHead(nn.Module):
    """Pyramid pooling on the coarsest map, a feature pyramid down to the finest, a class for each of its cells.

    Args:
        channels: of the four maps, the finest first.
        width: of everything inside: 768 for ViT-B, 512 for Swin-B.
        classes: of the result.
        dropout: of whole channels before the last layer.
    """

    def __init__(self, channels: Sequence[int], width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvNormRelu(each, width, 1) for each in channels[:-1])
        self.pooling = PyramidPooling(channels[-1], width)
        self.smooth = nn.ModuleList(ConvNormRelu(width, width, 3) for _ in channels[:-1])
        self.merge = ConvNormRelu(len(channels) * width, width, 3)
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1))
        nn.init.normal_(self.classify[1].weight, std=0.01)  # pyright: ignore[reportArgumentType]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps [batch, channels, rows, columns] -> [batch, classes, rows, columns] of the finest."""
        levels = [lateral(each) for lateral, each in zip(self.lateral, maps, strict=False)] + [self.pooling(maps[-1])]
        for level in reversed(range(len(levels) - 1)):
            levels[level] = levels[level] + resized(levels[level + 1], levels[level].shape[-2:])
        smooth = [layer(each) for layer, each in zip(self.smooth, levels, strict=False)] + [levels[-1]]
        return self.classify(self.merge(torch.cat([resized(each, levels[0].shape[-2:]) for each in smooth], dim=1)))


class FcnHead(nn.Sequential):
    """A convolution and a class for each cell: the auxiliary head.

    Args:
        channels: of the map.
        width: inside.
        classes: of the result.
        dropout: of whole channels before the last layer.
    """

    def __init__(self, channels: int, classes: int, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__(ConvNormRelu(channels, width, 3), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1))
        nn.init.normal_(self[2].weight, std=0.01)  # pyright: ignore[reportArgumentType]


class Segmenter(nn.Module):
    """Backbone, UPerHead, and an auxiliary head on the third map for training.

    Args:
        backbone: four maps of an image.
        classes: of the result.
        width: of the head.
    """

    def __init__(self, backbone: VitFeatures | SwinFeatures, classes: int, width: int) -> None:
        super().__init__()
        self.backbone, self.classes = backbone, classes
        self.head, self.auxiliary = UPerHead(backbone.channels, width, classes), FcnHead(backbone.channels[2], classes)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, height, width] -> logits [batch, classes, height, width]."""
        return resized(self.head(self.backbone(images)), images.shape[-2:])

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both heads, for the loss."""
        maps = self.backbone(images)
        return resized(self.head(maps), images.shape[-2:]), resized(self.auxiliary(maps[2]), images.shape[-2:])


class SegmentationLoss(nn.Module):
    """The forward pass of a batch in training as a module, for what wraps modules.

    Args:
        model: see `Segmenter`.
        auxiliary: weight of the auxiliary head's loss.
    """

    def __init__(self, model: Segmenter, auxiliary: float = 0.4) -> None:
        super().__init__()
        self.model, self.auxiliary = model, auxiliary

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy over the labelled pixels of images [batch, 3, height, width], labels [batch, height,
        width]; 0 where no pixel has a label."""
        first, second = (pixel_cross_entropy(logits, labels) for logits in self.model.both(images))
        return first + self.auxiliary * second


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over pixels that are not `IGNORED`, of logits [batch, classes, height, width]."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp_min(1)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin that cover `length`, `stride` apart; the last one ends with the image."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(number * stride, length - window), 0) for number in range(count)]


def sliding_logits(model: nn.Module, image: Tensor, window: int, stride: int) -> Tensor:
    """Mean logits of all windows that cover a pixel.

    Args:
        model: [1, 3, window, window] -> [1, classes, window, window].
        image: [1, 3, height, width]; smaller ones are filled up with zeros for the model.
        window: pixels a side.
        stride: from one window to the next.

    Returns:
        [1, classes, height, width].
    """
    height, width = image.shape[-2:]
    image = F.pad(image, (0, max(window - width, 0), 0, max(window - height, 0)))
    starts = (window_starts(length, window, stride) for length in image.shape[-2:])
    places = [(..., slice(top, top + window), slice(left, left + window)) for top, left in itertools.product(*starts)]
    parts = [model(image[place]).float() for place in places]
    total, count = parts[0].new_zeros(1, parts[0].shape[1], *image.shape[-2:]), parts[0].new_zeros(image.shape[-2:])
    for place, logits in zip(places, parts, strict=True):
        total[place] += logits
        count[place] += 1
    return (total / count)[..., :height, :width]


class Confusion:
    """Counts of pixels by true and predicted class.

    Args:
        classes: how many.
    """

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.long)

    def add(self, predicted: Tensor, labels: Tensor) -> None:
        """Count the pixels of integer maps of one shape; those labelled `IGNORED` are left out."""
        valid = labels != IGNORED
        classes = len(self.counts)
        pairs = labels[valid].long() * classes + predicted[valid].long()
        self.counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes).cpu()

    def intersection_over_union(self) -> Tensor:
        """Of each class that occurs or was predicted, float64 [those]; their mean is the mIoU."""
        both = self.counts.diag()
        union = self.counts.sum(0) + self.counts.sum(1) - both
        return both[union > 0].double() / union[union > 0]
