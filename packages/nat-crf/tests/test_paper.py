"""The paper's experiments end to end, on small archives of the official layout and with a few updates."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nat_crf_testing.official_archives import write_distilled, write_iwslt14, write_wmt14

from nat_crf import paper
from nat_crf.codecs import MosesCodec
from nat_crf.paper import EXPERIMENTS, PaperConfig, build_translator, raw_texts, run_paper, score
from nat_crf.translation_sets import DISTILLED, IWSLT14, WMT14
from nat_crf.vocabulary import Vocabulary
from sextet.data import adopt
from sextet.recipe import Metrics, RunContext

SMALL = (("encoder_layers", 1), ("decoder_layers", 1), ("dim", 16), ("ffn_dim", 16), ("heads", 2), ("beam", 4))
CELL = PaperConfig(scale=2e-5, small=SMALL)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for passport, write in ((WMT14, write_wmt14), (IWSLT14, write_iwslt14), (DISTILLED, write_distilled)):
        folder = tmp_path_factory.mktemp("official")
        write(folder)
        adopt(passport, folder, root)
    return root


def run(config: PaperConfig, folder: Path, root: Path) -> Metrics:
    context = RunContext(
        directory=folder / "run", stages=folder / "stages", seed=1, device="cpu", data_root=root, progress=False
    )
    return run_paper(config, context)


def test_iwslt_cells(root: Path, tmp_path: Path) -> None:
    cells = [
        replace(CELL, model="teacher"),
        replace(CELL, model="nat", candidates=3),
        replace(CELL, model="crf", candidates=9, beam=2),
        replace(CELL, model="dcrf", deduplicate=True),
        replace(CELL, model="dcrf", warm_start=False, transition_std=1.0),
        replace(CELL, model="crf", preset="fairseq", lengths="learned", decoder_input="copy", distilled=False),
    ]
    for cell in cells:
        metrics = run(cell, tmp_path, root)
        assert metrics.keys() == {"bleu", "repeats", "sacrebleu"}
        assert {len(scores.values) for scores in metrics.values()} == {10}
    names = [path.name.rpartition("-")[0] for path in (tmp_path / "stages").iterdir() if path.is_dir()]
    assert (names.count("nat-crf-text"), names.count("nat-crf-teacher"), names.count("nat-crf-distilled")) == (1, 1, 1)


@pytest.mark.parametrize("dataset", ["wmt14-en-de", "wmt14-de-en", "wmt14-en-de-distilled"])
def test_wmt_cells(dataset: str, root: Path, tmp_path: Path) -> None:
    metrics = run(replace(CELL, dataset=dataset, model="nat-start"), tmp_path, root)
    assert len(metrics["bleu"].values) == (3 if dataset.endswith("distilled") else 5)
    assert ("sacrebleu" in metrics) == (not dataset.endswith("distilled"))
    stages = {path.name.rpartition("-")[0] for path in (tmp_path / "stages").iterdir() if path.is_dir()}
    assert ("nat-crf-teacher" in stages) == (not dataset.endswith("distilled"))


def test_a_translator_of_raw_text(root: Path, tmp_path: Path) -> None:
    context = RunContext(
        directory=tmp_path, stages=tmp_path / "stages", seed=1, device="cpu", data_root=root, progress=False
    )
    cell = replace(CELL, model="crf")
    translator = build_translator(cell, context)
    found = translator.translate(["Das alte Haus.", ""], candidates=3)
    assert len(found) == 2
    assert translator.teacher is not None
    assert translator.source.encode("DAS") == translator.source.encode("das")
    with pytest.raises(ValueError, match="got teacher"):
        build_translator(replace(cell, model="teacher"), context)


def test_messages_are_split_by_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    english = [f"message {number}" for number in range(400)]
    german = [f"Meldung {number}" for number in range(400)]
    arrays = {
        name: np.frombuffer("".join(f"{line}\n" for line in texts).encode(), np.uint8)
        for name, texts in (("english", english), ("german", german))
    }
    monkeypatch.setattr(paper, "load", lambda *_: arrays)
    texts = raw_texts(EXPERIMENTS["messages-en-de"], None)
    assert sorted(line for part in ("train", "valid", "test") for line in texts[f"{part}_en"]) == sorted(english)
    assert 2 <= len(texts["test_en"]) <= 25
    pairs = zip(texts["train_en"], texts["train_de"], strict=True)
    assert all(one.split()[1] == other.split()[1] for one, other in pairs)


def test_perfect_translations_score_100() -> None:
    text = "ein altes Haus & ein Hund ."
    codec = MosesCodec("de", Vocabulary(["ein", "altes", "Haus", "&amp;", "Hund", "."]))
    metrics = score([codec.encode(text)], [text], codec, raw=True)
    assert metrics["bleu"].mean == pytest.approx(100)
    assert metrics["sacrebleu"].mean == pytest.approx(100)
    subwords = score([codec.encode(text)], ["ein altes Ha@@ us &amp; ein Hund ."], codec, raw=False)
    assert subwords["bleu"].mean == pytest.approx(100)


def test_settings_as_published() -> None:
    english = PaperConfig(dataset="wmt14-en-de").network()
    assert (english.dim, english.encoder_layers, english.beam, english.rank) == (512, 6, 64, 32)
    assert (english.length_constant, english.positional_attention, english.decoder_input) == (2, True, "pad")
    assert PaperConfig(dataset="wmt14-de-en").network().length_constant == -2
    talks = PaperConfig(dataset="iwslt14-de-en", preset="fairseq").network()
    assert (talks.dim, talks.length, talks.positional_attention) == (256, "classifier", False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "wmt16"}, "dataset: expected one of"),
        ({"model": "rnn"}, "model: expected one of"),
        ({"preset": "laptop"}, "preset: expected one of"),
        ({"lengths": "gold"}, "lengths: expected one of"),
        ({"candidates": 0}, "candidates: expected 1"),
        ({"model": "teacher", "candidates": 9}, "1 for the teacher"),
        ({"scale": 0.0}, "scale: expected 0 < scale"),
    ],
)
def test_bad_cells(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PaperConfig(**changes)
