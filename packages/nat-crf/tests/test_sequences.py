"""Batches of token sequences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat_crf.sequences import BOS, EOS, PAD, length_mask, pad_batch, remove_repeats, word_lists

ROWS = st.lists(st.lists(st.integers(3, 50), max_size=6), min_size=1, max_size=5)


def test_worked_example() -> None:
    words = [[5, 6, 7], [8]]
    assert pad_batch(words).tolist() == [[5, 6, 7, EOS], [8, EOS, PAD, PAD]]
    assert pad_batch(words, "bos-eos").tolist() == [[BOS, 5, 6, 7, EOS], [BOS, 8, EOS, PAD, PAD]]
    assert pad_batch(words, left=True).tolist() == [[5, 6, 7, EOS], [PAD, PAD, 8, EOS]]
    assert length_mask(torch.tensor([2, 0])).tolist() == [[True, True], [False, False]]
    assert remove_repeats(["a", "a", "b", "a"]) == ["a", "b", "a"]
    assert remove_repeats([]) == []


@given(rows=ROWS, boundaries=st.sampled_from(["eos", "bos-eos"]), left=st.booleans())
def test_words_come_back(rows: list[list[int]], boundaries, left: bool) -> None:
    tokens = pad_batch(rows, boundaries, left=left)
    assert word_lists(tokens, tokens != PAD) == rows


def test_masked_words_are_left_out() -> None:
    assert word_lists(torch.tensor([[5, 6, 7]]), torch.tensor([[True, True, False]])) == [[5, 6]]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least one sequence"):
        pad_batch([])
    with pytest.raises(ValueError, match="got a negative one"):
        pad_batch([[4, -1]])
