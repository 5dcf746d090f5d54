"""Images of which we know what views share: a digit on the left, a garment on the right (spec 13).

Two views of a sample show the same digit, changed a little, and two different garments. So the digit is shared
information, the garment of a view is not, and a task of its own asks for each: the setting of the paper's theorems, on
real images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from infocl.augmentation import Draws
from sextet.data import Arrays

SIDE = 16
"""Height of a composite and width of each half, in pixels."""

DRAWS = 5
"""Numbers a view: which garment, the digit's size, row, column, contrast."""

MOVES = 0.15
"""How far a digit is shifted (of its side) and scaled at most, either way."""

CONTRAST = (0.6, 1.4)
NOISE = 0.05


class Halves(NamedTuple):
    """Halves of composites: images float32 [n, 16, 16] in 0..1, and their classes, int64 [n]."""

    images: Tensor
    labels: Tensor


def halves(arrays: Arrays, split: str, count: int, *, start: int = 0, seed: int) -> Halves:
    """`count` digits or garments of a split (`train` or `test`) from number `start`, in an order that the seed decides.

    28 x 28 pixels get a margin of 2 and are averaged in squares of four.

    Raises:
        ValueError: the split has fewer.
    """
    order = np.random.default_rng(seed).permutation(len(arrays[f"{split}_labels"]))[start : start + count]
    if len(order) != count:
        raise ValueError(f"expected {start + count} {split} images, got {len(arrays[f'{split}_labels'])}")
    images = torch.from_numpy(arrays[f"{split}_images"][order]).float().view(count, 1, 28, 28) / 255
    pooled = F.avg_pool2d(F.pad(images, (2, 2, 2, 2)), 2)
    return Halves(pooled[:, 0], torch.from_numpy(arrays[f"{split}_labels"][order]))


def composites(digits: Halves, garments: Halves) -> Tensor:
    """[n, 1, 16, 32] in -1..1, pair by pair, without augmentation: what probes see.

    Raises:
        ValueError: different numbers of them.
    """
    if len(digits.labels) != len(garments.labels):
        raise ValueError(f"expected as many garments as digits, got {len(garments.labels)} and {len(digits.labels)}")
    return join(digits.images, garments.images)


def join(left: Tensor, right: Tensor) -> Tensor:
    """[n, 16, 16] twice, in 0..1 -> [n, 1, 16, 32] in -1..1."""
    return 2 * torch.cat([left, right], dim=2)[:, None] - 1


class CompositeViews:
    """Pairs of views for training: image i of an epoch is digit i; each view has a garment of its own.

    Args:
        digits, garments: the pools.
        seed: of everything random about a view, which depends on (seed, epoch, view, index) alone, but for the pixels'
            noise, which depends on the first index of the batch.
    """

    labels = None

    def __init__(self, digits: Halves, garments: Halves, *, seed: int) -> None:
        self.digits, self.garments, self.seed = digits, garments, seed
        self.draws = Draws(seed, len(digits.labels), DRAWS)

    def __len__(self) -> int:
        return len(self.digits.labels)

    def views(self, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Two views [len(rows), 1, 16, 32] of samples `rows` in an epoch."""
        return self._view(rows, epoch, 0), self._view(rows, epoch, 1)

    def _view(self, rows: Tensor, epoch: int, view: int) -> Tensor:
        draws = self.draws.rows(epoch, view, rows)
        chosen = (draws[:, 0] * len(self.garments.labels)).long()
        words = np.random.SeedSequence([self.seed, epoch, view, int(rows[0])]).generate_state(1, np.uint64)
        noise = torch.randn(len(rows), SIDE, SIDE, generator=torch.Generator().manual_seed(int(words[0] >> 1)))
        digits = changed(self.digits.images[rows], draws[:, 1:]) + NOISE * noise
        return join(digits, self.garments.images[chosen])


def changed(digits: Tensor, draws: Tensor) -> Tensor:
    """Digits [n, 16, 16] scaled, shifted and with another contrast, by draws [n, 4] in [0, 1)."""
    scale = 1 + MOVES * (2 * draws[:, 0] - 1)
    # In units of half a side, as `affine_grid` counts
    shift = 2 * MOVES * (2 * draws[:, 1:3] - 1)
    theta = torch.zeros(len(digits), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [len(digits), 1, SIDE, SIDE], align_corners=False)
    moved = F.grid_sample(digits[:, None], grid, align_corners=False)[:, 0]
    return moved * (CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * draws[:, 3, None, None])
