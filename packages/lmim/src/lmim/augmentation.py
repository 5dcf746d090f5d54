"""Random resized crops and flips of small images, each image its own, batched on the device (section 6).

Everything random depends on a seed and the number of the batch alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sextet.data.images import to_float

ATTEMPTS = 10
"""Boxes drawn for an image before it falls back to a central one, as in torchvision."""


class EpochOrder:
    """Rows of each batch: every epoch a new permutation, its remainder dropped.

    Args:
        images: how many there are.
        batch: rows a batch.
        seed: of the permutations.

    Raises:
        ValueError: fewer images than a batch.
    """

    def __init__(self, images: int, batch: int, seed: int) -> None:
        if not 1 <= batch <= images:
            raise ValueError(f"batch: expected 1 to {images}, the number of images, got {batch}")
        self.images, self.batch, self.seed = images, batch, seed
        self.per_epoch = images // batch
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __call__(self, number: int) -> Tensor:
        """int64 [batch], rows of batch `number` of the run."""
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(self.images, generator=generator)
        return self._order[place * self.batch : (place + 1) * self.batch]


class Crops:
    """Batches of augmented images from a packed array.

    Args:
        images: uint8 [n, height, width, channels], on any device.
        batch: images a batch.
        seed: of order, crops and flips.
        mean, std: of the channels, on the scale 0..1.
        scale: area of a crop, as a share of the image's.
        size: pixels a side of a crop; the images' by default.
    """

    def __init__(
        self,
        images: Tensor,
        batch: int,
        seed: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        scale: tuple[float, float] = (0.2, 1.0),
        size: int | None = None,
    ) -> None:
        self.images, self.mean, self.std, self.scale = images, tuple(mean), tuple(std), scale
        self.order, self.seed, self.size = EpochOrder(len(images), batch, seed), seed, size or images.shape[1]

    def __call__(self, number: int) -> Tensor:
        """float32 [batch, channels, size, size] of batch `number`, normalised."""
        pixels = to_float(self.images[self.order(number).to(self.images.device)], self.mean, self.std)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number + 500_009)
        draws = torch.rand(len(pixels), 2 * ATTEMPTS + 3, generator=generator).to(pixels)
        boxes = crop_boxes(draws[:, :-1], pixels.shape[2] / pixels.shape[3], self.scale)
        return resized_crops(pixels, boxes, draws[:, -1] < 0.5, self.size)


def crop_boxes(
    draws: Tensor, aspect: float, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Tensor:
    """Boxes of random area and shape, [n, 4]: centre row, centre column, height, width as shares of the image.

    An attempt whose box does not fit into the image is followed by another; after ten, the largest central box of an
    allowed shape.

    Args:
        draws: [n, 22] in [0, 1): ten areas, ten shapes, a row and a column.
        aspect: height / width of the images.
        scale: smallest and largest area.
        ratio: smallest and largest width / height, drawn uniformly on a logarithmic scale.
    """
    area = scale[0] + (scale[1] - scale[0]) * draws[:, :ATTEMPTS]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = (low + (high - low) * draws[:, ATTEMPTS : 2 * ATTEMPTS]).exp() * aspect
    height, width = (area / shape).sqrt(), (area * shape).sqrt()
    fits = (height <= 1) & (width <= 1)
    first = fits.long().argmax(dim=1, keepdim=True)
    central = min(max(1.0, ratio[0] * aspect), ratio[1] * aspect)  # width / height, both as shares
    chosen = fits.any(dim=1)
    height = torch.where(chosen, height.gather(1, first)[:, 0], min(1.0, 1 / central))
    width = torch.where(chosen, width.gather(1, first)[:, 0], min(1.0, central))
    at = torch.where(chosen[:, None], draws[:, 2 * ATTEMPTS :], 0.5)
    centre = torch.stack([height, width], dim=1) / 2 + at * (1 - torch.stack([height, width], dim=1))
    return torch.cat([centre, height[:, None], width[:, None]], dim=1)


def resized_crops(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Each image's own box, resized bicubically (not smoothed where it shrinks) and mirrored where asked.

    Args:
        images: [n, channels, height, width].
        boxes: see `crop_boxes`.
        flips: bool [n], left to right.
        size: pixels a side of the result.

    Returns:
        [n, channels, size, size].
    """
    centre, extent = 2 * boxes[:, :2] - 1, boxes[:, 2:]
    mirror = torch.where(flips, -1.0, 1.0).to(extent)
    nothing = torch.zeros_like(mirror)
    across = torch.stack([extent[:, 1] * mirror, nothing, centre[:, 1]], dim=1)
    down = torch.stack([nothing, extent[:, 0], centre[:, 0]], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), [*images.shape[:2], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
