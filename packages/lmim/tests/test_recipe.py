"""The laptop recipe on made-up images laid out like Fashion-MNIST and CIFAR-10."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmim.recipe import DATASETS, RECIPE, LaptopConfig, arm_model, arm_pretraining, classifier_of, pixels, run_laptop
from lmim.vit import LocalMim
from sextet.data import fetch
from sextet.recipe import RunContext

QUICK = {
    "model": {"dim": 8, "depths": [7], "heads": [2], "decoder_dims": [8], "decoder_heads": 2},
    "steps_per_epoch": 2, "bank": 40, "test": 24, "labelled": 40, "mae_depth": 1,
    "pretraining": {"epochs": 2, "warmup_epochs": 1, "batch": 16},
    "fine_tuning": {"epochs": 2, "warmup_epochs": 0, "batch": 10},
}  # fmt: skip


class Nothing:
    """A source that has nothing to fetch."""

    def describe(self):
        return "nothing"

    def fetch(self, into):
        return {}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder with noisy patterns, one a class."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name, shape in (("fashion-mnist", (28, 28, 1)), ("cifar-10", (32, 32, 3))):
            rng = np.random.default_rng(0)
            patterns, arrays = rng.integers(0, 256, (10, *shape)), {}
            for split, count in (("train", 60), ("test", 30)):
                labels = np.arange(count) % 10
                noisy = 0.7 * patterns[labels] + 0.3 * rng.integers(0, 256, (count, *shape))
                arrays |= {f"{split}_images": noisy.astype(np.uint8), f"{split}_labels": labels}
            passport = replace(
                DATASETS[name], sources=(Nothing(),), decode=lambda _, a=arrays: a, content_sha256=None, counts={}
            )
            patch.setitem(DATASETS, name, passport)
            fetch(passport, folder)
        yield folder


def run(root, folder, seed=0, **values):
    context = RunContext(folder / "run", folder / "stages", seed, device="cpu", data_root=root)
    return run_laptop(RECIPE.configure({**QUICK, **values}), context)["accuracy"]


@pytest.mark.parametrize("measure", ["knn", "linear", "fine-tune"])
def test_patterns_are_recognised_and_a_second_run_is_the_same(root, tmp_path, measure):
    scores = run(root, tmp_path / "one", measure=measure)
    assert scores.unit == "image"
    assert len(scores.values) == 24
    assert scores == run(root, tmp_path / "two", measure=measure)
    if measure != "fine-tune":  # four steps are not enough there
        assert scores.mean > 0.3


def test_arms_differ_and_stages_are_shared(root, tmp_path):
    arms = ("local", "top", "mae", "single-scale", "fused", "isolated", "random")
    for arm in arms:
        run(root, tmp_path, arm=arm)
    count = len(list((tmp_path / "stages").glob("lmim-pretraining-*")))
    assert count == len(arms)
    run(root, tmp_path, arm="top", measure="linear")
    assert len(list((tmp_path / "stages").glob("lmim-pretraining-*"))) == count
    run(root, tmp_path, arm="top", equal_time=True, local_over_top=1.5)
    assert len(list((tmp_path / "stages").glob("lmim-pretraining-*"))) == count + 1


def test_equal_time_gives_cheaper_arms_more_epochs():
    base = LaptopConfig(local_over_top=1.5, local_over_mae=1.2)
    epochs = {arm: arm_pretraining(replace(base, arm=arm, equal_time=True)).epochs for arm in ("top", "mae")}
    assert epochs == {"top": round(1.5 * base.pretraining.epochs), "mae": round(1.2 * base.pretraining.epochs)}
    assert arm_pretraining(replace(base, arm="top")) == base.pretraining


def test_colour_images(root, tmp_path):
    model = {**QUICK["model"], "channels": 3}
    assert len(run(root, tmp_path, data="cifar-10", model=model).values) == 24


def test_small_images_get_a_margin(root, tmp_path):
    context = RunContext(tmp_path, tmp_path, 0, data_root=root)
    images, labels = pixels(LaptopConfig(), context, "train")
    assert images.shape == (60, 32, 32, 1)
    assert int(images[:, :2].max()) == int(images[:, :, 30:].max()) == 0
    some, kinds = pixels(LaptopConfig(), context, "train", 7)
    assert len(some) == len(kinds) == 7
    assert labels.tolist() == [number % 10 for number in range(60)]


def test_the_classifier_has_the_encoders_weights():
    config = LaptopConfig()
    model = LocalMim.of(arm_model(config))
    classifier = classifier_of(model, config.model, 10, 0.0).eval()
    images = torch.randn(2, 1, 32, 32)
    tokens = classifier.forward_features(images)
    everything = torch.arange(16.0).expand(2, -1) / 16
    torch.testing.assert_close(model.norm[3](tokens), model(images, 0.0, everything).latents[3])


def test_data():
    assert [RECIPE.data(LaptopConfig(data=name))[0].name for name in DATASETS] == ["fashion-mnist", "cifar10"]


@pytest.mark.parametrize("changes", [{"arm": "both"}, {"measure": "guess"}, {"data": "imagenet"}, {"equal_time": True}])
def test_bad_input(changes):
    with pytest.raises(ValueError, match=r"expected one of|expected an arm"):
        LaptopConfig(**changes)
