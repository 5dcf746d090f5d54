"""Corpus BLEU as a mean of sentence values."""

import numpy as np
import pytest

from nat_crf.bleu import bleu_statistics, corpus_bleu, repeated_words
from nat_crf.significance import ratio_values, sentence_values

WORDS = ["the", "a", "file", "cannot", "open", "new", "folder", "delete", "all", "copy"]


def texts(seed: int, n: int = 300) -> tuple[list[str], list[str]]:
    """References, and hypotheses that keep about 70 % of the words."""
    rng = np.random.default_rng(seed)
    references = [[str(word) for word in rng.choice(WORDS, rng.integers(4, 10))] for _ in range(n)]
    hypotheses = [[word if rng.random() < 0.7 else str(rng.choice(WORDS)) for word in text] for text in references]
    shorter = [text[: len(text) - int(rng.integers(0, 2))] for text in hypotheses]
    return [" ".join(text) for text in shorter], [" ".join(text) for text in references]


def test_worked_example() -> None:
    counts = bleu_statistics(["a b c d e"], ["a b c d f"])
    assert counts.tolist() == [[5, 5, 4, 3, 2, 1, 5, 4, 3, 2]]
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert sentence_values(counts).tolist() == pytest.approx([expected])
    assert repeated_words(["to", "to", "the", "the", "the"]) == 3


@pytest.mark.parametrize("seed", range(5))
def test_their_mean_is_the_corpus_score(seed: int) -> None:
    hypotheses, references = texts(seed)
    score = corpus_bleu(hypotheses, references)
    assert sentence_values(bleu_statistics(hypotheses, references)).mean() == pytest.approx(score.score, abs=1e-9)
    assert "tok:none" in score.signature


def test_their_spread_is_that_of_the_bootstrap() -> None:
    counts = bleu_statistics(*texts(7))
    values = sentence_values(counts)
    rng = np.random.default_rng(0)
    draws = [sentence_values(counts[rng.integers(0, len(counts), len(counts))]).mean() for _ in range(600)]
    assert values.std(ddof=1) / len(values) ** 0.5 == pytest.approx(np.std(draws), rel=0.12)


def test_no_match_of_some_order_is_zero() -> None:
    assert sentence_values(bleu_statistics(["a b", "c d"], ["a c", "c e"])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("counts", [np.zeros((0, 10), int), np.zeros((3, 9), int), -np.ones((2, 10), int)])
def test_bad_counts(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match="statistics: expected counts"):
        sentence_values(counts)


@pytest.mark.parametrize("pair", [(["a"], []), ([], [])])
def test_bad_texts(pair: tuple[list[str], list[str]]) -> None:
    with pytest.raises(ValueError, match="hypotheses: expected as many"):
        corpus_bleu(*pair)


def test_ratio_worked_example() -> None:
    values = ratio_values(np.array([1, 0, 2]), np.array([4, 3, 3]))
    assert values.mean() == pytest.approx(0.3)
    assert values.tolist() == pytest.approx([0.3 + 3 * (1 - 1.2) / 10, 0.3 - 3 * 0.9 / 10, 0.3 + 3 * (2 - 0.9) / 10])
    assert ratio_values(np.array([0, 0]), np.array([0, 0])).tolist() == [0.0, 0.0]


def test_spread_of_ratios_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(1, 12, 400)
    repeats = rng.binomial(words, 0.1)
    values = ratio_values(repeats, words)
    draws = [repeats[rows].sum() / words[rows].sum() for rows in rng.integers(0, 400, (600, 400))]
    assert values.std(ddof=1) / 20 == pytest.approx(np.std(draws), rel=0.12)


@pytest.mark.parametrize("pair", [([], []), ([1], [1, 2]), ([-1], [2]), ([[1]], [[2]])])
def test_bad_ratios(pair: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="counts: expected two vectors"):
        ratio_values(*map(np.array, pair))
