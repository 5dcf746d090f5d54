"""Levels and thresholds for standard normal numbers, once per number of bits and without data (Section 3.2).

A codebook has K = 2^bits levels c_1 < ... < c_K and K - 1 thresholds t_k. A number z is given the index #{k : t_k < z},
so one that lies on a threshold goes to the lower level. All tables are worked out in float64 and kept in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

MAX_BITS = 8
PUBLISHED_ROUNDS = 500
_INFINITY = torch.tensor([math.inf], dtype=torch.float64)


class Codebook(NamedTuple):
    """Levels float32 [K], ascending, and thresholds float32 [K - 1] between them."""

    levels: Tensor
    thresholds: Tensor


def cell_medians(thresholds: Tensor) -> Tensor:
    """The level of least absolute error in each cell: c_k = ndtri((ndtr(t_{k-1}) + ndtr(t_k)) / 2).

    Args:
        thresholds: float64 [K - 1], ascending.

    Returns:
        float64 [K].
    """
    below, above = _cell_bounds(thresholds)
    return torch.special.ndtri((torch.special.ndtr(below) + torch.special.ndtr(above)) / 2)


def midpoints(levels: Tensor) -> Tensor:
    """The thresholds [K - 1] that give every number its nearest level [K]: t_k = (c_k + c_{k+1}) / 2."""
    return (levels[:-1] + levels[1:]) / 2


def published_codebook(bits: int) -> Codebook:
    """As published: exactly 500 rounds (thresholds, then levels) from all levels zero.

    Up to 4 bits that is converged to 5e-8. Change spreads by one level a round, so at 8 bits it is far from converged:
    98 of the 256 levels are zero to 1e-6. The thresholds are those of the last round, before its level update.
    """
    levels = torch.zeros(2 ** _checked(bits), dtype=torch.float64)
    thresholds = midpoints(levels)
    for _ in range(PUBLISHED_ROUNDS):
        thresholds = midpoints(levels)
        levels = cell_medians(thresholds)
    return Codebook(levels.float(), thresholds.float())


def converged_codebook(bits: int) -> Codebook:
    """The fixed point of the same two steps, which minimises E|z - Q(z)|, by Newton's method to 1e-12."""

    def equations(levels: Tensor, thresholds: Tensor) -> _Equations:
        below, above = _cell_bounds(thresholds)
        value = 2 * torch.special.ndtr(levels) - torch.special.ndtr(below) - torch.special.ndtr(above)
        slope = -_density(thresholds) / 2
        return _Equations(value, 2 * _density(levels), slope, slope)

    return _solved(equations, bits, stretch=math.sqrt(2))


def lloyd_max_codebook(bits: int) -> Codebook:
    """Lloyd and Max's quantiser, which minimises E(z - Q(z))^2: every level is the mean of its cell."""

    def equations(levels: Tensor, thresholds: Tensor) -> _Equations:
        below, above = _cell_bounds(thresholds)
        mass, half = _mass(below, above), _density(thresholds) / 2
        value = levels * mass - _first_moment(below, above)
        return _Equations(value, mass, (levels[:-1] - thresholds) * half, (thresholds - levels[1:]) * half)

    return _solved(equations, bits, stretch=math.sqrt(3))


def equal_probability_codebook(bits: int) -> Codebook:
    """The medians of K equally probable cells, c_k = ndtri((k - 1/2) / K); each number goes to the nearest."""
    size = 2 ** _checked(bits)
    levels = torch.special.ndtri((torch.arange(size, dtype=torch.float64) + 0.5) / size)
    return _kept(levels, midpoints(levels))


def nf4_codebook(bits: int) -> Codebook:
    """The 4-bit NormalFloat of QLoRA, for weights divided by their largest absolute value; thresholds at midpoints.

    Quantiles of the normal distribution in [-1, 1] with an exact zero: eight steps up, seven steps down.

    Raises:
        ValueError: `bits` is not 4.
    """
    if bits != 4:
        raise ValueError(f"bits: the quantiser nf4 exists at 4 bits only, got {bits}")
    ends = torch.tensor([0.9677083, 0.5], dtype=torch.float64)
    up = torch.special.ndtri(torch.linspace(ends[0], ends[1], 9, dtype=torch.float64)[:-1])
    down = -torch.special.ndtri(torch.linspace(ends[0], ends[1], 8, dtype=torch.float64)[:-1])
    levels = torch.cat([down, torch.zeros(1, dtype=torch.float64), up.flip(0)])
    return _kept(levels / levels.max(), midpoints(levels / levels.max()))


