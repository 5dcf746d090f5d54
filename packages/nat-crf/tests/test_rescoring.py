"""Choosing among candidates by another model's score."""

import math

import pytest
import torch
from nat_crf_testing.tiny import tiny_config, word_rows

from nat_crf.autoregressive import Teacher
from nat_crf.rescoring import normalised_score, rescore, teacher_scorer
from nat_crf.sequences import pad_batch


def test_normalised_score() -> None:
    """Mean over words and `<eos>` as published, or the length penalty ((5 + length) / 6)^alpha."""
    assert normalised_score(-6.0, 2) == -2.0
    assert normalised_score(-6.0, 6, alpha=0.0) == -6.0
    assert normalised_score(-6.0, 6, alpha=1.0) == -3.0


def test_any_callable_scores() -> None:
    scores = rescore(lambda source, texts: [[-float(len(words)) for words in row] for row in texts], [[4]], [[[5], []]])
    assert scores == [[-0.5, 0.0]]


@pytest.mark.parametrize("training", [False, True])
def test_teacher_scores_ragged_candidates(training: bool) -> None:
    teacher = Teacher(tiny_config("laptop", dropout=0.5).teacher(), 13).train(training)
    sources, candidates = word_rows([3, 5]), [[[5, 6], [], [7]], [[4, 4, 4, 4]]]
    totals = teacher_scorer(teacher)(sources, candidates)
    assert [len(row) for row in totals] == [3, 1]
    assert teacher.training == training
    teacher.eval()
    with torch.no_grad():
        for source, texts, row in zip(sources, candidates, totals, strict=True):
            for words, total in zip(texts, row, strict=True):
                alone = teacher.score(pad_batch([source]), pad_batch([words])[None])
                assert total == pytest.approx(float(alone), rel=1e-4)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="alpha: expected 0 or more"):
        rescore(lambda *_: [[0.0]], [[4]], [[[5]]], alpha=-1.0)
    with pytest.raises(ValueError, match=r"one score a candidate, \[1\] a sentence, got \[2\]"):
        rescore(lambda *_: [[0.0, math.nan]], [[4]], [[[5]]])
