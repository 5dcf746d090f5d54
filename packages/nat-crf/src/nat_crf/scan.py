"""The forward recursion as a tree of k x k matrix products: O(log time) dependent steps, for devices without Triton.

Going up the tree joins neighbouring steps, going down hands each position its message. Forward, the products are of the
log semiring, (A B)(u, v) = logsumexp_w(A(u, w) + B(w, v)). Backward, the same tree runs over the backward conditionals
W_i, stochastic matrices, with ordinary products.

A log-semiring product is one ordinary product of exponentials as long as no column of transition scores spans more than
floating point can hold; beyond that a slower exact one takes its place. The scores are looked at once to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Product = Callable[[Tensor, Tensor], Tensor]
# Largest span of a column of transition scores at which products of exponentials lose nothing that counts
_SAFE_SPAN = {torch.float32: 60.0, torch.float64: 600.0}
# Entries of the largest intermediate of the exact product
_MOST_AT_ONCE = 2**26


class ScannedChain(torch.autograd.Function):
    """log Z `[batch]` from emissions `[batch, time, k]` and factors `[batch, time - 1, k, rank]` of the edge scores."""

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, left: Tensor, right: Tensor, lengths: Tensor) -> Tensor:  # noqa: D102
        blocks = left @ right.mT
        active = torch.arange(1, emissions.shape[1], device=lengths.device) < lengths[:, None]
        alphas = scanned_alphas(emissions, blocks, active)
        # One step from each message to the next, [batch, time - 1, u, v]: it yields the scales and the conditionals
        scores = blocks.add_(alphas[:, :-1, :, None])
        following = emissions[:, 1:] + scores.logsumexp(dim=2)
        largest = following.amax(dim=2)
        messages = torch.cat([alphas[:, :1], following - largest[..., None]], dim=1)
        last = messages.take_along_dim(lengths[:, None, None] - 1, dim=1)[:, 0]
        conditionals = scores.softmax(dim=2)
        _set_identity(conditionals, ~active, zero=0.0, one=1.0)
        ctx.save_for_backward(left, right, conditionals, last, active)
        scales = emissions[:, 0].amax(dim=1) + (largest * active).sum(dim=1)
        return scales + last.logsumexp(dim=1)

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the names)
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        left, right, conditionals, last, active = ctx.saved_tensors
        start = last.softmax(dim=1) * gradient[:, None]
        # g_n, g_{n-1}, ..., g_1 as row vectors: the chain is read backwards, its matrices transposed
        marginals = prefix_vectors(start, conditionals.mT.flip(1), torch.matmul).flip(1)
        edges = marginals[:, 1:] * active[..., None]
        left_gradient = conditionals @ (edges[..., None] * right)
        right_gradient = edges[..., None] * (conditionals.mT @ left)
        return torch.cat([marginals[:, :1], edges], dim=1), left_gradient, right_gradient, None


def scanned_alphas(emissions: Tensor, blocks: Tensor, active: Tensor) -> Tensor:
    """Forward log messages `[batch, time, k]`, the largest of each being 0.

    Args:
        emissions: `[batch, time, k]`.
        blocks: edge scores `[batch, time - 1, k, k]`.
        active: `[batch, time - 1]` bool, False for edges behind a chain's end.
    """
    span = (blocks.amax(dim=2) - blocks.amin(dim=2)).amax() if blocks.numel() else blocks.new_zeros(())
    product = log_product if bool(span <= _SAFE_SPAN[blocks.dtype]) else exact_log_product
    steps = blocks + emissions[:, 1:, None]
    _set_identity(steps, ~active, zero=-torch.inf, one=0.0)
    first = emissions[:, 0] - emissions[:, 0].amax(dim=1, keepdim=True)
    return prefix_vectors(first, steps, lambda a, b: _shifted(product(a, b)))


def prefix_vectors(start: Tensor, matrices: Tensor, product: Product) -> Tensor:
    """All v_i = v_{i-1} A_i, by a tree (a parallel prefix scan).

    Args:
        start: v_0 `[batch, k]`.
        matrices: A_1..A_n `[batch, n, k, k]`.
        product: an associative product of `[..., p, k]` and `[..., k, k]`.

    Returns:
        v_0..v_n `[batch, n + 1, k]`.
    """
    count = matrices.shape[1]
    if not count:
        return start[:, None]
    pairs = product(matrices[:, : count - 1 : 2], matrices[:, 1::2]) if count > 1 else matrices[:, :0]
    # v_0, v_2, v_4, ...
    even = prefix_vectors(start, pairs, product)
    odd = product(even[:, : (count + 1) // 2, None], matrices[:, ::2])[:, :, 0]
    result = torch.empty(*start.shape[:1], count + 1, *start.shape[1:], dtype=odd.dtype, device=odd.device)
    result[:, ::2], result[:, 1::2] = even, odd
    return result


def log_product(one: Tensor, other: Tensor) -> Tensor:
    """logsumexp_w(one(u, w) + other(w, v)) by one matrix product; `[..., p, k]` by `[..., k, k]`."""
    # -inf - -inf would be NaN
    least = torch.finfo(one.dtype).min
    row = one.amax(dim=-1, keepdim=True).clamp(min=least)
    column = other.amax(dim=-2, keepdim=True).clamp(min=least)
    return ((one - row).exp() @ (other - column).exp()).log() + row + column


def exact_log_product(one: Tensor, other: Tensor) -> Tensor:
    """As `log_product` for scores of any size, without a matrix product: some rows at a time."""
    chunk = max(1, _MOST_AT_ONCE // max(1, other.numel()))
    parts = [(part[..., None] + other[..., None, :, :]).logsumexp(dim=-2) for part in one.split(chunk, dim=-2)]
    return torch.cat(parts, dim=-2)


def _shifted(scores: Tensor) -> Tensor:
    return scores - scores.amax(dim=(-2, -1), keepdim=True)


def _set_identity(matrices: Tensor, where: Tensor, *, zero: float, one: float) -> None:
    """Make `matrices [batch, n, k, k]` the identity of a semiring where `where [batch, n]` says so, in place."""
    matrices.masked_fill_(where[..., None, None], zero)
    matrices.diagonal(dim1=-2, dim2=-1).masked_fill_(where[..., None], one)
