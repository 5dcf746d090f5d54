"""Output layer, token loss and candidate selection in one pass that never stores `[batch, time, vocab]`.

The logits h W^T + b of some positions at a time are reduced at once to what the losses need: their log-sum-exp, their
mean, and the top k (Section 4.4). The backward pass computes them again, some positions at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nat_crf.candidates import Candidates, top_indices, with_gold
from sextet.cuda import float32_island


class Projection(NamedTuple):
    """What is kept of the logits, all differentiable but the labels.

    Attributes:
        candidates: labels and emission scores `[batch, time, k]`, and where gold stands.
        log_normalizer: `[batch, time]`, logsumexp over all labels.
        mean_score: `[batch, time]`, mean over all labels.
    """

    candidates: Candidates
    log_normalizer: Tensor
    mean_score: Tensor


def project(
    states: Tensor,
    weight: Tensor,
    beam: int,
    *,
    bias: Tensor | None = None,
    targets: Tensor | None = None,
    most_at_once: int = 2**23,
) -> Projection:
    """Candidates and normalisers of the emissions e = h W^T + b, without storing them.

    The values are those of the plain way. Inside autocast the matrix products run in its dtype, everything else in
    float32.

    Args:
        states: h `[batch, time, d]`.
        weight: W `[vocab, d]`.
        beam: k; the lists are min(k, vocab) long.
        bias: b `[vocab]`.
        targets: `[batch, time]`, labels that must be in the lists.
        most_at_once: logits computed at a time.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if states.ndim != 3 or weight.ndim != 2 or states.shape[2] != weight.shape[1]:
        shapes = f"states {list(states.shape)} and weight {list(weight.shape)}"
        raise ValueError(f"states: expected [batch, time, d] and weight [vocab, d], got {shapes}")
    batch, time, _ = states.shape
    if targets is not None and targets.shape != (batch, time):
        raise ValueError(f"targets: expected [batch, time] = {[batch, time]}, got {list(targets.shape)}")
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if _autocasts(device) else None
    flat_targets = None if targets is None else targets.flatten()
    scores, normalizer, mean, labels, slot = _Projection.apply(
        states.flatten(0, 1),
        weight,
        bias,
        flat_targets,
        min(beam, len(weight)),
        max(1, most_at_once // len(weight)),
        dtype,
    )
    gold = None if targets is None else slot.view(batch, time)
    candidates = Candidates(labels.view(batch, time, -1), scores.view(batch, time, -1), gold)
    return Projection(candidates, normalizer.view(batch, time), mean.view(batch, time))


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def smoothed_token_loss(projection: Projection, epsilon: float = 0.0) -> tuple[Tensor, Tensor]:
    """Label-smoothed cross entropy and plain one `[batch, time]` of the gold labels (Section 4.5).

        (1 - epsilon) * nll - epsilon * mean over all labels of log p

    Raises:
        ValueError: a projection without gold labels.
    """
    labels, scores, gold = projection.candidates
    if gold is None:
        raise ValueError(
            f"projection: expected one made with targets, got candidates {list(labels.shape)} without gold"
        )
    nll = projection.log_normalizer - scores.gather(2, gold[..., None])[..., 0]
    return (1 - epsilon) * nll + epsilon * (projection.log_normalizer - projection.mean_score), nll


class _Projection(torch.autograd.Function):
    """(states `[n, d]`, weight, bias, targets `[n]`, k, rows at once, dtype of the products) -> tensors of n rows."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor | None,
        beam: int,
        rows: int,
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, ...]:
        ctx.rows, ctx.dtype = rows, dtype
        parts = []
        with float32_island(states.device):
            matrix = weight if dtype is None else weight.to(dtype)
            for start in range(0, len(states), rows):
                logits = _logits(states[start : start + rows], matrix, bias, dtype)
                labels = top_indices(logits, beam)
                gold = labels.new_zeros(len(labels))
                if targets is not None:
                    labels, gold = with_gold(labels, targets[start : start + rows])
                parts.append((logits.gather(1, labels), logits.logsumexp(dim=1), logits.mean(dim=1), labels, gold))
        scores, normalizer, mean, labels, gold = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(states, weight, bias, labels, normalizer)
        ctx.mark_non_differentiable(labels, gold)
        return scores, normalizer, mean, labels, gold

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the names)
        ctx: Any, scores: Tensor, normalizer: Tensor, mean: Tensor, _labels: Tensor, _gold: Tensor
    ) -> tuple[Tensor | None, ...]:
        states, weight, bias, labels, log_normalizer = ctx.saved_tensors
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        # Sums over positions are kept in full precision
        states_gradient = torch.empty_like(states) if wants_states else None
        weight_gradient = torch.zeros_like(weight, dtype=scores.dtype) if wants_weight else None
        bias_gradient = torch.zeros_like(bias, dtype=scores.dtype) if wants_bias else None
        with float32_island(states.device):
            matrix = weight if ctx.dtype is None else weight.to(ctx.dtype)
            for start in range(0, len(states), ctx.rows):
                part = slice(start, start + ctx.rows)
                gradient = _logits(states[part], matrix, bias, ctx.dtype)
                gradient.sub_(log_normalizer[part, None]).exp_().mul_(normalizer[part, None])
                gradient.add_(mean[part, None] / len(weight)).scatter_add_(1, labels[part], scores[part])
                if bias_gradient is not None:
                    bias_gradient += gradient.sum(dim=0)
                gradient = gradient.to(matrix.dtype)
                if states_gradient is not None:
                    states_gradient[part] = gradient @ matrix
                if weight_gradient is not None:
                    _add_product(weight_gradient, gradient.mT, states[part].to(matrix.dtype))
        weight_gradient = None if weight_gradient is None else weight_gradient.to(weight.dtype)
        bias_gradient = None if bias_gradient is None else bias_gradient.to(bias.dtype)
        return states_gradient, weight_gradient, bias_gradient, None, None, None, None


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    """h W^T + b in at least float32, a tensor of its own."""
    logits = (states if dtype is None else states.to(dtype)) @ weight.mT
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if bias is None else logits.add_(bias)


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    """total += one @ other, without a product of the size of `total` where dtypes allow."""
    if total.dtype == one.dtype:
        total.addmm_(one, other)
    else:
        total += one @ other
