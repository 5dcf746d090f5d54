"""A small parallel corpus of whole words: short pairs whose words are all frequent, so that no word is unknown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nat_crf.catalogues import split_of

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]|_")


@dataclass(frozen=True)
class WordCorpusConfig:
    """Which pairs are kept.

    Attributes:
        source_words, target_words: sizes of the vocabularies, special symbols not counted.
        min_words: of each side.
        max_source, max_target: words of each side.
        test, valid: shares of the test and validation sets.
    """

    source_words: int = 2000
    target_words: int = 3000
    min_words: int = 2
    max_source: int = 10
    max_target: int = 11
    test: float = 0.05
    valid: float = 0.02


Pairs = tuple[list[list[int]], list[list[int]]]
"""Source and target sentences as word ids without boundary symbols."""


@dataclass(frozen=True)
class WordCorpus:
    """Vocabularies and the three sets."""

    source_words: tuple[str, ...]
    target_words: tuple[str, ...]
    train: Pairs
    valid: Pairs
    test: Pairs


def tokenise(text: str) -> list[str]:
    """Lower-cased words, numbers and single punctuation marks."""
    return _WORD.findall(text.lower())


def frequent_words(sentences: Sequence[Sequence[str]], count: int) -> tuple[str, ...]:
    """The special symbols and the `count` most frequent words, in alphabetical order among equals."""
    counts = Counter(word for sentence in sentences for word in sentence)
    return (*SPECIAL, *sorted(counts, key=lambda word: (-counts[word], word))[:count])


def build_corpus(sources: Sequence[str], targets: Sequence[str], config: WordCorpusConfig) -> WordCorpus:
    """The short pairs of frequent words, unique by source, split by hash of the source text.

    Raises:
        ValueError: one of the three sets would be empty.
    """
    pairs = [(tokenise(source), tokenise(target)) for source, target in zip(sources, targets, strict=True)]
    least, most = config.min_words, (config.max_source, config.max_target)
    pairs = [(one, other) for one, other in pairs if least <= len(one) <= most[0] and least <= len(other) <= most[1]]
    source_words = frequent_words([pair[0] for pair in pairs], config.source_words)
    target_words = frequent_words([pair[1] for pair in pairs], config.target_words)
    source_ids, target_ids = ({word: i for i, word in enumerate(words)} for words in (source_words, target_words))
    sets: dict[str, Pairs] = {name: ([], []) for name in ("train", "valid", "test")}
    seen: set[tuple[str, ...]] = set()
    for source, target in pairs:
        key = tuple(source)
        if key in seen or not (source_ids.keys() >= set(source) and target_ids.keys() >= set(target)):
            continue
        seen.add(key)
        part = sets[split_of(" ".join(source), config.test, config.valid)]
        part[0].append([source_ids[word] for word in source])
        part[1].append([target_ids[word] for word in target])
    if not all(part[0] for part in sets.values()):
        raise ValueError(f"corpus: {len(seen)} pairs are left, too few for three sets; expected larger vocabularies")
    return WordCorpus(source_words, target_words, sets["train"], sets["valid"], sets["test"])
