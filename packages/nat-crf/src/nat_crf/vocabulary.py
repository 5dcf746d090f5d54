"""The words of a language and their ids; on disk in fairseq's format, a word and its count a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nat_crf.sequences import UNK, Words
from nat_crf.word_corpus import SPECIAL
from sextet.files import write_atomic

MAX_WORDS = 2_000_000


class Vocabulary:
    """Words with ids in a fixed order, behind `<s>`, `<pad>`, `</s>`, `<unk>`.

    Args:
        words: without the special symbols.
        counts: how often each was seen; None for unknown.

    Raises:
        ValueError: a word twice, one that is empty or has a space in it, or counts of another number.
    """

    def __init__(self, words: Sequence[str], counts: Sequence[int] | None = None) -> None:
        self.words = (*SPECIAL, *words)
        self.counts = [0] * len(words) if counts is None else list(counts)
        self.ids = {word: index for index, word in enumerate(self.words)}
        if len(self.counts) != len(words):
            raise ValueError(f"counts: expected one a word, {len(words)}, got {len(self.counts)}")
        if len(self.ids) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"words: expected each once, got {twice!r} again")
        bad = next((word for word in words if not word or word.split() != [word]), None)
        if bad is not None:
            raise ValueError(f"words: expected words without spaces, got {bad!r}")

    @classmethod
    def of(cls, sentences: Iterable[Sequence[str]], *, size: int | None = None, least: int = 1) -> Vocabulary:
        """The `size` most frequent words seen at least `least` times, in alphabetical order among equals."""
        counts = Counter(word for sentence in sentences for word in sentence if word not in SPECIAL)
        order = sorted((word for word in counts if counts[word] >= least), key=lambda word: (-counts[word], word))
        kept = order[:size]
        return cls(kept, [counts[word] for word in kept])

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a `dict.txt`, ours or fairseq's.

        Raises:
            ValueError: the file is not one.
        """
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected a vocabulary ({error})") from error
        words, counts = [], []
        for number, line in enumerate(lines, start=1):
            if not line and number == len(lines):
                break
            word, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
            if not count.isascii() or not count.isdecimal() or number > MAX_WORDS or len(count) > 18:
                raise ValueError(f"{path}, line {number}: expected a word and its count, got {line[:80]!r}")
            words.append(word)
            counts.append(int(count))
        try:
            return cls(words, counts)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Write a `dict.txt`."""
        pairs = zip(self.words[len(SPECIAL) :], self.counts, strict=True)
        write_atomic(path, "".join(f"{word} {count}\n" for word, count in pairs).encode())

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Sequence[str]) -> list[int]:
        """Ids of words, that of `<unk>` for those that are not in the vocabulary."""
        return [self.ids.get(word, UNK) for word in words]

    def decode(self, ids: Words) -> list[str]:
        """Words of ids.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        wrong = next((index for index in ids if not 0 <= index < len(self.words)), None)
        if wrong is not None:
            raise ValueError(f"ids: expected 0..{len(self.words) - 1}, got {wrong}; is this the model's vocabulary?")
        return [self.words[index] for index in ids]
