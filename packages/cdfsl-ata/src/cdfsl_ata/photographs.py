"""Stored photographs become pixels on the device: the published preparation and augmentation (section 10), batched.

Augmentation works in floating point on images in [0, 1] and is decided by (seed, step) alone; the published one rounds
to 8 bits after each change and crops from the original files instead of stored squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cdfsl_ata.images import Ids, generator_of
from cdfsl_ata.transforms import MEAN, STD

LUMA = (0.299, 0.587, 0.114)
ATTEMPTS = 10


@dataclass(frozen=True)
class AugmentationConfig:
    """Random crops, colours and flips of training images; the defaults are the published ones.

    Attributes:
        area: smallest share of the image that a crop covers.
        aspect: a crop's width is at most so many times its height, and the other way round.
        jitter: brightness, contrast and saturation change by factors in 1 - jitter .. 1 + jitter.
        flip: probability of a left-right flip.
    """

    area: float = 0.08
    aspect: float = 4 / 3
    jitter: float = 0.4
    flip: float = 0.5

    def __call__(self, images: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Augmented images [k, 3, size, size] of images [k, 3, h, w], both in [0, 1]; draws on the CPU."""
        count, _, height, width = images.shape
        boxes = crop_boxes(count, height, width, self.area, self.aspect, generator)
        factors = 1 + self.jitter * (2 * torch.rand(count, 3, generator=generator) - 1)
        flips = torch.rand(count, generator=generator) < self.flip
        crops = jitter(resized_crops(images, boxes, size), factors.to(images.device))
        return torch.where(flips.to(images.device)[:, None, None, None], crops.flip(3), crops)


def crop_boxes(count: int, height: int, width: int, area: float, aspect: float, generator: torch.Generator) -> Tensor:
    """Boxes int64 [count, 4] (top, left, height, width) as `torchvision.transforms.RandomResizedCrop` draws them.

    Area uniform in area .. 1 of the image, logarithm of the aspect uniform; of ten attempts the first that fits, else
    the largest centred box of allowed aspect.
    """
    draws = torch.rand(4, count, ATTEMPTS, generator=generator, dtype=torch.float64)
    surface = height * width * (area + (1 - area) * draws[0])
    ratio = torch.exp((2 * draws[1] - 1) * math.log(aspect))
    # [count, ATTEMPTS]:
    wide, high = (surface * ratio).sqrt().round().long(), (surface / ratio).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    first = fits.long().argmax(dim=1, keepdim=True)
    wide, high = wide.gather(1, first)[:, 0], high.gather(1, first)[:, 0]
    found = fits.any(dim=1)
    wide = torch.where(found, wide, min(width, round(height * aspect)))
    high = torch.where(found, high, min(height, round(width * aspect)))
    place = draws[2:].gather(2, first.expand(2, -1, -1))[..., 0]
    top = torch.where(found, (place[0] * (height - high + 1)).long(), (height - high) // 2)
    left = torch.where(found, (place[1] * (width - wide + 1)).long(), (width - wide) // 2)
    return torch.stack([top, left, high, wide], dim=1)


def resized_crops(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Every image's own box, bilinear to `size` x `size`, without antialiasing.

    Args:
        images: [k, channels, h, w].
        boxes: [k, 4] (top, left, height, width) in pixels.
        size: of the result.

    Returns:
        [k, channels, size, size].
    """
    height, width = images.shape[2:]
    top, left, high, wide = boxes.to(images.device, images.dtype)[:, :, None].unbind(1)
    middles = torch.arange(size, device=images.device, dtype=images.dtype) + 0.5
    # Pixel coordinates of the samples, which do not leave the box: [k, size]
    rows = top + (middles * high / size - 0.5).clamp(min=torch.zeros_like(high), max=high - 1)
    columns = left + (middles * wide / size - 0.5).clamp(min=torch.zeros_like(wide), max=wide - 1)
    y, x = (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast, saturation, in this order, each an interpolation towards black, mean grey or grey.

    Args:
        images: [k, 3, h, w] in [0, 1].
        factors: [k, 3]; 1 changes nothing.
    """
    brightness, contrast, saturation = factors.to(images.dtype)[..., None, None, None].unbind(1)
    images = (brightness * images).clamp(0, 1)
    images = torch.lerp(grey(images).mean(dim=(2, 3), keepdim=True), images, contrast).clamp(0, 1)
    return torch.lerp(grey(images), images, saturation).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Luma [k, 1, h, w] of RGB images [k, 3, h, w]."""
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    return torch.einsum("kchw,c->khw", images, weights)[:, None]


def centred(images: Tensor, size: int, enlarge: float) -> Tensor:
    """[k, c, s, s] -> [k, c, size, size]: square images resized to int(size * enlarge), then their middle."""
    larger = int(size * enlarge)
    if images.shape[-1] != larger:
        images = F.interpolate(images, (larger, larger), mode="bilinear", antialias=True, align_corners=False)
    margin = round((larger - size) / 2)
    return images[..., margin : margin + size, margin : margin + size]


class StoredPhotographs:
    """A source of images (`cdfsl_ata.training.Source`) over a packed array, memory-mapped where it is large.

    Args:
        images: uint8 [n, side, side, 1 or 3].
        labels: [n] int64.
        size: of the pixels given.
        augmentation: of training images; None where there is none to be.
        enlarge: images that are not augmented are resized to so many times `size`, then cut out in the middle.
        seed: of the augmentation.
        device: of the pixels.

    Raises:
        ValueError: images of another type or shape, another number of labels, or `enlarge` below 1.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Ids,
        size: int,
        *,
        augmentation: AugmentationConfig | None = None,
        enlarge: float = 1.15,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"images: expected uint8 [n, side, side, 1 or 3], got {images.dtype} {images.shape}")
        if images.shape[1] != images.shape[2]:
            raise ValueError(f"images: expected squares, got {images.shape[1]} x {images.shape[2]}")
        if len(labels) != len(images):
            raise ValueError(f"labels: expected {len(images)}, one an image, got {len(labels)}")
        if enlarge < 1:
            raise ValueError(f"enlarge: expected at least 1, got {enlarge}")
        self.images, self.labels, self.size = images, np.asarray(labels, np.int64), size
        self.augmentation, self.enlarge, self.seed = augmentation, enlarge, seed
        self.device = device or torch.device("cpu")

    def pixels(self, ids: Ids, step: int | None = None) -> Tensor:
        """Normalised float32 [k, 3, size, size] on the device; augmented where `step` is given."""
        chosen: Any = self.images[ids]  # a copy, also of a memory map
        values = torch.from_numpy(np.ascontiguousarray(chosen)).to(self.device)
        values = values.permute(0, 3, 1, 2).float().div(255).expand(-1, 3, -1, -1)
        if step is None or self.augmentation is None:
            values = centred(values, self.size, self.enlarge)
        else:
            values = self.augmentation(values, self.size, generator_of(self.seed, step, 0))
        mean, std = (torch.tensor(value, device=self.device)[:, None, None] for value in (MEAN, STD))
        return (values - mean) / std
