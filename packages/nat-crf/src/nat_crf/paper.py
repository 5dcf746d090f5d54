"""The paper's own experiments on WMT14 and IWSLT14, and the same on open messages in subwords (Sections 6 to 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from nat_crf.bleu import bleu_statistics, repeated_words
from nat_crf.catalogues import CATALOGUES_LARGE, sentences, split_of
from nat_crf.codecs import MosesCodec, load_codec
from nat_crf.config import NatConfig, preset
from nat_crf.corpus_decoding import translate_all
from nat_crf.model_folder import load_nat, load_teacher
from nat_crf.pipeline import Kind, Pairs, Plan, make_translator, model_stage, teacher_stage
from nat_crf.sentences import Sentences
from nat_crf.sequences import Words, remove_repeats
from nat_crf.significance import ratio_values, sentence_values
from nat_crf.text_preparation import IWSLT14_TEXT, WMT14_TEXT, TextConfig, encode, prepare
from nat_crf.training import OptimisationConfig
from nat_crf.translation_sets import DISTILLED, IWSLT14, LANGUAGES, PARTS, WMT14, lines
from nat_crf.translator import Translator
from sextet.data import Passport, load
from sextet.recipe import Metrics, Recipe, RunContext, Scores


@dataclass(frozen=True)
class Experiment:
    """What differs between the paper's datasets.

    Attributes:
        passport: of the data.
        source: source language; the other one is the target's.
        preset: sizes.
        length_constant: C of Section 3.4, as published.
        dropout: of all models.
        text: preparation.
        teacher, start, further: training.
        max_tokens: of a batch.
    """

    passport: Passport
    source: Literal["en", "de"]
    preset: str
    length_constant: int
    dropout: float
    text: TextConfig
    teacher: OptimisationConfig
    start: OptimisationConfig
    further: OptimisationConfig
    max_tokens: int

    @property
    def target(self) -> Literal["en", "de"]:
        """The target language."""
        return "de" if self.source == "en" else "en"


def _wmt(passport: Passport, source: Literal["en", "de"], length_constant: int) -> Experiment:
    # 16 batches of 4,096 tokens an update: below 64k several BLEU are lost
    common = {"lr": 1e-3, "warmup": 8000, "average": 5, "save_every": 1000, "precision": "bf16", "accumulate": 16}
    return Experiment(
        passport=passport,
        source=source,
        preset="paper",
        length_constant=length_constant,
        dropout=0.1,
        text=WMT14_TEXT,
        teacher=OptimisationConfig(steps=100_000, **common),
        start=OptimisationConfig(steps=200_000, **common),
        further=OptimisationConfig(steps=50_000, **common | {"lr": 3e-4, "warmup": 1000}),
        max_tokens=4096,
    )


def _iwslt() -> Experiment:
    common = {"lr": 1e-3, "warmup": 4000, "average": 5, "save_every": 1000, "precision": "bf16", "accumulate": 2}
    return Experiment(
        passport=IWSLT14,
        source="de",
        preset="paper-iwslt14",
        length_constant=2,
        dropout=0.3,
        text=IWSLT14_TEXT,
        teacher=OptimisationConfig(steps=50_000, **common),
        start=OptimisationConfig(steps=100_000, **common),
        further=OptimisationConfig(steps=30_000, **common | {"lr": 3e-4, "warmup": 1000}),
        max_tokens=8192,
    )


def _messages(steps: int) -> OptimisationConfig:
    return OptimisationConfig(
        steps=steps, lr=1e-3, warmup=steps // 10, schedule="linear", save_every=500, precision="bf16", accumulate=2
    )


EXPERIMENTS = {
    "wmt14-en-de": _wmt(WMT14, "en", 2),
    "wmt14-de-en": _wmt(WMT14, "de", -2),
    "wmt14-en-de-distilled": _wmt(DISTILLED, "en", 2),
    "iwslt14-de-en": _iwslt(),
    "messages-en-de": replace(
        _iwslt(),
        passport=CATALOGUES_LARGE,
        source="en",
        length_constant=0,
        dropout=0.1,
        text=replace(WMT14_TEXT, merges=8000, normalise=False, longest=100),
        teacher=_messages(8000),
        start=_messages(10_000),
        further=_messages(2500),
    ),
}


@dataclass(frozen=True)
class PaperConfig:
    """One cell of the paper's tables.

    Attributes:
        dataset: `wmt14-en-de`, `wmt14-de-en`, `iwslt14-de-en`, the ready-made `wmt14-en-de-distilled`, or
            `messages-en-de`, open data that needs no manual download.
        model: `teacher`, `nat-start` (the vanilla NART), `nat` (trained on as long as the CRFs), `crf`, `dcrf`.
        candidates: target lengths; 9 and 19 are rescored by the teacher.
        beam: k at decoding; None for 64, that of training.
        preset: `paper` (the dataset's sizes) or `fairseq` (conventions and initial values of the re-implementation,
            at the same sizes).
        positional_attention, decoder_input: see `NatConfig`; None for the preset's.
        lengths: `constant`, source length plus a constant, or `learned`; None for the preset's.
        warm_start: CRF models start from the trained NART; else from scratch.
        transition_std: of the CRF's initial transition factors.
        distilled: train on the teacher's translations; the ready-made set is distilled as it is.
        deduplicate: collapse runs of one subword.
        scale: shrinks all numbers of updates, for trials; 1 is the paper's budget.
        small: sizes to replace the preset's, for trials, as (name, value).
    """

    dataset: str = "iwslt14-de-en"
    model: Kind = "dcrf"
    candidates: int = 1
    beam: int | None = None
    preset: Literal["paper", "fairseq"] = "paper"
    positional_attention: bool | None = None
    decoder_input: Literal["pad", "mask", "copy"] | None = None
    lengths: Literal["constant", "learned"] | None = None
    warm_start: bool = True
    transition_std: float = 0.1
    distilled: bool = True
    deduplicate: bool = False
    scale: float = 1.0
    small: tuple[tuple[str, int], ...] = field(default=())

    def __post_init__(self) -> None:
        choices = {
            "dataset": tuple(EXPERIMENTS),
            "model": ("teacher", "nat-start", "nat", "crf", "dcrf"),
            "preset": ("paper", "fairseq"),
            "lengths": (None, "constant", "learned"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        if self.candidates < 1 or (self.model == "teacher" and self.candidates > 1):
            raise ValueError(f"candidates: expected 1 or more, 1 for the teacher; got {self.candidates}")
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale: expected 0 < scale <= 1, got {self.scale}")

    @property
    def experiment(self) -> Experiment:
        """What the dataset determines."""
        return EXPERIMENTS[self.dataset]

    def network(self) -> NatConfig:
        """The vanilla NART of this cell."""
        experiment = self.experiment
        sizes = preset(experiment.preset)
        changes = {
            name: getattr(sizes, name) for name in ("encoder_layers", "decoder_layers", "dim", "ffn_dim", "heads")
        }
        changes |= {"length_constant": experiment.length_constant, "dropout": experiment.dropout}
        changes |= {} if self.positional_attention is None else {"positional_attention": self.positional_attention}
        changes |= {} if self.decoder_input is None else {"decoder_input": self.decoder_input}
        if self.lengths is not None:
            changes["length"] = "constant" if self.lengths == "constant" else "classifier"
        return preset(self.preset, **(changes | dict(self.small)))

    def plan(self) -> Plan:
        """How the models are made."""
        experiment = self.experiment
        return Plan(
            network=self.network(),
            teacher=self._scaled(experiment.teacher),
            start=self._scaled(experiment.start),
            further=self._scaled(experiment.further),
            # The ready-made set's targets are translations of a teacher already
            distilled=self.distilled and experiment.passport is not DISTILLED,
            warm=self.warm_start,
            transition_std=self.transition_std,
            max_tokens=experiment.max_tokens,
        )

    def _scaled(self, config: OptimisationConfig) -> OptimisationConfig:
        if self.scale == 1:
            return config
        steps = max(2, round(config.steps * self.scale))
        every = max(1, round(config.save_every * self.scale))
        warmup = max(1, round(config.warmup * self.scale))
        return replace(config, steps=steps, warmup=min(warmup, steps - 1), save_every=every, precision="fp32")


@dataclass(frozen=True)
class PreparedSet:
    """A folder with `<part>.<language>.npz`, codecs in `en/` and `de/`."""

    folder: Path

    def ids(self, part: str, language: str) -> Sentences:
        """Word ids of one side of one part."""
        return Sentences.load(self.folder / f"{part}.{language}.npz")

    def codec(self, language: str) -> MosesCodec:
        """Text to ids and back."""
        codec = load_codec(self.folder / language)
        assert isinstance(codec, MosesCodec)
        return codec

    def pairs(self, experiment: Experiment) -> Pairs:
        """The training set."""
        source, target = experiment.source, experiment.target
        sizes = len(self.codec(source)), len(self.codec(target))
        return Pairs(self.folder.name, self.ids("train", source), self.ids("train", target), *sizes)


def run_paper(config: PaperConfig, context: RunContext) -> Metrics:
    """Tokenised BLEU (the paper's), sacreBLEU on raw text, words repeated (%): one value a test sentence."""
    prepared, experiment = text_stage(config, context), config.experiment
    codec, pairs = prepared.codec(experiment.target), prepared.pairs(experiment)
    sources = prepared.ids("test", experiment.source)
    translate = make_translator(
        config.plan(), pairs, config.model, context, sources, candidates=config.candidates, beam=config.beam
    )
    found = translate_all(sources.lengths.tolist(), translate, max_tokens=experiment.max_tokens)
    if config.deduplicate:
        found = [remove_repeats(words) for words in found]
    references = raw_texts(experiment, context.data_root)[f"test_{experiment.target}"]
    return score(found, references, codec, raw=experiment.passport is not DISTILLED)


def build_translator(config: PaperConfig, context: RunContext) -> Translator:
    """The cell's model, trained where it is not yet, as a translator of raw text; with the teacher if it has one.

    Raises:
        ValueError: `config.model` is the teacher.
    """
    if config.model == "teacher":
        raise ValueError("model: expected a non-autoregressive one, got teacher")
    prepared, experiment, plan = text_stage(config, context), config.experiment, config.plan()
    pairs = prepared.pairs(experiment)
    model = load_nat(model_stage(plan, pairs, config.model, context))
    teacher = load_teacher(teacher_stage(plan, pairs, context)) if plan.distilled else None
    codecs = prepared.codec(experiment.source), prepared.codec(experiment.target)
    return Translator(model, *codecs, teacher, device=context.device)


def score(found: Sequence[Words], references: Sequence[str], codec: MosesCodec, *, raw: bool) -> Metrics:
    """The metrics of translations.

    Args:
        found: word ids.
        references: raw text; subwords where `raw` is false.
        codec: of the target language.
        raw: whether the references are raw text.
    """
    hypotheses = [codec.tokens(words) for words in found]
    wanted = [codec.tokenise(text) if raw else text.replace("@@ ", "").split() for text in references]
    repeats = np.array([[repeated_words(words), len(words)] for words in hypotheses])
    joined = [[" ".join(words) for words in side] for side in (hypotheses, wanted)]
    values = {
        "bleu": sentence_values(bleu_statistics(joined[0], joined[1])),
        "repeats": 100 * ratio_values(repeats[:, 0], repeats[:, 1]),
    }
    if raw:
        texts = [codec.decode(words) for words in found]
        lowercase = codec.lowercase
        values["sacrebleu"] = sentence_values(bleu_statistics(texts, references, "13a", lowercase=lowercase))
    return {name: Scores(tuple(map(float, value)), unit="sentence") for name, value in values.items()}


def raw_texts(experiment: Experiment, root: Path | None) -> dict[str, list[str]]:
    """Sentences by `train_en` ... `test_de`; messages are split by hash, 3 % for test and 1 % for validation."""
    arrays = load(experiment.passport, root)
    if experiment.passport is not CATALOGUES_LARGE:
        return {name: lines(arrays, name) for name in arrays}
    texts: dict[str, list[str]] = {f"{part}_{side}": [] for part in PARTS for side in LANGUAGES}
    for english, german in zip(sentences(arrays, "english"), sentences(arrays, "german"), strict=True):
        part = split_of(english, test=0.03, valid=0.01)
        texts[f"{part}_en"].append(english)
        texts[f"{part}_de"].append(german)
    return texts


def text_stage(config: PaperConfig, context: RunContext) -> PreparedSet:
    """Subword ids of all parts, and the codecs."""
    experiment = config.experiment

    def build(folder: Path) -> None:
        texts = raw_texts(experiment, context.data_root)
        if experiment.passport is DISTILLED:
            keys = [(part, language) for part in ("train", "valid", "test") for language in ("en", "de")]
            subwords = {key: [line.split() for line in texts["_".join(key)]] for key in keys}
            encode(subwords, None, experiment.text).save(folder)
        else:
            prepare(texts, experiment.text).save(folder)

    stage = {"dataset": experiment.passport.name, "text": asdict(experiment.text)}
    return PreparedSet(context.stage("nat-crf-text", stage, build))


PAPER = Recipe(
    config=PaperConfig,
    run=run_paper,
    data=lambda config: (config.experiment.passport,),
    describe="WMT14 and IWSLT14 as in the paper: teacher, distillation, NART, NART-CRF, NART-DCRF",
)
