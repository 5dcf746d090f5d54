"""BLEU as papers report it (tokenised text, multi-bleu's semantics) and sacreBLEU with its signature (Section 4.1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

Tokenisation = Literal["none", "13a"]


@dataclass(frozen=True)
class CorpusBleu:
    """A corpus BLEU in points, 0..100, and the signature that says how it was computed."""

    score: float
    signature: str


def corpus_bleu(
    hypotheses: Sequence[str], references: Sequence[str], tokenise: Tokenisation = "none", *, lowercase: bool = False
) -> CorpusBleu:
    """BLEU-4 without smoothing.

    Args:
        hypotheses, references: one text a sentence; for `tokenise="none"` already tokenised, words joined by spaces.
        tokenise: `none` gives the tokenised BLEU of the paper, `13a` sacreBLEU's own.
        lowercase: case-insensitive, as for IWSLT14.

    Raises:
        ValueError: no sentences, or different numbers of them.
    """
    _check(hypotheses, references)
    metric = _metric(tokenise, lowercase)
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return CorpusBleu(score, str(metric.get_signature()))


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[str], tokenise: Tokenisation = "none", *, lowercase: bool = False
) -> NDArray[np.int64]:
    """What a corpus BLEU is made of, a row a sentence, for `significance.sentence_values` and for bootstraps.

    Returns:
        `[n, 10]`: hypothesis length, reference length, matching n-grams of order 1..4, all n-grams of order 1..4.

    Raises:
        ValueError: as `corpus_bleu`.
    """
    _check(hypotheses, references)
    metric = _metric(tokenise, lowercase)
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        score = metric.corpus_score([hypothesis], [[reference]])
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return np.array(rows, np.int64)


def repeated_words(words: Sequence[object]) -> int:
    """How many words equal the word right before them."""
    return sum(one == other for one, other in itertools.pairwise(words))


def _metric(tokenise: str, lowercase: bool) -> BLEU:
    # force: sacreBLEU warns of text that looks tokenised already, which it is meant to be
    return BLEU(smooth_method="none", tokenize=tokenise, lowercase=lowercase, force=True)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(
            f"hypotheses: expected as many as references, at least one; got {len(hypotheses)} and {len(references)}"
        )
