"""What features are like, while and after they are learnt: monitors of collapse."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Spectrum(NamedTuple):
    """How many directions features use; all but one of them small means a collapse.

    Attributes:
        singular_values: of the centred rows, divided by sqrt(n - 1): standard deviations along the principal
            directions, largest first, [min(n, dim)].
        participation_ratio: (sum s^2)^2 / sum s^4, 1..dim.
        effective_rank: exp of the entropy of s / sum s, 1..dim (RankMe).
        dead: columns whose deviation is below 1e-5.
        norm: mean length of a row.
    """

    singular_values: Tensor
    participation_ratio: float
    effective_rank: float
    dead: int
    norm: float


def spectrum(h: Tensor) -> Spectrum:
    """Of representations h [n, dim], in float64.

    Raises:
        ValueError: fewer than two rows, or values that are not finite.
    """
    if h.ndim != 2 or len(h) < 2 or not bool(torch.isfinite(h).all()):
        raise ValueError(f"h: expected finite [n, dim] with n >= 2, got {list(h.shape)}")
    h = h.double()
    centred = h - h.mean(dim=0)
    values = torch.linalg.svdvals(centred) / math.sqrt(len(h) - 1)
    squares, shares = values.square(), values / values.sum().clamp(min=1e-300)
    return Spectrum(
        singular_values=values,
        participation_ratio=float(squares.sum().square() / squares.square().sum().clamp(min=1e-300)),
        effective_rank=float(torch.exp(-torch.xlogy(shares, shares).sum())),
        dead=int((centred.square().mean(0).sqrt() < 1e-5).sum()),
        norm=float(h.norm(dim=1).mean()),
    )


def alignment(one: Tensor, other: Tensor) -> float:
    """Mean squared distance of the two views' features [n, dim] on the unit sphere, 0..4 (Wang and Isola)."""
    return float((F.normalize(one, dim=1) - F.normalize(other, dim=1)).square().sum(dim=1).mean())


def uniformity(h: Tensor, scale: float = 2.0) -> float:
    """ln mean exp(-scale |h_a - h_b|^2) over pairs of rows on the unit sphere, at most 0 (Wang and Isola)."""
    distances = torch.pdist(F.normalize(h, dim=1)).square()
    return float(torch.logsumexp(-scale * distances, dim=0) - math.log(len(distances)))
