from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fslstm import cli
from fslstm.networks import make_base_learner
from fslstm.recipe import BASE, NOVEL, RECIPE, GlyphConfig, run_glyphs
from sextet.data import GLYPHS, fetch
from sextet.data.glyphs import CHARACTERS
from sextet.recipe import RunContext

QUICK = {
    "n_query": 3, "episodes": 10, "widths": [4, 4, 8, 8],
    "pretraining": {"steps": 12, "batch_size": 16},
    "meta": {"epochs": 1, "steps_per_epoch": 4, "decay": []},
}  # fmt: skip


class Nothing:
    """A source that has nothing to fetch."""

    def describe(self):
        return "nothing"

    def fetch(self, into):
        return {}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder with made-up glyphs: every character a pattern, twelve noisy images of it."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (62, 32, 32, 1))
    labels = np.arange(62).repeat(12)
    images = (0.7 * patterns[labels] + 0.3 * rng.integers(0, 256, (len(labels), 32, 32, 1))).astype(np.uint8)
    fonts = np.array(["a"])
    arrays = {"images": images, "labels": labels, "fonts": labels * 0, "font_names": fonts, "font_families": fonts,
              "font_sha256": fonts}  # fmt: skip
    folder = tmp_path_factory.mktemp("data")
    fetch(replace(GLYPHS, sources=(Nothing(),), decode=lambda _: arrays), folder)
    return folder


def run(root, folder, seed=0, **values):
    context = RunContext(folder / "run", folder / "stages", seed, device="cpu", data_root=root)
    return run_glyphs(RECIPE.configure({**QUICK, **values}), context)["accuracy"]


def test_base_and_novel_characters_are_disjoint():
    assert len(BASE) == 26
    assert len(set(NOVEL)) == 20
    assert not {*BASE} & {*NOVEL}
    assert {*BASE, *NOVEL} <= {*CHARACTERS}
    assert not {letter.lower() for letter in "CFIJKLMOPSUVWXYZ"} & {*NOVEL}


@pytest.mark.parametrize("learn", ["nothing", "attention", "everything"])
def test_every_way_of_learning_gives_scores(root, tmp_path, learn):
    scores = run(root, tmp_path, head="ls_svm", psm_rounds=2, learn=learn, iam=learn != "nothing")
    assert len(scores.values) == 10
    assert scores.mean > 0.5


def test_everything_is_decided_by_config_and_seed(root, tmp_path):
    first = run(root, tmp_path / "a", learn="attention", iam=True)
    assert run(root, tmp_path / "b", learn="attention", iam=True) == first
    assert run(root, tmp_path / "c", learn="attention", iam=True, seed=1) != first


def test_heads_share_the_embedding_and_differ_in_their_answers(root, tmp_path):
    found = {head: run(root, tmp_path, head=head, ridge=50.0) for head in ("prototype", "ridge", "svm", "ls_svm")}
    assert len(list((tmp_path / "stages").glob("glyph-embedding-*"))) == 1
    assert len(set(found.values())) > 1


def test_the_embedding_of_one_shot_serves_the_other_but_not_the_attention(root, tmp_path):
    for shot in (1, 3):
        run(root, tmp_path, n_shot=shot, learn="attention", iam=True)
    assert len(list((tmp_path / "stages").glob("glyph-embedding-*"))) == 1
    assert len(list((tmp_path / "stages").glob("glyph-learning-*"))) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learn": "all"}, "expected nothing, attention or everything, got 'all'"),
        ({"iam": True}, "the attention module must learn"),
        ({"learn": "attention"}, "the attention module must learn"),
    ],
)
def test_configs_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        GlyphConfig(**values)


def test_unknown_heads():
    with pytest.raises(ValueError, match="expected one of prototype, ridge, svm, ls_svm, got 'lssvm'"):
        make_base_learner("lssvm", ridge=0.1, cost=0.1)


def test_the_command_line_follows_the_config(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fslstm", "glyphs", "--help"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--folder", "--seed", "--n-shot", "--psm-rounds", "--pretraining.lr"):
        assert option in shown
