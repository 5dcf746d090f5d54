"""Which patches are hidden (sections 2, 3.1 and 5.1); 1 or True is hidden everywhere."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class RandomMask(NamedTuple):
    """One mask an image.

    Attributes:
        keep: int64 [batch, visible], tokens that are visible, in the order in which the encoder has them.
        hidden: int64 [batch, hidden], the other tokens, in the order of their noise.
        restore: int64 [batch, tokens], where each token is in the list of visible and then hidden ones.
        mask: [batch, tokens], 1 for hidden ones.
    """

    keep: Tensor
    hidden: Tensor
    restore: Tensor
    mask: Tensor


def visible_count(tokens: int, ratio: float) -> int:
    """floor(tokens (1 - ratio)).

    Raises:
        ValueError: a ratio outside [0, 1), or one that leaves no token visible.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio: expected at least 0 and below 1, got {ratio}")
    count = int(tokens * (1 - ratio))
    if count < 1:
        raise ValueError(f"ratio: {ratio} of {tokens} tokens leaves none visible")
    return count


def mask_from_noise(noise: Tensor, ratio: float) -> RandomMask:
    """The tokens of smallest noise are visible; noise [batch, tokens] in [0, 1)."""
    count = visible_count(noise.shape[1], ratio)
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    return RandomMask(order[:, :count], order[:, count:], restore, (restore >= count).to(noise.dtype))


def rescale_mask(mask: Tensor, scale: float) -> Tensor:
    """The mask on a grid `scale` times as fine: copies, or means of blocks where it is coarser.

    Args:
        mask: [batch, grid^2], raster order.
        scale: a whole number, or one over it.

    Returns:
        [batch, (grid scale)^2].
    """
    grid = round(mask.shape[1] ** 0.5)
    maps = mask.view(-1, 1, grid, grid)
    if scale >= 1:
        maps = maps.repeat_interleave(round(scale), dim=2).repeat_interleave(round(scale), dim=3)
    else:
        maps = F.avg_pool2d(maps, round(1 / scale))
    return maps.flatten(1)


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """sum(mask * error) / sum(mask) over the batch, both [batch, cells] (section 2)."""
    return (error * mask).sum() / mask.sum()


def unit_mask(permutation: Tensor, ratio: float) -> Tensor:
    """Swin's mask of units, shared by a batch: hidden where a random permutation is at most floor(ratio units).

    That hides one unit more than the ratio says, as published: 37 of 49 at 0.75.
    """
    return permutation <= math.floor(ratio * len(permutation))


def units_to_cells(mask: Tensor, side: int) -> Tensor:
    """A mask of units [units^2] on `side` x `side` cells a unit, bool [(units side)^2] in raster order."""
    units = round(len(mask) ** 0.5)
    return mask.view(units, units).repeat_interleave(side, dim=0).repeat_interleave(side, dim=1).flatten()


def random_permutation(units: int, generator: torch.Generator | None = None) -> Tensor:
    """Of 0..units-1, from a generator on the CPU."""
    return torch.randperm(units, generator=generator)
