"""What the CRF of nat-crf is compared with, as plain functions: the same results by the usual ways."""

from __future__ import annotations

import torch
from torch import Tensor


def transition_blocks(left: Tensor, right: Tensor, labels: Tensor, dynamic: Tensor | None) -> Tensor:
    """Scores `[batch, time - 1, k, k]` between the candidates `labels [batch, time, k]` of adjacent positions."""
    first = torch.nn.functional.embedding(labels[:, :-1], left)
    second = torch.nn.functional.embedding(labels[:, 1:], right)
    if dynamic is not None:
        first = first @ dynamic
    return first @ second.mT


def autograd_log_partition(emissions: Tensor, blocks: Tensor, mask: Tensor) -> Tensor:
    """log Z `[batch]` by a loop of log-sum-exps over `[batch, time, k]` and `[batch, time - 1, k, k]`."""
    score = emissions[:, 0]
    for step in range(1, emissions.shape[1]):
        following = torch.logsumexp(score[:, :, None] + blocks[:, step - 1], dim=1) + emissions[:, step]
        score = torch.where(mask[:, step, None], following, score)
    return torch.logsumexp(score, dim=1)


def scattering_log_likelihood(
    emissions: Tensor, targets: Tensor, mask: Tensor, left: Tensor, right: Tensor, dynamic: Tensor | None, beam: int
) -> Tensor:
    """log P(y | x) `[batch]` as the published code computes it.

    The gold label gets score +inf in a copy of the emissions, so that the top k of the copy hold it; the numerator is
    gathered on its own; autograd goes through the loop.
    """
    gold = emissions.gather(2, targets[..., None])[..., 0]
    first = torch.nn.functional.embedding(targets[:, :-1], left)
    if dynamic is not None:
        first = (first[:, :, None] @ dynamic)[:, :, 0]
    transitions = (first * torch.nn.functional.embedding(targets[:, 1:], right)).sum(dim=2)
    steps = torch.cat([gold[:, :1], gold[:, 1:] + transitions], dim=1)
    numerator = (steps * mask).sum(dim=1)
    labels = emissions.scatter(2, targets[..., None], float("inf")).topk(beam, dim=2).indices
    blocks = transition_blocks(left, right, labels, dynamic)
    return numerator - autograd_log_partition(emissions.gather(2, labels), blocks, mask)


def pointer_viterbi(
    emissions: Tensor, mask: Tensor, left: Tensor, right: Tensor, dynamic: Tensor | None, beam: int
) -> tuple[Tensor, Tensor]:
    """Best tokens `[batch, time]` (0 at padding) and score `[batch]`, with a table of back pointers."""
    values, labels = emissions.topk(beam, dim=2)
    blocks = transition_blocks(left, right, labels, dynamic)
    score = values[:, 0]
    still = torch.arange(beam, device=score.device).expand_as(score)
    pointers = []
    for step in range(1, emissions.shape[1]):
        reached, pointer = (score[:, :, None] + blocks[:, step - 1]).max(dim=1)
        active = mask[:, step, None]
        score = torch.where(active, reached + values[:, step], score)
        pointers.append(torch.where(active, pointer, still))
    best, slot = score.max(dim=1)
    slots = [slot[:, None]]
    for pointer in reversed(pointers):
        slots.append(pointer.gather(1, slots[-1]))
    path = torch.cat(slots[::-1], dim=1)
    return labels.gather(2, path[..., None])[..., 0] * mask, best
