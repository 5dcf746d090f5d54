"""Batches of token sequences: special symbols, padding, masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

BOS, PAD, EOS, UNK = 0, 1, 2, 3
Boundaries = Literal["eos", "bos-eos"]
Words = Sequence[int]
"""Token ids of a sentence without boundary symbols."""
_Word = TypeVar("_Word")


def pad_batch(words: Sequence[Words], boundaries: Boundaries = "eos", *, left: bool = False) -> Tensor:
    """Word sequences with their boundary symbols as one batch `[B, T]`, padded on the right or the left.

    Raises:
        ValueError: no sequence, or a negative id.
    """
    if not words:
        raise ValueError("words: expected at least one sequence, got none")
    first = [BOS] if boundaries == "bos-eos" else []
    rows = [torch.tensor([*first, *row, EOS], dtype=torch.long) for row in words]
    if min(int(row.min()) for row in rows) < 0:
        raise ValueError("words: expected token ids of 0 and more, got a negative one")
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD, padding_side=side)


def length_mask(lengths: Tensor, size: int | None = None) -> Tensor:
    """True at the first `lengths [...]` of `size` (default: the largest length) positions, `[..., size]`."""
    positions = torch.arange(int(lengths.max()) if size is None else size, device=lengths.device)
    return positions < lengths[..., None]


def word_lists(tokens: Tensor, mask: Tensor) -> list[list[int]]:
    """The words of each row of `tokens [N, T]` where `mask` is True: everything but bos, pad and eos."""
    keep = mask & (tokens != BOS) & (tokens != PAD) & (tokens != EOS)
    return [row[kept].tolist() for row, kept in zip(tokens.cpu(), keep.cpu(), strict=True)]


def remove_repeats(words: Sequence[_Word]) -> list[_Word]:
    """`words` with every run of equal ones collapsed to one (Section 4.9)."""
    return [word for index, word in enumerate(words) if index == 0 or word != words[index - 1]]
