"""Candidate lists: the k labels with the highest emission score at each position (Section 4.4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_BLOCK = 8
_ROWS_AT_ONCE = 64


class Candidates(NamedTuple):
    """The labels kept at each position.

    Attributes:
        labels: `[batch, time, k]` int64, the best first; the last may be the gold label out of order.
        scores: `[batch, time, k]`, their emission scores, differentiable.
        gold: `[batch, time]` int64, where in the list the gold label stands, or None without gold labels.
    """

    labels: Tensor
    scores: Tensor
    gold: Tensor | None


def select_candidates(
    emissions: Tensor, beam: int, targets: Tensor | None = None, mask: Tensor | None = None
) -> Candidates:
    """The top k = min(beam, vocab) labels by emission; a gold label that is missing replaces the k-th.

    The choice is not differentiated; scores are gathered once from the emissions. Which of several labels with exactly
    the k-th largest score is kept is up to the device's selection, and the same at every call.

    Args:
        emissions: `[batch, time, vocab]` label scores.
        beam: k, at least 1.
        targets: `[batch, time]` gold labels, which must be in the lists.
        mask: `[batch, time]`, False at positions whose candidates are of no interest; they may be anything.
    """
    labels = top_indices(emissions.detach(), min(beam, emissions.shape[-1]), mask)
    gold = None
    if targets is not None:
        labels, gold = with_gold(labels, targets)
    return Candidates(labels, emissions.gather(2, labels), gold)


def with_gold(labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Candidate lists `[..., k]` that hold `targets [...]`, in place of the k-th where needed, and where they stand."""
    same = labels == targets[..., None]
    present = same.any(dim=-1)
    last = torch.where(present, labels[..., -1], targets)
    slot = torch.where(present, same.int().argmax(dim=-1), labels.shape[-1] - 1)
    return torch.cat([labels[..., :-1], last[..., None]], dim=-1), slot


def top_indices(values: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
    """Indices `[..., count]` of the largest entries of `values [..., n]`, the largest first, on a CPU the lowest index
    first among equals. Rows where `mask [...]` is False may be skipped; their indices mean nothing.

    On a CPU long rows are searched by blocks: the `count` blocks with the largest maxima hold the `count` largest
    entries, so one vectorised pass finds the maxima and only those blocks are looked into.
    """
    if count == 1:
        return values.argmax(dim=-1, keepdim=True)
    by_blocks = values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)
    if not by_blocks or torch.compiler.is_compiling():
        return values.topk(count, dim=-1).indices
    rows = values.flatten(0, -2)
    indices = torch.zeros(len(rows), count, dtype=torch.int64)
    for group in _groups(np.ones(len(rows), dtype=bool) if mask is None else mask.flatten().numpy()):
        parts = [rows[run] for run in group]
        found = np.sort(_top_positions(parts, count).numpy(), axis=1)
        chosen = _gathered(parts, torch.from_numpy(found)).numpy()
        ordered = torch.from_numpy(np.take_along_axis(found, np.argsort(-chosen, axis=1, kind="stable"), axis=1))
        for run, part in zip(group, ordered.split([len(part) for part in parts]), strict=True):
            indices[run] = part
    return indices.view(*values.shape[:-1], count)


def _groups(real: np.ndarray) -> list[list[slice]]:
    """The runs of True, cut and joined into groups of `_ROWS_AT_ONCE` rows."""
    edges = np.flatnonzero(np.diff(real, prepend=False, append=False))
    groups: list[list[slice]] = [[]]
    room = _ROWS_AT_ONCE
    for start, end in edges.reshape(-1, 2).tolist():
        while start < end:
            if not room:
                groups.append([])
                room = _ROWS_AT_ONCE
            taken = min(room, end - start)
            groups[-1].append(slice(start, start + taken))
            start, room = start + taken, room - taken
    return [group for group in groups if group]


def _top_positions(parts: list[Tensor], count: int) -> Tensor:
    """Indices `[rows, count]` of the largest entries of each row of the parts, in any order."""
    width = parts[0].shape[1]
    blocks, rest = divmod(width, _BLOCK)
    # With fewer, looking into `count` of them is no less work
    if blocks < 4 * count:
        return _partitioned(torch.cat(parts) if len(parts) > 1 else parts[0], count)
    # Block j is made of the entries j, j + blocks, j + 2 blocks, ...
    maxima = torch.cat([part[:, : blocks * _BLOCK].unflatten(1, (_BLOCK, blocks)).amax(dim=1) for part in parts])
    chosen = _top_positions([maxima], count)
    members = (chosen[:, None] + blocks * torch.arange(_BLOCK)[:, None]).flatten(1)
    if rest:
        tail = torch.arange(blocks * _BLOCK, width)
        members = torch.cat([members, tail.expand(len(members), -1)], dim=1)
    return members.gather(1, _partitioned(_gathered(parts, members), count))


def _gathered(parts: list[Tensor], indices: Tensor) -> Tensor:
    """`gather` along rows that lie in several pieces."""
    pieces = indices.split([len(part) for part in parts])
    return torch.cat([part.gather(1, piece) for part, piece in zip(parts, pieces, strict=True)])


def _partitioned(rows: Tensor, count: int) -> Tensor:
    """As `_top_positions`, by partition; NumPy's is several times faster than the selection behind torch.topk."""
    return torch.from_numpy(np.argpartition(rows.numpy(), -count, axis=1)[:, -count:])
