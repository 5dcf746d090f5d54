"""Choosing among candidates by another model's score: noisy parallel decoding (Section 4.8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from nat_crf.autoregressive import Teacher, length_penalty
from nat_crf.sequences import Words, pad_batch

Scorer = Callable[[Sequence[Words], Sequence[Sequence[Words]]], Sequence[Sequence[float]]]
"""(source words, candidates of each source) -> log-probability of each whole candidate, `<eos>` included."""


def teacher_scorer(teacher: Teacher) -> Scorer:
    """Score by teacher forcing with an autoregressive model, all candidates of all sources in one batch."""

    @torch.no_grad()
    def score(source: Sequence[Words], candidates: Sequence[Sequence[Words]]) -> list[list[float]]:
        device, most = teacher.decoder.embed_tokens.weight.device, max(len(row) for row in candidates)
        # Rows with fewer candidates are filled with empty ones, whose scores are dropped
        flat = [words for row in candidates for words in [*row, *([()] * (most - len(row)))]]
        targets = pad_batch(flat).view(len(source), most, -1)
        was_training = teacher.training
        teacher.eval()
        totals = teacher.score(pad_batch(source).to(device), targets.to(device)).tolist()
        teacher.train(was_training)
        return [scores[: len(row)] for scores, row in zip(totals, candidates, strict=True)]

    return score


def normalised_score(log_probability: float, words: int, alpha: float | None = None) -> float:
    """A candidate's score for comparison with others of other lengths (Section 4.8).

    Args:
        log_probability: of `words` words and `<eos>`.
        words: how many words.
        alpha: of the length penalty ((5 + length) / 6)^alpha; None for the mean per token, as published.
    """
    if alpha is None:
        return log_probability / (words + 1)
    return log_probability / float(length_penalty(words + 1, alpha))


def rescore(
    scorer: Scorer, source: Sequence[Words], candidates: Sequence[Sequence[Words]], alpha: float | None = None
) -> list[list[float]]:
    """Normalised scores of all candidates, in their order.

    Raises:
        ValueError: `alpha` below 0, or the scorer gave another number of scores than there are candidates.
    """
    if alpha is not None and alpha < 0:
        raise ValueError(f"alpha: expected 0 or more, or None for the mean per token, got {alpha}")
    totals = scorer(source, candidates)
    counts, wanted = [len(row) for row in totals], [len(row) for row in candidates]
    if counts != wanted:
        raise ValueError(f"scorer: expected one score a candidate, {wanted} a sentence, got {counts}")
    return [
        [normalised_score(float(total), len(words), alpha) for total, words in zip(row, texts, strict=True)]
        for row, texts in zip(totals, candidates, strict=True)
    ]
