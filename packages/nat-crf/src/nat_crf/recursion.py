"""The forward recursion of a linear-chain CRF over candidate lists, with its gradient in closed form (Section 4.5).

    a_1 = e_1,   a_i(v) = e_i(v) + logsumexp_u(a_{i-1}(u) + t_i(u, v)),   log Z = logsumexp_v a_n(v)

Every step is renormalised, so that scores of any size are safe, and what a step leaves behind is, up to its column
sums, the backward conditional W_i(u, v) = P(y_{i-1} = u | y_i = v). The gradient is then one product a step,

    g_n = softmax(a_n),   g_{i-1} = W_i g_i,   d log Z / d e_i = g_i,   d log Z / d t_i(u, v) = W_i(u, v) g_i(v),

the node and edge marginals. Nothing else of the forward pass is kept.

Chains are right-padded here: sentence b has its positions at 0..lengths[b]-1. What stands behind must be finite.
Messages are stored time first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nat_crf.transitions import Transitions, rows

# With more transition scores than this (1 GiB in float32) they are computed again in the backward pass, not kept
_MOST_KEPT = 2**28
# (step, a [B, k], where to put the result) -> a[:, :, None] + t_step, [B, k, k]
EdgeSum = Callable[[int, Tensor, Tensor], Tensor]
# (step, weights [B, k, k], scaled marginals [B, k])
Visit = Callable[[int, Tensor, Tensor], None]


class Messages(NamedTuple):
    """What the forward pass leaves behind.

    Attributes:
        log_partition: `[batch]`.
        alphas: `[time, batch, k]`, forward log messages, the largest of each being 0.
        weights: `[time - 1, batch, k, k]`: W_i times `totals`; None where not kept.
        totals: `[time - 1, batch, k]`: the column sums of the weights.
    """

    log_partition: Tensor
    alphas: Tensor
    weights: Tensor | None
    totals: Tensor


def low_rank_sum(transitions: Transitions) -> EdgeSum:
    """Edge scores built from their factors, a position at a time."""

    def edge_sum(step: int, a: Tensor, out: Tensor) -> Tensor:
        left, right = transitions.factors(step)
        return torch.baddbmm(a[:, :, None], left, right.mT, out=out)

    return edge_sum


def block_sum(blocks: Tensor) -> EdgeSum:
    """Edge scores from `[batch, time - 1, k, k]` blocks."""
    return lambda step, a, out: torch.add(blocks[:, step], a[:, :, None], out=out)


def worth_keeping(batch: int, time: int, k: int) -> bool:
    """Whether the weights of all steps are small enough to be kept for the backward pass."""
    return batch * (time - 1) * k * k <= _MOST_KEPT


def forward_messages(emissions: Tensor, edge_sum: EdgeSum, lengths: Tensor, *, keep: bool) -> Messages:
    """The forward recursion, position by position.

    Args:
        emissions: `[batch, time, k]`.
        edge_sum: adds the edge scores of a step to the messages.
        lengths: `[batch]`, at least 1.
        keep: keep the weights of all steps.
    """
    batch, time, k = emissions.shape
    weights = emissions.new_empty(time - 1, batch, k, k) if keep else None
    block = emissions.new_empty(0 if keep else batch, k, k)
    totals = emissions.new_empty(time - 1, batch, k)
    alphas = emissions.new_empty(time, batch, k)
    scales = emissions.new_empty(time, batch)
    current = emissions[:, 0]
    for step in range(time):
        if step:
            out = block if weights is None else weights[step - 1]
            _, totals[step - 1], top = normalized_step(edge_sum(step - 1, alphas[step - 1], out))
            following = emissions[:, step] + top + totals[step - 1].log()
            current = torch.where((step < lengths)[:, None], following, alphas[step - 1])
        # Behind a sentence's end this is 0
        largest = current.amax(dim=1, keepdim=True)
        torch.sub(current, largest, out=alphas[step])
        scales[step] = largest[:, 0]
    return Messages(scales.sum(dim=0) + alphas[-1].logsumexp(dim=1), alphas, weights, totals)


def normalized_step(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(scores - max over u), its sum over u, and the maximum; `scores [batch, u, v]` are overwritten."""
    top = scores.amax(dim=1, keepdim=True)
    weights = scores.sub_(top).exp_()
    return weights, weights.sum(dim=1), top[:, 0]


