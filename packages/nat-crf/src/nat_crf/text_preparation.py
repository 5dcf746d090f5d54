"""Raw parallel text to subword ids as the paper prepared it: Moses, joint byte-pair encoding, filters (Section 6)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nat_crf.codecs import MosesCodec, learn_byte_pairs, moses_tokens
from nat_crf.sentences import Sentences
from nat_crf.vocabulary import Vocabulary

CHUNK = 20_000
Tokens = list[str]
_NOTHING_LEFT = "texts: no training pair is left by the filters; expected sentences of similar length"


@dataclass(frozen=True)
class TextConfig:
    """How raw text becomes ids.

    Attributes:
        merges: byte-pair merges, learnt on both languages' training text together.
        least: a subword seen fewer times in training is not in the vocabulary.
        lowercase, split_hyphens: see `MosesCodec`.
        normalise: Moses' normalisation of punctuation and removal of control characters in the training text.
        longest: tokens of a training sentence.
        ratio: largest ratio of the two lengths.
        filter_subwords: count subwords in the two limits above; else words.
        every_for_valid: each so-manyth pair that is kept is for validation instead; 0 for none.
    """

    merges: int = 32_000
    least: int = 1
    lowercase: bool = False
    split_hyphens: bool = True
    normalise: bool = True
    longest: int = 250
    ratio: float = 1.5
    filter_subwords: bool = True
    every_for_valid: int = 0


WMT14_TEXT = TextConfig()
IWSLT14_TEXT = TextConfig(
    merges=10_000,
    least=5,
    lowercase=True,
    split_hyphens=False,
    normalise=False,
    longest=175,
    filter_subwords=False,
    every_for_valid=23,
)


@dataclass(frozen=True)
class PreparedText:
    """Codecs, and word ids by part and language: `ids["train", "en"]`."""

    codecs: dict[str, MosesCodec]
    ids: dict[tuple[str, str], Sentences]

    def save(self, folder: Path) -> None:
        """Write codecs and ids."""
        for language, codec in self.codecs.items():
            codec.save(folder / language)
        for (part, language), sentences in self.ids.items():
            sentences.save(folder / f"{part}.{language}.npz")


def keep_pair(first: int, second: int, config: TextConfig) -> bool:
    """Moses' clean-corpus: both sides have 1..`longest` tokens, neither more than `ratio` times the other."""
    shorter, longer = sorted((first, second))
    return shorter >= 1 and longer <= config.longest and longer <= config.ratio * shorter


def tokenise(texts: Sequence[str], language: str, config: TextConfig, *, training: bool) -> list[Tokens]:
    """Moses tokens of raw texts; training text is normalised before, if wanted."""
    normalise = training and config.normalise
    task = functools.partial(_tokenise_chunk, language=language, config=config, normalise=normalise)
    return _in_parallel(task, texts)


def prepare(texts: dict[str, list[str]], config: TextConfig) -> PreparedText:
    """Everything from raw text to ids.

    Args:
        texts: raw sentences by `train_en` ... `test_de`; `valid_*` only where `config.every_for_valid` is 0.
        config: how.

    Raises:
        ValueError: no training pair is left by the filters.
    """
    languages = ("en", "de")
    tokens = {
        (part, language): tokenise(texts[f"{part}_{language}"], language, config, training=part == "train")
        for part in ("train", "valid", "test")
        for language in languages
        if f"{part}_{language}" in texts
    }
    if not config.filter_subwords:
        _filter_training(tokens, config)
    if config.every_for_valid:
        for language in languages:
            pairs = tokens["train", language]
            tokens["valid", language] = pairs[config.every_for_valid - 1 :: config.every_for_valid]
            tokens["train", language] = [
                words for number, words in enumerate(pairs, start=1) if number % config.every_for_valid
            ]
    if not tokens["train", "en"]:
        raise ValueError(_NOTHING_LEFT)
    codes = learn_byte_pairs((words for language in languages for words in tokens["train", language]), config.merges)
    split = functools.partial(_split_chunk, codes=codes)
    subwords = {key: _in_parallel(split, sentences) for key, sentences in tokens.items()}
    if config.filter_subwords:
        _filter_training(subwords, config)
    if not subwords["train", "en"]:
        raise ValueError(_NOTHING_LEFT)
    return encode(subwords, codes, config)


def encode(
    subwords: dict[tuple[str, str], list[Tokens]], codes: Sequence[str] | None, config: TextConfig
) -> PreparedText:
    """Ids of subwords by the joint vocabulary of both sides' training text."""
    training = (words for language in ("en", "de") for words in subwords["train", language])
    vocabulary = Vocabulary.of(training, least=config.least)
    switches = {"lowercase": config.lowercase, "split_hyphens": config.split_hyphens}
    codecs = {language: MosesCodec(language, vocabulary, codes, **switches) for language in ("en", "de")}
    return PreparedText(codecs, {key: Sentences.of(map(vocabulary.encode, rows)) for key, rows in subwords.items()})


def _filter_training(sentences: dict[tuple[str, str], list[Tokens]], config: TextConfig) -> None:
    """Drop training pairs of extreme lengths, in place."""
    sides = sentences["train", "en"], sentences["train", "de"]
    kept = np.array([keep_pair(len(one), len(other), config) for one, other in zip(*sides, strict=True)], bool)
    for language, side in zip(("en", "de"), sides, strict=True):
        sentences["train", language] = [words for words, keep in zip(side, kept, strict=True) if keep]


def _tokenise_chunk(texts: Sequence[str], language: str, config: TextConfig, *, normalise: bool) -> list[Tokens]:
    if normalise:
        from sacremoses import MosesPunctNormalizer

        normaliser: Any = MosesPunctNormalizer(language, post_remove_control_chars=True)
        texts = [normaliser.normalize(text) for text in texts]
    switches = {"lowercase": config.lowercase, "split_hyphens": config.split_hyphens}
    return [moses_tokens(text, language, **switches) for text in texts]


def _split_chunk(sentences: Sequence[Tokens], codes: Sequence[str]) -> list[Tokens]:
    codec = MosesCodec("en", Vocabulary([]), codes)
    return [codec.subwords(words) for words in sentences]


def _in_parallel(task: Callable[[Sequence[Any]], list[Tokens]], items: Sequence[Any]) -> list[Tokens]:
    """Chunk by chunk, in several processes where there is more than one chunk."""
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    if len(chunks) < 2:
        return [row for chunk in chunks for row in task(chunk)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return [row for rows in pool.map(task, chunks) for row in rows]
