"""The laptop experiment: English to German on short messages of free software, one entry point of `sextet.recipes`.

Corpus, teacher, distillation, vanilla NAT and its continuations are stages that all cells of a table share; a run
decodes the test set and scores it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from nat_crf.bleu import bleu_statistics, repeated_words
from nat_crf.catalogues import CATALOGUES, CATALOGUES_LARGE, sentences
from nat_crf.config import preset
from nat_crf.corpus_decoding import translate_all
from nat_crf.pipeline import Kind, Pairs, Plan, make_translator
from nat_crf.sentences import Sentences
from nat_crf.sequences import Words, remove_repeats
from nat_crf.significance import ratio_values, sentence_values
from nat_crf.training import OptimisationConfig
from nat_crf.word_corpus import WordCorpusConfig, build_corpus
from sextet.data import Passport, load
from sextet.files import write_atomic
from sextet.recipe import Metrics, Recipe, RunContext, Scores

PASSPORTS = {passport.name: passport for passport in (CATALOGUES, CATALOGUES_LARGE)}


def _optimisation(steps: int) -> OptimisationConfig:
    return OptimisationConfig(steps=steps, lr=2e-3, warmup=100, schedule="linear", save_every=300)


@dataclass(frozen=True)
class CatalogueConfig:
    """One cell: a model and a way to decode it.

    Attributes:
        model: the autoregressive `teacher` (beam 4), the vanilla NAT before (`nat-start`) and after (`nat`) the further
            training that turns it into a `crf` (static transitions) or `dcrf` (dynamic ones).
        lengths: decode at the reference's (`gold`) or the predicted length.
        candidates: target lengths tried; more than 1 are rescored by the teacher.
        beam: k of the CRF at decoding; None for that of training.
        deduplicate: collapse runs of one word.
        catalogues: name of the dataset.
        corpus: which of its pairs are kept.
        distilled: train on the teacher's translations; else on the references.
        preset: sizes of all models.
        teacher, start, further: training of the teacher, the vanilla NAT, and the models that start from it.
        max_pairs, max_tokens: of a batch.
        teacher_seed: the teacher is the same for all seeds.
    """

    model: Kind = "dcrf"
    lengths: Literal["gold", "predicted"] = "predicted"
    candidates: int = 1
    beam: int | None = None
    deduplicate: bool = False
    catalogues: str = "catalogues"
    corpus: WordCorpusConfig = field(default_factory=WordCorpusConfig)
    distilled: bool = True
    preset: str = "laptop"
    teacher: OptimisationConfig = field(default_factory=functools.partial(_optimisation, 600))
    start: OptimisationConfig = field(default_factory=functools.partial(_optimisation, 700))
    further: OptimisationConfig = field(default_factory=functools.partial(_optimisation, 200))
    max_pairs: int = 192
    max_tokens: int = 1536
    teacher_seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in ("teacher", "nat-start", "nat", "crf", "dcrf"):
            raise ValueError(f"model: expected teacher, nat-start, nat, crf or dcrf, got {self.model!r}")
        if self.lengths not in ("gold", "predicted"):
            raise ValueError(f"lengths: expected gold or predicted, got {self.lengths!r}")
        if self.candidates < 1 or (self.candidates > 1 and (self.lengths == "gold" or self.model == "teacher")):
            raise ValueError(
                f"candidates: expected 1, or more with predicted lengths of a NAT, got {self.candidates} with "
                f"model={self.model!r}, lengths={self.lengths!r}"
            )
        if self.model == "teacher" and self.lengths == "gold":
            raise ValueError("lengths: the teacher finds its own; expected predicted, got gold")
        if self.catalogues not in PASSPORTS:
            raise ValueError(f"catalogues: expected one of {', '.join(PASSPORTS)}, got {self.catalogues!r}")

    def plan(self) -> Plan:
        """How the models are made."""
        return Plan(
            network=preset(self.preset),
            teacher=self.teacher,
            start=self.start,
            further=self.further,
            distilled=self.distilled,
            max_tokens=self.max_tokens,
            max_pairs=self.max_pairs,
            teacher_seed=self.teacher_seed,
        )


@dataclass(frozen=True)
class Corpus:
    """What the corpus stage holds: sizes of the vocabularies, the words of the target's, and pairs by set."""

    source_vocab: int
    target_words: tuple[str, ...]
    folder: Path

    def pairs(self, part: Literal["train", "valid", "test"]) -> tuple[Sentences, Sentences]:
        """Sources and targets of one set."""
        source, target = (Sentences.load(self.folder / f"{part}.{side}.npz") for side in ("source", "target"))
        return source, target

    def training(self) -> Pairs:
        """The training set."""
        return Pairs(self.folder.name, *self.pairs("train"), self.source_vocab, len(self.target_words))


def run_catalogues(config: CatalogueConfig, context: RunContext) -> Metrics:
    """BLEU, repeated words (%) and exact matches (%) on the test set, one value a sentence."""
    corpus = corpus_stage(config, context)
    sources, references = corpus.pairs("test")
    lengths = references.lengths.tolist() if config.lengths == "gold" else None
    translate = make_translator(
        config.plan(),
        corpus.training(),
        config.model,
        context,
        sources,
        candidates=config.candidates,
        beam=config.beam,
        target_lengths=lengths,
    )
    found = translate_all(sources.lengths.tolist(), translate, max_tokens=2048)
    if config.deduplicate:
        found = [remove_repeats(words) for words in found]
    return score(found, references, corpus.target_words)


def score(found: Sequence[Words], references: Sequence[Words], vocabulary: Sequence[str]) -> Metrics:
    """Tokenised lower-cased BLEU, share of words equal to the one before (%), share of exact matches (%)."""
    hypotheses, wanted = (
        [" ".join(vocabulary[word] for word in words) for words in side] for side in (found, references)
    )
    repeats = np.array([[repeated_words(words), len(words)] for words in found])
    exact = [100.0 * (list(one) == list(other)) for one, other in zip(found, references, strict=True)]
    values = {
        "bleu": sentence_values(bleu_statistics(hypotheses, wanted)),
        "repeats": 100 * ratio_values(repeats[:, 0], repeats[:, 1]),
        "exact": exact,
    }
    return {name: Scores(tuple(map(float, value)), unit="sentence") for name, value in values.items()}


def corpus_stage(config: CatalogueConfig, context: RunContext) -> Corpus:
    """The pairs as word ids, and the vocabularies."""

    def build(folder: Path) -> None:
        arrays = load(PASSPORTS[config.catalogues], context.data_root)
        corpus = build_corpus(sentences(arrays, "english"), sentences(arrays, "german"), config.corpus)
        for part in ("train", "valid", "test"):
            for side, words in zip(("source", "target"), getattr(corpus, part), strict=True):
                Sentences.of(words).save(folder / f"{part}.{side}.npz")
        words = {"source": corpus.source_words, "target": corpus.target_words}
        write_atomic(folder / "vocabularies.json", json.dumps(words, ensure_ascii=False).encode())

    folder = context.stage("catalogue-words", {"catalogues": config.catalogues, "corpus": asdict(config.corpus)}, build)
    words = json.loads((folder / "vocabularies.json").read_text(encoding="utf-8"))
    return Corpus(len(words["source"]), tuple(words["target"]), folder)


def _data(config: CatalogueConfig) -> tuple[Passport, ...]:
    return (PASSPORTS[config.catalogues],)


RECIPE = Recipe(
    config=CatalogueConfig,
    run=run_catalogues,
    data=_data,
    describe="English-German translation of short messages: teacher, distillation, NAT, NAT-CRF, NAT-DCRF",
)
