"""Target lengths: source length plus a constant, or a learned classifier; candidates around a length (Section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def length_constant(source_lengths: Sequence[int], target_lengths: Sequence[int]) -> int:
    """C for a dataset: the mean of T - S over its training pairs, counted in subwords, rounded (Section 3.4).

    Raises:
        ValueError: no pairs, or different numbers of lengths.
    """
    if len(source_lengths) != len(target_lengths) or not source_lengths:
        raise ValueError(
            f"lengths: expected as many source as target lengths, at least one; got {len(source_lengths)} and "
            f"{len(target_lengths)}"
        )
    return round((sum(target_lengths) - sum(source_lengths)) / len(source_lengths))


def length_candidates(lengths: Tensor, count: int, *, minimum: int = 1, maximum: int | None = None) -> Tensor:
    """The `count` lengths around each of `lengths [B]`, clipped: `[B, count]`.

    For count = 2B + 1 these are L - B .. L + B (Section 3.4); an even count takes one more below than above.

    Raises:
        ValueError: `count` below 1, or `minimum` above `maximum`.
    """
    if count < 1:
        raise ValueError(f"candidates: expected at least 1 length, got {count}")
    if maximum is not None and maximum < minimum:
        raise ValueError(f"maximum: expected at least the minimum {minimum}, got {maximum}")
    offsets = torch.arange(count, device=lengths.device) - count // 2
    return (lengths[:, None] + offsets).clamp(minimum, maximum)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of `states [B, S, d]` over the positions where `mask [B, S]` is True: `[B, d]`."""
    weights = mask.to(states.dtype)
    return (states * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp_min(1)


def length_class(target_lengths: Tensor, source_lengths: Tensor, classes: int, *, offset: bool = True) -> Tensor:
    """Class of a target length: T - S + classes / 2, or T itself, clipped to 0..classes-1. All `[B]`."""
    wanted = target_lengths - source_lengths + classes // 2 if offset else target_lengths
    return wanted.clamp(0, classes - 1)


def class_length(length_classes: Tensor, source_lengths: Tensor, classes: int, *, offset: bool = True) -> Tensor:
    """The target length that a class stands for, the inverse of `length_class`; may be below 1. All `[B]`."""
    return length_classes + source_lengths - classes // 2 if offset else length_classes


def uniform_copy_index(source_lengths: Tensor, target_lengths: Tensor, size: int) -> Tensor:
    """Source position for each target position j: round(j (S-1) / (T-1)), halves to even (uniform copy, Section 3.2).

    Args:
        source_lengths, target_lengths: `[B]`; a target of length 1 takes source position 0.
        size: number of target positions of the batch.

    Returns:
        `[B, size]`, 0 beyond a target's length. Computed in float32 as published.
    """
    steps = (source_lengths.float() - 1) / (target_lengths.float() - 1).clamp_min(1)
    positions = torch.arange(size, device=target_lengths.device)
    index = (steps[:, None] * positions.float()).round().long()
    return index * (positions < target_lengths[:, None])


class LengthClassifier(torch.nn.Module):
    """Pooled encoder states against one vector a class (fairseq's length prediction, Section 3.4).

    Args:
        dim: width of the encoder.
        classes: number of classes.
        detach: do not send the length loss into the encoder.
    """

    def __init__(self, dim: int, classes: int, *, detach: bool = False) -> None:
        super().__init__()
        self.detach = detach
        self.embedding = torch.nn.Embedding(classes, dim)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Logits `[B, classes]` from encoder states `[B, S, d]`."""
        pooled = masked_mean(states, mask)
        return F.linear(pooled.detach() if self.detach else pooled, self.embedding.weight)
