"""Sentences as flat arrays, in memory and on disk."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat_crf.sentences import Sentences


def test_reads_like_the_lists_it_was_made_of() -> None:
    sentences = Sentences.of([[5, 6], [], [7]])
    assert list(sentences) == [[5, 6], [], [7]]
    assert sentences[-1] == [7]
    assert sentences.lengths.tolist() == [2, 0, 1]
    with pytest.raises(IndexError):
        sentences[3]


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=8))
def test_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("sentences") / "x.npz"
    Sentences.of(rows).save(path)
    assert list(Sentences.load(path, len(rows))) == rows


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    Sentences.of([[5, 6], [7]]).save(path)
    with pytest.raises(ValueError, match="expected 4 sentences, found 2"):
        Sentences.load(path, 4)
    whole = path.read_bytes()
    for damaged in (b"", b"torn", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            Sentences.load(path)
    for words, ends in (([5, 6], [2, 1]), ([5, 6], [1]), ([5], []), ([[5]], [1])):
        np.savez(path, words=np.array(words, np.int32), ends=np.array(ends, np.int64))
        with pytest.raises(ValueError, match="is damaged"):
            Sentences.load(path)
