"""Quantisation in the loop: latent weights in full precision, stored values in the forward pass (Section 3.2).

With an offset m and a scale s of the latent matrix W (mean and standard deviation in the paper):

    W' = (W - m) / (s + eps),   Q = nearest level to W',   B = W' + stopgrad(Q - W'),   W_eff = B s + m

so that the value is Q s + m and the gradient that of W' s + m, with Q - W' constant. The other quantisers differ in
levels, offset and scale alone, and are stored alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from bi_adapter.codebooks import codebook
from bi_adapter.packing import StoredMatrix, pack, stored_floats

QuantiserName = Literal[
    "median", "stochastic", "lloyd-max", "equal-probability", "uniform", "learned-step", "sign", "nf4"
]


class Statistics(NamedTuple):
    """Offset and scale of a matrix [rows, columns]: [1, 1] each, or [rows, 1] for statistics a row."""

    offset: Tensor
    scale: Tensor


def mean_and_std(weight: Tensor, bits: int, per_row: bool) -> Statistics:  # noqa: ARG001
    """Mean and unbiased standard deviation of a matrix or of each row."""
    if per_row:
        return Statistics(weight.mean(dim=1, keepdim=True), weight.std(dim=1, keepdim=True))
    # Without dimensions, which is several times faster on a CPU
    return Statistics(weight.mean().view(1, 1), weight.std().view(1, 1))


def min_and_step(weight: Tensor, bits: int, per_row: bool) -> Statistics:
    """The middle between smallest and largest weight, and the step of 2^bits levels from one to the other."""
    low, high = weight.amin(dim=_dims(per_row), keepdim=True), weight.amax(dim=_dims(per_row), keepdim=True)
    return Statistics((low + high) / 2, (high - low) / (2**bits - 1))


def mean_magnitude(weight: Tensor, bits: int, per_row: bool) -> Statistics:  # noqa: ARG001
    """No offset and the mean absolute value, the best scale of signs (XNOR-Net)."""
    scale = weight.abs().mean(dim=_dims(per_row), keepdim=True)
    return Statistics(torch.zeros_like(scale), scale)


def largest_magnitude(weight: Tensor, bits: int, per_row: bool) -> Statistics:  # noqa: ARG001
    """No offset and the largest absolute value."""
    scale = weight.abs().amax(dim=_dims(per_row), keepdim=True)
    return Statistics(torch.zeros_like(scale), scale)


@dataclass(frozen=True)
class Quantiser:
    """One way to quantise a matrix.

    Attributes:
        codebook: name of the levels.
        statistics: (weight, bits, per_row) -> offset and scale.
        epsilon: added to the scale in the division only, as published.
        stochastic: in training, draw one of the two neighbouring levels so that Q is W' on average.
        learned_step: the scale is a parameter of its own and levels are clipped (LSQ).
    """

    codebook: str
    statistics: Callable[[Tensor, int, bool], Statistics]
    epsilon: float = 1e-12
    stochastic: bool = False
    learned_step: bool = False


PUBLISHED_EPSILON = 1e-5
QUANTISERS: Mapping[str, Quantiser] = {
    "median": Quantiser("converged", mean_and_std, PUBLISHED_EPSILON),
    "stochastic": Quantiser("converged", mean_and_std, PUBLISHED_EPSILON, stochastic=True),
    "lloyd-max": Quantiser("lloyd-max", mean_and_std, PUBLISHED_EPSILON),
    "equal-probability": Quantiser("equal-probability", mean_and_std, PUBLISHED_EPSILON),
    "uniform": Quantiser("uniform", min_and_step),
    "learned-step": Quantiser("uniform", mean_magnitude, learned_step=True),
    "sign": Quantiser("sign", mean_magnitude),
    "nf4": Quantiser("nf4", largest_magnitude),
}
assert set(QUANTISERS) == set(get_args(QuantiserName))


def codebook_name(quantiser: str, published: str = "converged") -> str:
    """The levels a quantiser uses; `published` says which of the paper's two, `converged` or `as-published`.

    Raises:
        ValueError: an unknown name.
    """
    if quantiser not in QUANTISERS:
        raise ValueError(f"quantiser: expected one of {sorted(QUANTISERS)}, got {quantiser!r}")
    if published not in ("converged", "as-published"):
        raise ValueError(f"codebook: expected 'converged' or 'as-published', got {published!r}")
    own = QUANTISERS[quantiser].codebook
    return published if own == "converged" else own


class _FakeQuantise(torch.autograd.Function):
    """W_eff of a latent matrix with its exact gradient (module docstring), in memory of the matrix's own size.

    With rho = s / (s + eps) and g the gradient of W_eff: rho g for W, (1 - rho) sum(g) for m, sum(g (Q - rho W')) for
    s. The caller's m and s are functions of W, which completes the published gradient. Where |W'| > limit the value is
    clipped: nothing for W, and Q g for s.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, offset: Tensor, scale: Tensor, levels: Tensor, thresholds: Tensor,
        noise: Tensor | None, epsilon: float, limit: float,
    ) -> Tensor:  # fmt: skip
        standard = (weight - offset) / (scale + epsilon)
        index = level_index(standard, thresholds) if noise is None else _drawn_index(standard, levels, noise)
        ctx.save_for_backward(weight, offset, scale, levels, index)
        ctx.epsilon, ctx.limit = epsilon, limit
        return _level_values(index, levels) * scale + offset

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, offset, scale, levels, index = ctx.saved_tensors
        ratio = scale / (scale + ctx.epsilon)
        moved = (weight - offset) / (scale + ctx.epsilon)
        straight = grad * ratio
        if ctx.limit != math.inf:
            inside = moved.abs() <= ctx.limit
            straight, moved = straight * inside, moved * inside
        grad_offset = grad_scale = None
        if ctx.needs_input_grad[1]:
            grad_offset = (grad - straight).sum_to_size(offset.shape)
        if ctx.needs_input_grad[2]:
            grad_scale = (grad * (_level_values(index, levels) - ratio * moved)).sum_to_size(scale.shape)
        return straight, grad_offset, grad_scale, None, None, None, None, None


def _drawn_index(standard: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
    """Stochastic rounding: the upper neighbour with the probability that makes the mean right; noise is in [0, 1)."""
    below = (torch.bucketize(standard, levels, right=True, out_int32=True) - 1).clamp(0, len(levels) - 2)
    low, high = levels[below], levels[below + 1]
    return (below + (noise < (standard - low) / (high - low)).int()).to(torch.uint8)


def level_index(standard: Tensor, thresholds: Tensor) -> Tensor:
    """#{k : t_k < z}, uint8 of the shape of z."""
    if len(thresholds) == 1:
        return (standard > thresholds).to(torch.uint8)
    return torch.bucketize(standard, thresholds, out_int32=True).to(torch.uint8)


def _level_values(index: Tensor, levels: Tensor) -> Tensor:
    """c[index]; the two levels of one bit are opposite, so that the arithmetic is exact."""
    if len(levels) == 2:
        return index.to(levels.dtype) * (levels[1] - levels[0]) + levels[0]
    return levels[index.int()]


def fake_quantize(
    weight: Tensor,
    bits: int,
    *,
    quantiser: str = "median",
    codebook_kind: str = "converged",
    per_row: bool = False,
    statistic_gradients: bool = True,
    step: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """The effective weight of a latent matrix, with the straight-through gradient (Section 3.2).

    Args:
        weight: [rows, columns], float32 or float64 (half precision is computed in float32).
        bits: 1 to 8 for a codebook; 16 rounds to float16 with the gradient of the identity; 32 returns `weight`.
        quantiser: one of `QUANTISERS`; `median` is the paper's.
        codebook_kind: for the paper's levels, `converged` or `as-published`.
        per_row: statistics of each row instead of the matrix.
        statistic_gradients: let the gradient through offset and scale, as published.
        step: [1, 1] or [rows, 1], the learned scale of `learned-step`; else None.
        noise: like `weight`, uniform in [0, 1), for `stochastic`; without it the nearest level is taken.

    Returns:
        [rows, columns] with at most 2^bits values (a row, for `per_row`).

    Raises:
        ValueError: unknown names, bits out of range, a matrix with too few entries for a standard deviation.
    """
    if bits == 32:
        return weight
    if bits == 16:
        return weight + (weight.half().to(weight.dtype) - weight).detach()
    book = codebook(codebook_name(quantiser, codebook_kind), bits)
    how = QUANTISERS[quantiser]
    check_matrix(weight.shape, per_row)
    full = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
    offset, scale = matrix_statistics(full, bits, how, per_row, step)
    if not statistic_gradients:
        offset, scale = offset.detach(), scale.detach() if step is None else scale
    levels, thresholds = (values.to(full) for values in book)
    limit = 2 ** (bits - 1) if how.learned_step else math.inf
    result = _FakeQuantise.apply(full, offset, scale, levels, thresholds, noise, how.epsilon, limit)
    return result.to(weight.dtype)


def matrix_statistics(weight: Tensor, bits: int, how: Quantiser, per_row: bool, step: Tensor | None) -> Statistics:
    """Offset and scale of a matrix, or the learned step where there is one.

    Raises:
        ValueError: a learned step is missing or not wanted.
    """
    if how.learned_step != (step is not None):
        raise ValueError(f"step: {'missing' if how.learned_step else 'only the quantiser learned-step has one'}")
    if step is None:
        return how.statistics(weight, bits, per_row)
    # LSQ damps the step's gradient by sqrt(n 2^(bits - 1)) so that it moves about as fast as the weights
    damping = 1 / math.sqrt(weight.numel() / step.numel() * 2 ** (bits - 1))
    damped = step * damping + (step * (1 - damping)).detach()
    return Statistics(torch.zeros_like(step), damped)


def initial_step(weight: Tensor, bits: int, per_row: bool) -> Tensor:
    """Where a learned step starts: 2 mean|W| / sqrt(2^(bits - 1)), [1, 1] or [rows, 1] (LSQ)."""
    return 2 * mean_magnitude(weight.detach(), bits, per_row).scale / math.sqrt(2 ** (bits - 1))


def encode(
    weight: Tensor,
    bits: int,
    *,
    quantiser: str = "median",
    codebook_kind: str = "converged",
    per_row: bool = False,
    step: Tensor | None = None,
) -> StoredMatrix:
    """A latent matrix as it is stored: index of the nearest level, offset and scale; arguments as of `fake_quantize`.

    Raises:
        ValueError: as `fake_quantize`; or bits that do not divide 8 and are neither 16 nor 32.
    """
    weight = weight.detach()
    if bits in (16, 32):
        return stored_floats(weight, bits)
    name = codebook_name(quantiser, codebook_kind)
    index, (offset, scale) = nearest_index(
        weight, bits, quantiser=quantiser, codebook_kind=codebook_kind, per_row=per_row, step=step
    )
    stats = torch.cat([offset, scale], dim=1).float()
    return StoredMatrix(pack(index, bits), stats, (weight.shape[0], weight.shape[1]), bits, name)


@torch.no_grad()
def nearest_index(
    weight: Tensor,
    bits: int,
    *,
    quantiser: str = "median",
    codebook_kind: str = "converged",
    per_row: bool = False,
    step: Tensor | None = None,
) -> tuple[Tensor, Statistics]:
    """Index uint8 [rows, columns] of the level nearest to each standardised weight, with offset and scale.

    Raises:
        ValueError: as `fake_quantize`.
    """
    book = codebook(codebook_name(quantiser, codebook_kind), bits)
    check_matrix(weight.shape, per_row)
    full = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
    how = QUANTISERS[quantiser]
    offset, scale = matrix_statistics(full, bits, how, per_row, step)
    index = level_index((full - offset) / (scale + how.epsilon), book.thresholds.to(full))
    return index, Statistics(offset, scale)


def check_matrix(shape: torch.Size | tuple[int, ...], per_row: bool) -> None:
    """A standard deviation needs two entries.

    Raises:
        ValueError: there are fewer, or it is no matrix.
    """
    if len(shape) != 2:
        raise ValueError(f"weight: expected a matrix [rows, columns], got shape {list(shape)}")
    if (shape[1] if per_row else shape[0] * shape[1]) < 2:
        part = "rows" if per_row else "the matrix"
        raise ValueError(f"weight: {part} of shape {list(shape)} has one entry, without standard deviation")


def _dims(per_row: bool) -> tuple[int, ...]:
    return (1,) if per_row else (0, 1)