def uniform_codebook(bits: int) -> Codebook:
    """Levels one apart and symmetric about zero: k - (K + 1) / 2."""
    size = 2 ** _checked(bits)
    levels = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return _kept(levels, midpoints(levels))


def sign_codebook(bits: int) -> Codebook:
    """Levels -1 and +1.

    Raises:
        ValueError: `bits` is not 1.
    """
    if bits != 1:
        raise ValueError(f"bits: the quantiser sign exists at 1 bit only, got {bits}")
    return Codebook(torch.tensor([-1.0, 1.0]), torch.tensor([0.0]))


CODEBOOKS: Mapping[str, Callable[[int], Codebook]] = {
    "converged": converged_codebook,
    "as-published": published_codebook,
    "lloyd-max": lloyd_max_codebook,
    "equal-probability": equal_probability_codebook,
    "nf4": nf4_codebook,
    "uniform": uniform_codebook,
    "sign": sign_codebook,
}


_WORKED_OUT: dict[tuple[str, int], Codebook] = {}


def codebook(name: str, bits: int) -> Codebook:
    """A named codebook, worked out once; not to be changed by the caller.

    Layers ask for theirs when they are made, so that a compiled forward pass only looks it up.

    Raises:
        ValueError: an unknown name, or bits it does not exist for.
    """
    if (name, bits) not in _WORKED_OUT:
        if name not in CODEBOOKS:
            raise ValueError(f"codebook: expected one of {sorted(CODEBOOKS)}, got {name!r}")
        with torch.inference_mode(False), torch.no_grad():
            _WORKED_OUT[name, bits] = CODEBOOKS[name](_checked(bits))
    return _WORKED_OUT[name, bits]


def expected_absolute_error(book: Codebook) -> float:
    """E|z - Q(z)| for z ~ N(0, 1), in closed form."""
    levels, below, above = _cells(book)
    # The part of each cell below its level counts with the other sign
    middle = levels.clamp(below, above)
    left = levels * _mass(below, middle) - _first_moment(below, middle)
    right = _first_moment(middle, above) - levels * _mass(middle, above)
    return float((left + right).sum())


def expected_squared_error(book: Codebook) -> float:
    """E(z - Q(z))^2 for z ~ N(0, 1), in closed form."""
    levels, below, above = _cells(book)
    return float(1 + (levels.square() * _mass(below, above) - 2 * levels * _first_moment(below, above)).sum())


class _Equations(NamedTuple):
    """One equation a level: its value [K], the slope in its own level with thresholds fixed [K], and the slopes in the
    threshold above and below it, halved [K - 1] each."""

    value: Tensor
    own: Tensor
    above: Tensor
    below: Tensor


def _solved(equations: Callable[[Tensor, Tensor], _Equations], bits: int, stretch: float) -> Codebook:
    """Newton's method from the optimal point density for many levels, N(0, stretch^2)."""
    size = 2 ** _checked(bits)
    levels = stretch * torch.special.ndtri((torch.arange(size, dtype=torch.float64) + 0.5) / size)
    for _ in range(100):
        value, own, above, below = equations(levels, midpoints(levels))
        diagonal = own + torch.nn.functional.pad(above, (0, 1)) + torch.nn.functional.pad(below, (1, 0))
        step = torch.linalg.solve(diagonal.diag() + above.diag(1) + below.diag(-1), value)
        # Halved until the order of the levels is kept
        while bool((torch.diff(levels - step) <= 0).any()):
            step = step / 2
        levels = levels - step
        levels = (levels - levels.flip(0)) / 2
        if float(step.abs().max()) < 1e-12:
            return _kept(levels, midpoints(levels))
    raise ArithmeticError(f"the codebook of {bits} bits did not converge")


def _kept(levels: Tensor, thresholds: Tensor) -> Codebook:
    return Codebook(levels.float(), thresholds.float())


def _checked(bits: int) -> int:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits: a codebook has 1 to {MAX_BITS} bits, got {bits}")
    return bits


def _cell_bounds(thresholds: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([-_INFINITY, thresholds]), torch.cat([thresholds, _INFINITY])


def _cells(book: Codebook) -> tuple[Tensor, Tensor, Tensor]:
    return book.levels.double(), *_cell_bounds(book.thresholds.double())


def _density(z: Tensor) -> Tensor:
    return torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


def _mass(low: Tensor, high: Tensor) -> Tensor:
    return torch.special.ndtr(high) - torch.special.ndtr(low)


def _first_moment(low: Tensor, high: Tensor) -> Tensor:
    """The integral of z phi(z) from low to high."""
    return _density(low) - _density(high)
