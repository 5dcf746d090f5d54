"""The multimodality problem in miniature: every source has two translations, and any mixture of them is wrong.

With `words`, a translation takes all its words from one of two vocabularies of synonyms; with `order`, it is the source
or its reverse, so that which word may follow which depends on the position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from nat_crf.batches import PairBatches
from nat_crf.config import preset
from nat_crf.corpus_decoding import nat_translator, translate_all
from nat_crf.models import Nat
from nat_crf.objective import ObjectiveConfig
from nat_crf.sequences import Words
from nat_crf.training import OptimisationConfig, fit, translator_objective
from sextet.cuda import select_device
from sextet.recipe import Metrics, Recipe, RunContext, Scores

FIRST_WORD = 4  # behind the special symbols


def _optimisation() -> OptimisationConfig:
    return OptimisationConfig(steps=300, lr=3e-3, warmup=30, schedule="linear", save_every=300)


@dataclass(frozen=True)
class MultimodalityConfig:
    """One cell.

    Attributes:
        crf: `none`, `static` or `dynamic` transitions.
        conflict: what the two translations of a source differ in, `words` or `order`.
        sources: how many there are; the models learn them by heart.
        vocabulary: words of the source language.
        shortest, longest: words of a sentence.
        optimisation: how the model is trained, from scratch.
        batch: pairs of a batch.
    """

    crf: Literal["none", "static", "dynamic"] = "static"
    conflict: Literal["words", "order"] = "words"
    sources: int = 50
    vocabulary: int = 30
    shortest: int = 4
    longest: int = 7
    optimisation: OptimisationConfig = field(default_factory=_optimisation)
    batch: int = 100

    def __post_init__(self) -> None:
        if self.conflict not in ("words", "order"):
            raise ValueError(f"conflict: expected words or order, got {self.conflict!r}")
        if self.sources < 1 or not 2 <= self.shortest <= self.longest:
            raise ValueError(
                "sources, shortest, longest: expected sources >= 1 and 2 <= shortest <= longest, "
                f"got {self.sources}, {self.shortest}, {self.longest}"
            )


def draw_sources(config: MultimodalityConfig, seed: int) -> list[list[int]]:
    """Random sentences of the source language, all different and none equal to its reverse."""
    generator, found = np.random.default_rng(seed), dict[tuple[int, ...], None]()
    while len(found) < config.sources:
        length = generator.integers(config.shortest, config.longest + 1)
        words = tuple(generator.integers(FIRST_WORD, FIRST_WORD + config.vocabulary, length).tolist())
        if words != words[::-1]:
            found.setdefault(words)
    return [list(words) for words in found]


def translations(words: Words, config: MultimodalityConfig) -> tuple[list[int], list[int]]:
    """The two right translations of a source."""
    if config.conflict == "order":
        return list(words), list(reversed(words))
    return list(words), [word + config.vocabulary for word in words]


def run_multimodality(config: MultimodalityConfig, context: RunContext) -> Metrics:
    """Per cent of the sources that are given one of their two translations whole, at the right length."""
    import torch

    device = select_device(context.device)
    sources = draw_sources(config, context.seed)
    pairs = [(words, target) for words in sources for target in translations(words, config)]
    batches = PairBatches(*zip(*pairs, strict=True), max_tokens=10**6, max_pairs=config.batch, seed=context.seed)
    torch.manual_seed(context.seed)
    vocabulary = FIRST_WORD + config.vocabulary * (2 if config.conflict == "words" else 1)
    model = Nat(preset("laptop", crf=config.crf, dim=64, ffn_dim=128, dropout=0.0), vocabulary)
    fit(
        model,
        translator_objective(model, ObjectiveConfig(label_smoothing=0.0)),
        batches,
        config.optimisation,
        context.directory / "training",
        seed=context.seed,
        device=device,
        title=f"{config.conflict} {config.crf}",
        rows=batches.rows,
    )
    lengths = [len(words) for words in sources]
    translate = nat_translator(model, sources, device=device, target_lengths=lengths)
    return {"whole": whole_translations(translate_all(lengths, translate, max_tokens=4096), sources, config)}


def whole_translations(found: Sequence[Words], sources: Sequence[Words], config: MultimodalityConfig) -> Scores:
    """100 for each output that is one of the two translations of its source, 0 for any other."""
    pairs = zip(found, sources, strict=True)
    return Scores(tuple(100.0 * (list(words) in translations(source, config)) for words, source in pairs), "sentence")


RECIPE = Recipe(
    config=MultimodalityConfig,
    run=run_multimodality,
    data=lambda _: (),
    describe="two conflicting translations a source: whole ones, or mixtures",
)