def backward_marginals(
    messages: Messages, edge_sum: EdgeSum, lengths: Tensor, scale: Tensor, visit: Visit | None = None
) -> Tensor:
    """Node marginals g `[time, batch, k]` times `scale [batch]`; zero behind a sentence's end.

    Args:
        messages: of the forward pass.
        edge_sum: as in the forward pass, for weights that were not kept.
        lengths: `[batch]`.
        scale: `[batch]`, the gradient that arrives at log Z.
        visit: called for each step with its weights and g_i / totals, whose product is the scaled edge marginal.
    """
    alphas, time = messages.alphas, messages.alphas.shape[0]
    current = alphas[-1].softmax(dim=1) * scale[:, None]
    marginals = torch.empty_like(alphas)
    block = None if messages.weights is not None else alphas.new_empty(*alphas.shape[1:], alphas.shape[2])
    for step in range(time - 1, 0, -1):
        active = (step < lengths)[:, None]
        torch.mul(current, active, out=marginals[step])
        weights = step_weights(messages, edge_sum, step - 1, block)
        scaled = marginals[step] / messages.totals[step - 1]
        before = torch.bmm(weights, scaled[:, :, None])[:, :, 0]
        current = torch.where(active, before, current)
        if visit is not None:
            visit(step - 1, weights, scaled)
    marginals[0] = current
    return marginals


def step_weights(messages: Messages, edge_sum: EdgeSum, step: int, out: Tensor | None = None) -> Tensor:
    """The weights of one step `[batch, k, k]`, kept or computed again, then in `out` where given."""
    if messages.weights is not None:
        return messages.weights[step]
    a = messages.alphas[step]
    block = a.new_empty(*a.shape, a.shape[1]) if out is None else out
    return normalized_step(edge_sum(step, a, block))[0]


class LowRankChain(torch.autograd.Function):
    """log Z `[batch]` from emissions `[batch, time, k]`, lengths `[batch]` and the fields of `Transitions`."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        emissions: Tensor,
        lengths: Tensor,
        labels: Tensor,
        first: Tensor,
        second: Tensor,
        dynamic: Tensor | None,
    ) -> Tensor:
        keep = any(ctx.needs_input_grad) and worth_keeping(*emissions.shape)
        edge_sum = low_rank_sum(Transitions(labels, first, second, dynamic))
        messages = forward_messages(emissions, edge_sum, lengths, keep=keep)
        ctx.save_for_backward(lengths, labels, first, second, dynamic, *messages[1:])
        return messages.log_partition

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the names)
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        lengths, labels, first, second, dynamic, *saved = ctx.saved_tensors
        transitions = Transitions(labels, first, second, dynamic)
        first_gradient, second_gradient = torch.zeros_like(first), torch.zeros_like(second)
        dynamic_gradient = None if dynamic is None else torch.empty_like(dynamic)

        def visit(step: int, weights: Tensor, scaled: Tensor) -> None:
            left, right = transitions.factors(step)
            # [batch, k, rank] each
            to_left = torch.bmm(weights, scaled[:, :, None] * right)
            to_right = scaled[:, :, None] * torch.bmm(weights.mT, left)
            if dynamic is not None and dynamic_gradient is not None:
                torch.bmm(rows(first, labels[:, step]).mT, to_left, out=dynamic_gradient[:, step])
                to_left = torch.bmm(to_left, dynamic[:, step].mT)
            first_gradient.index_add_(0, labels[:, step].flatten(), to_left.flatten(0, 1))
            second_gradient.index_add_(0, labels[:, step + 1].flatten(), to_right.flatten(0, 1))

        messages = Messages(gradient, *saved)
        marginals = backward_marginals(messages, low_rank_sum(transitions), lengths, gradient, visit)
        return marginals.transpose(0, 1), None, None, first_gradient, second_gradient, dynamic_gradient


class BlockChain(torch.autograd.Function):
    """log Z `[batch]` from emissions `[batch, time, k]`, edge scores `[batch, time - 1, k, k]`, lengths `[batch]`."""

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, blocks: Tensor, lengths: Tensor) -> Tensor:  # noqa: D102
        messages = forward_messages(emissions, block_sum(blocks), lengths, keep=False)
        ctx.save_for_backward(blocks, lengths, messages.alphas, messages.totals)
        return messages.log_partition

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the names)
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        blocks, lengths, alphas, totals = ctx.saved_tensors
        block_gradient = torch.empty_like(blocks)

        def visit(step: int, weights: Tensor, scaled: Tensor) -> None:
            torch.mul(weights, scaled[:, None], out=block_gradient[:, step])

        messages = Messages(gradient, alphas, None, totals)
        marginals = backward_marginals(messages, block_sum(blocks), lengths, gradient, visit)
        return marginals.transpose(0, 1), block_gradient, None
