"""Many sentences of word ids as two flat arrays, in memory and on disk."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nat_crf.sequences import Words
from sextet.files import write_atomic


class Sentences(Sequence[Words]):
    """A sequence of sentences that takes 4 bytes a word and 8 a sentence.

    Args:
        words: `[w]` int32, the words of all sentences.
        ends: `[n]` int64, where each sentence ends.

    Raises:
        ValueError: the ends do not divide the words.
    """

    def __init__(self, words: NDArray[np.int32], ends: NDArray[np.int64]) -> None:
        if words.ndim != 1 or ends.ndim != 1 or words.dtype != np.int32 or ends.dtype != np.int64:
            raise ValueError("expected one int32 array of words and one int64 array of ends")
        if (np.diff(ends, prepend=0) < 0).any() or (ends[-1] if len(ends) else 0) != len(words):
            raise ValueError(f"the ends of {len(ends)} sentences do not divide {len(words)} words")
        self.words, self.ends = words, ends

    @classmethod
    def of(cls, sentences: Iterable[Words]) -> Sentences:
        """From sequences of ids."""
        rows = [np.asarray(sentence, np.int32) for sentence in sentences]
        words = np.concatenate(rows) if rows else np.zeros(0, np.int32)
        return cls(words, np.cumsum([len(row) for row in rows], dtype=np.int64))

    @classmethod
    def load(cls, path: Path, size: int | None = None) -> Sentences:
        """Read what `save` wrote.

        Args:
            path: of the file.
            size: the number of sentences it must hold; None for any.

        Raises:
            ValueError: the file is damaged, or holds another number of sentences.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                sentences = cls(archive["words"], archive["ends"])
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it to have it made again") from error
        if size is not None and len(sentences) != size:
            found = len(sentences)
            raise ValueError(f"{path}: expected {size} sentences, found {found}; delete it to have it made again")
        return sentences

    def save(self, path: Path) -> None:
        """Write an npz archive, complete or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, words=self.words, ends=self.ends)
        write_atomic(path, buffer.getvalue())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Words of each sentence, `[n]`."""
        return np.diff(self.ends, prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> list[int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The words of one sentence."""
        index = range(len(self))[index]
        return self.words[self.ends[index - 1] if index else 0 : self.ends[index]].tolist()
