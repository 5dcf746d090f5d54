"""The recursion of `nat_crf.recursion` as one kernel a direction: a program walks one sentence from end to end.

The k x k tile of transition scores is built on chip from its factors, used and forgotten, so nothing of size
`[batch, time, k, k]` is ever written; the backward pass builds it again.
"""

# Kernels are compiled by Triton; its types are not those of the Python they are written in
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Least size of a tile that tensor cores take
_LEAST_TILE = 16


@triton.jit
def _tile(
    left_ptr: tl.tensor,
    right_ptr: tl.tensor,
    edge: tl.tensor,
    k: tl.tensor,
    rank: tl.tensor,
    K: tl.constexpr,
    R: tl.constexpr,
) -> tl.tuple:
    """Factors `[K, R]` of one edge, zero beyond k and rank, and their product `[K, K]`."""
    labels, dims = tl.arange(0, K), tl.arange(0, R)
    place = edge * k * rank + labels[:, None] * rank + dims[None, :]
    inside = (labels[:, None] < k) & (dims[None, :] < rank)
    left = tl.load(left_ptr + place, mask=inside, other=0.0)
    right = tl.load(right_ptr + place, mask=inside, other=0.0)
    return left, right, tl.dot(left, tl.trans(right), input_precision="ieee")


@triton.jit
def _forward_kernel(
    emissions_ptr: tl.tensor,
    left_ptr: tl.tensor,
    right_ptr: tl.tensor,
    lengths_ptr: tl.tensor,
    alphas_ptr: tl.tensor,
    log_partition_ptr: tl.tensor,
    time: tl.tensor,
    k: tl.tensor,
    rank: tl.tensor,
    K: tl.constexpr,
    R: tl.constexpr,
) -> None:
    sentence = tl.program_id(0).to(tl.int64)
    labels = tl.arange(0, K)
    inside = labels < k
    row = sentence * time * k + labels
    length = tl.load(lengths_ptr + sentence)
    current = tl.load(emissions_ptr + row, mask=inside, other=-float("inf"))
    scale = tl.max(current, axis=0)
    alpha = current - scale
    tl.store(alphas_ptr + row, alpha, mask=inside)
    for step in range(1, length):
        _, _, scores = _tile(left_ptr, right_ptr, sentence * (time - 1) + step - 1, k, rank, K, R)
        scores += alpha[:, None]
        top = tl.max(scores, axis=0)
        total = tl.sum(tl.exp(scores - top[None, :]), axis=0)
        emission = tl.load(emissions_ptr + row + step * k, mask=inside, other=-float("inf"))
        current = emission + top + tl.log(total)
        largest = tl.max(current, axis=0)
        scale += largest
        alpha = current - largest
        tl.store(alphas_ptr + row + step * k, alpha, mask=inside)
    tl.store(log_partition_ptr + sentence, scale + tl.log(tl.sum(tl.exp(alpha), axis=0)))


@triton.jit
def _backward_kernel(
    gradient_ptr: tl.tensor,
    left_ptr: tl.tensor,
    right_ptr: tl.tensor,
    lengths_ptr: tl.tensor,
    alphas_ptr: tl.tensor,
    to_emissions_ptr: tl.tensor,
    to_left_ptr: tl.tensor,
    to_right_ptr: tl.tensor,
    time: tl.tensor,
    k: tl.tensor,
    rank: tl.tensor,
    K: tl.constexpr,
    R: tl.constexpr,
) -> None:
    sentence = tl.program_id(0).to(tl.int64)
    labels, dims = tl.arange(0, K), tl.arange(0, R)
    inside = labels < k
    factor_inside = inside[:, None] & (dims[None, :] < rank)
    row = sentence * time * k + labels
    last = tl.load(lengths_ptr + sentence) - 1
    alpha = tl.load(alphas_ptr + row + last * k, mask=inside, other=-float("inf"))
    exponentials = tl.exp(alpha - tl.max(alpha, axis=0))
    marginal = exponentials / tl.sum(exponentials, axis=0) * tl.load(gradient_ptr + sentence)
    tl.store(to_emissions_ptr + row + last * k, marginal, mask=inside)
    for back in range(last):
        step = last - back
        edge = sentence * (time - 1) + step - 1
        left, right, scores = _tile(left_ptr, right_ptr, edge, k, rank, K, R)
        alpha = tl.load(alphas_ptr + row + (step - 1) * k, mask=inside, other=-float("inf"))
        scores += alpha[:, None]
        weights = tl.exp(scores - tl.max(scores, axis=0)[None, :])
        edges = weights * (marginal / tl.sum(weights, axis=0))[None, :]
        place = edge * k * rank + labels[:, None] * rank + dims[None, :]
        tl.store(to_left_ptr + place, tl.dot(edges, right, input_precision="ieee"), mask=factor_inside)
        tl.store(to_right_ptr + place, tl.dot(tl.trans(edges), left, input_precision="ieee"), mask=factor_inside)
        marginal = tl.sum(edges, axis=1)
        tl.store(to_emissions_ptr + row + (step - 1) * k, marginal, mask=inside)


class TritonChain(torch.autograd.Function):
    """log Z `[batch]` from float32 emissions `[batch, time, k]`, factors `[batch, time - 1, k, rank]`, lengths."""

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, left: Tensor, right: Tensor, lengths: Tensor) -> Tensor:  # noqa: D102
        emissions, left, right = emissions.contiguous(), left.contiguous(), right.contiguous()
        alphas, log_partition = torch.empty_like(emissions), emissions.new_empty(len(emissions))
        with torch.cuda.device_of(emissions):
            _forward_kernel[(len(emissions),)](
                emissions, left, right, lengths, alphas, log_partition, *_sizes(emissions, left), **_tiles(left)
            )
        ctx.save_for_backward(left, right, lengths, alphas)
        return log_partition

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the names)
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        left, right, lengths, alphas = ctx.saved_tensors
        # Behind a sentence's end nothing is written
        results = [torch.zeros_like(tensor) for tensor in (alphas, left, right)]
        with torch.cuda.device_of(alphas):
            _backward_kernel[(len(alphas),)](
                gradient.contiguous(), left, right, lengths, alphas, *results, *_sizes(alphas, left), **_tiles(left)
            )
        return *results, None


def _sizes(emissions: Tensor, left: Tensor) -> tuple[int, int, int]:
    return emissions.shape[1], emissions.shape[2], left.shape[3]


def _tiles(left: Tensor) -> dict[str, int]:
    """Tile sizes, powers of two, warps for about 32 numbers a thread; fusing multiply and add as CUDA code does."""
    k, rank = (max(_LEAST_TILE, triton.next_power_of_2(size)) for size in left.shape[2:])
    return {"K": k, "R": rank, "num_warps": min(16, max(4, k * k // 1024)), "enable_fp_fusion": True}
