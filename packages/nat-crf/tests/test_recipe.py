"""The laptop experiments end to end, on a made-up corpus and with a few steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nat_crf import recipe
from nat_crf.multimodality import (
    MultimodalityConfig,
    draw_sources,
    run_multimodality,
    translations,
    whole_translations,
)
from nat_crf.recipe import CatalogueConfig, run_catalogues, score
from nat_crf.training import OptimisationConfig
from nat_crf.word_corpus import WordCorpusConfig
from sextet.recipe import RunContext

FEW = OptimisationConfig(steps=4, lr=1e-3, warmup=1, schedule="linear", save_every=2)
TINY = CatalogueConfig(
    corpus=WordCorpusConfig(source_words=40, target_words=40, test=0.1, valid=0.05),
    teacher=FEW,
    start=FEW,
    further=FEW,
    max_pairs=16,
)


def lines(texts: list[str]) -> np.ndarray:
    return np.frombuffer("".join(f"{text}\n" for text in texts).encode(), np.uint8)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    english = [[f"w{chr(97 + word)}" for word in generator.integers(0, 20, 2 + row % 5)] for row in range(200)]
    german = [[f"x{word}" for word in reversed(row)] for row in english]
    arrays = {"english": lines([" ".join(row) for row in english]), "german": lines([" ".join(row) for row in german])}

    def load(*_: Any) -> dict[str, np.ndarray]:
        return arrays

    monkeypatch.setattr(recipe, "load", load)


def context(folder: Path, seed: int = 1) -> RunContext:
    return RunContext(directory=folder / "run", stages=folder / "stages", seed=seed, device="cpu", progress=False)


@pytest.mark.usefixtures("made_up")
def test_every_cell_runs_and_stages_are_shared(tmp_path: Path) -> None:
    cells = [
        replace(TINY, model="teacher"),
        replace(TINY, model="nat-start", lengths="gold"),
        replace(TINY, model="nat", deduplicate=True),
        replace(TINY, model="crf", beam=4),
        replace(TINY, model="dcrf", candidates=3),
        replace(TINY, model="nat", distilled=False),
    ]
    found = [run_catalogues(cell, context(tmp_path)) for cell in cells]
    for metrics in found:
        assert metrics.keys() == {"bleu", "repeats", "exact"}
        assert len({len(scores.values) for scores in metrics.values()}) == 1
    assert found[2]["repeats"].mean == pytest.approx(0, abs=1e-9)
    stages = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "stages").iterdir() if path.is_dir())
    twice = ["nat-crf-nat", "nat-crf-start"]
    once = ["catalogue-words", "nat-crf-crf", "nat-crf-dcrf", "nat-crf-distilled", "nat-crf-teacher"]
    assert stages == sorted(2 * twice + once)


@pytest.mark.usefixtures("made_up")
def test_same_seed_same_numbers(tmp_path: Path) -> None:
    cell = replace(TINY, model="dcrf", lengths="gold")
    one, again = (run_catalogues(cell, context(tmp_path / name)) for name in ("a", "b"))
    assert one == again
    other = run_catalogues(cell, context(tmp_path / "a", seed=2))
    assert one["bleu"] != other["bleu"] or one["repeats"] != other["repeats"]


def test_scores_of_a_worked_example() -> None:
    vocabulary = ("<s>", "<pad>", "</s>", "<unk>", "a", "b", "c", "d", "e")
    metrics = score([[4, 5, 6, 7, 8], [4, 4]], [[4, 5, 6, 7, 8], [4, 5]], vocabulary)
    precisions = [6 / 7, 4 / 5, 1.0, 1.0]
    assert metrics["bleu"].mean == pytest.approx(100 * np.prod(precisions) ** 0.25)
    assert metrics["repeats"].mean == pytest.approx(100 / 7)
    assert metrics["exact"].values == (100.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "rnn"}, "model: expected teacher"),
        ({"lengths": "long"}, "lengths: expected gold"),
        ({"candidates": 0}, "candidates: expected 1"),
        ({"candidates": 9, "lengths": "gold"}, "candidates: expected 1, or more with predicted"),
        ({"model": "teacher", "lengths": "gold"}, "the teacher finds its own"),
        ({"catalogues": "wmt"}, "catalogues: expected one of"),
    ],
)
def test_bad_cells(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CatalogueConfig(**changes)


def test_two_translations_of_a_source() -> None:
    words = MultimodalityConfig(conflict="words", vocabulary=10)
    assert translations([4, 5, 6], words) == ([4, 5, 6], [14, 15, 16])
    order = replace(words, conflict="order")
    assert translations([4, 5, 6], order) == ([4, 5, 6], [6, 5, 4])
    scores = whole_translations([[14, 15, 16], [4, 15, 16], [4, 5]], [[4, 5, 6]] * 3, words)
    assert scores.values == (100.0, 0.0, 0.0)
    sources = draw_sources(words, 3)
    assert len({tuple(source) for source in sources}) == 50
    assert all(4 <= len(source) <= 7 and source != source[::-1] for source in sources)
    assert sources == draw_sources(words, 3)


def test_the_crf_says_one_translation_whole(tmp_path: Path) -> None:
    optimisation = OptimisationConfig(steps=80, lr=5e-3, warmup=10, schedule="linear", save_every=80)
    config = MultimodalityConfig(sources=8, optimisation=optimisation)
    whole = {
        crf: run_multimodality(replace(config, crf=crf), context(tmp_path / crf))["whole"].mean
        for crf in ("none", "static", "dynamic")
    }
    assert whole["none"] <= 50
    assert min(whole["static"], whole["dynamic"]) >= 87.5


@pytest.mark.parametrize("changes", [{"conflict": "tone"}, {"sources": 0}, {"shortest": 1}, {"shortest": 9}])
def test_bad_multimodality(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        MultimodalityConfig(**changes)
