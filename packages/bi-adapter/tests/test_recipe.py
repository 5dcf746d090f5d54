"""The laptop's recipe on made-up garments and digits: every way to tune, what is shared, what a killed run becomes."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from bi_adapter_testing.made_up import adopt_arrays

import bi_adapter.recipe
from bi_adapter.backbone import Architecture
from bi_adapter.noise import PTQ_STRENGTH
from bi_adapter.recipe import METHODS, RECIPE, TARGETS, LaptopConfig, laptop_data, make_lab, make_model, run_laptop
from bi_adapter.small_vit import PretrainingConfig
from bi_adapter.training import FineTuning
from sextet.data import FASHION_MNIST, MNIST
from sextet.errors import Interrupted
from sextet.recipe import RunContext

TINY = {
    "dim": 2, "scales": [1.0, 10.0], "search_epochs": 1, "draws": 2, "test_images": 60,
    "tuning": {"epochs": 2, "batch_size": 100, "warmup": 0, "lr": 0.01},
    "architecture": {"image_size": 28, "patch_size": 14, "in_chans": 1, "dim": 12, "depth": 2, "heads": 2},
    "pretraining": {"images": 200, "epochs": 1, "batch_size": 100},
}  # fmt: skip


def made_up(seed):
    """Arrays like MNIST's: ten noisy patterns."""
    rng = np.random.default_rng(seed)
    patterns, made = rng.integers(0, 256, (10, 28, 28, 1)), {}
    for part, count in (("train", 1200), ("test", 80)):
        labels = rng.integers(0, 10, count)
        made[f"{part}_images"] = (0.6 * patterns[labels] + 0.4 * rng.integers(0, 256, (count, 28, 28, 1))).astype(
            np.uint8
        )
        made[f"{part}_labels"] = labels
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, passport in enumerate((FASHION_MNIST, MNIST)):
        adopt_arrays(passport, made_up(seed), folder)
    return folder


@pytest.fixture(autouse=True)
def any_content(monkeypatch):
    """The datasets may be made up."""
    for name in ("FASHION_MNIST", "MNIST"):
        monkeypatch.setattr(bi_adapter.recipe, name, replace(getattr(bi_adapter.recipe, name), content_sha256=None))


@pytest.fixture
def context(root, tmp_path):
    return RunContext(tmp_path / "run", tmp_path / "stages", 0, device="cpu", data_root=root)


def run(context, **values):
    return run_laptop(RECIPE.configure({**TINY, **values}), context)


def stages(context):
    return Counter(path.name.rpartition("-")[0] for path in context.stages.iterdir() if path.is_dir())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_tune_gives_a_score_an_image(context, target, method):
    scores = run(context, target=target, method=method, bits=1)["accuracy"]
    assert (len(scores.values), scores.unit) == (60, "image")
    assert set(scores.values) <= {0.0, 1.0}
    tuned = {"small-vit": 1, f"tuned-{target}": 1}
    assert stages(context) == tuned | ({f"scale-{target}": 1} if method == "adaptformer" else {})


def test_tuning_helps(context):
    tuning = {**TINY["tuning"], "epochs": 20}
    assert run(context, bits=32, dim=8, tuning=tuning)["accuracy"].mean > 0.5
    assert run(context, method="full", tuning=tuning)["accuracy"].mean > 0.5


def test_cells_share_what_they_have_in_common(context):
    for values in ({}, {"noise": 0.5}, {"noise_like_bits": 1}, {"ptq_bits": 2}, {"ptq_bits": 1}):
        run(context, bits=32, **values)
    assert stages(context) == {"small-vit": 1, "scale-mnist": 1, "tuned-mnist": 1}
    run(replace(context, seed=1), bits=32)
    assert stages(context) == {"small-vit": 1, "scale-mnist": 1, "tuned-mnist": 2}
    run(context, bits=1)
    assert stages(context) == {"small-vit": 1, "scale-mnist": 2, "tuned-mnist": 3}


def test_noise_costs_and_its_cost_is_the_difference(context):
    clean = run(context, bits=32)["accuracy"]
    for bits in (1, 32):
        shaken = run(context, bits=bits, noise=30.0)
        plain = run(context, bits=bits)["accuracy"]
        drops = np.subtract(plain.values, shaken["accuracy"].values)
        np.testing.assert_allclose(shaken["drop"].values, drops)
        assert set(np.multiply(shaken["accuracy"].values, 2)) <= {0.0, 1.0, 2.0}  # two draws
        assert np.abs(drops).max() > 0
    assert run(context, bits=32, noise=1e-9)["accuracy"] == clean
    assert run(context, bits=32, noise_like_bits=2) == run(context, bits=32, noise=PTQ_STRENGTH[2])


def test_everything_is_decided_by_config_and_seed(context, tmp_path):
    def trained(folder, seed):
        place = RunContext(folder / "run", folder / "stages", seed, device="cpu", data_root=context.data_root)
        return run(place, bits=2, dim=4, noise=3.0)

    first = trained(tmp_path / "a", 0)
    assert trained(tmp_path / "b", 0) == first
    assert trained(tmp_path / "a", 1) != first


def test_the_scale_is_chosen_without_the_test_images(context, monkeypatch):
    seen = []
    real = bi_adapter.recipe.hits

    def watched(model, draw, labels, **options):
        seen.append(len(labels))
        return real(model, draw, labels, **options)

    monkeypatch.setattr(bi_adapter.recipe, "hits", watched)
    run(context)
    assert seen == [200, 200, 60]
    told = json.loads(next(context.stages.glob("scale-*/scale.json")).read_text())
    best = max(told["accuracies"].values())
    assert told["scale"] == min(float(scale) for scale, value in told["accuracies"].items() if value == best)


def test_stored_inputs_are_what_the_model_reads(context):
    """The tuned tail on what was computed once: the whole model on the images."""
    lab = make_lab(RECIPE.configure(TINY), context)
    model = make_model(lab, 10.0, 3).eval()
    rows = torch.arange(5)
    images = (lab.target.pixels[rows].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    torch.testing.assert_close(model(lab.draw(0)(rows, torch.Generator())), model.model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop_at", ["backbone", "scale", "tuned"])
def test_a_stopped_run_continues_to_the_same_scores(context, tmp_path, monkeypatch, stop_at):
    whole = run(context)
    place = RunContext(tmp_path / "b/run", tmp_path / "b/stages", 0, device="cpu", data_root=context.data_root)
    name = "pretrain" if stop_at == "backbone" else "fine_tune"
    real, waiting = getattr(bi_adapter.recipe, name), {"backbone": 0, "scale": 1, "tuned": 2}[stop_at]
    calls = iter(range(100))

    def stopping(model, *arguments, **options):
        if next(calls) == waiting:
            model.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        return real(model, *arguments, **options)

    monkeypatch.setattr(bi_adapter.recipe, name, stopping)
    with pytest.raises(Interrupted):
        run(place)
    monkeypatch.setattr(bi_adapter.recipe, name, real)
    assert run(place) == whole


def test_the_data_that_a_cell_needs():
    names = {target: [passport.name for passport in laptop_data(LaptopConfig(target=target))] for target in TARGETS}
    assert names == {"mnist": ["fashion-mnist", "mnist"], "rot8": ["fashion-mnist"]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"target": "cifar"}, "target: expected one of mnist, rot8"),
        ({"bits": 3}, "bits: expected one of"),
        ({"dim": 0}, "dim: expected a width"),
        ({"scales": ()}, "scales: expected at least one"),
        ({"scales": (1.0, float("inf"))}, "scale: expected a finite number"),
        ({"draws": 0}, "draws: expected 1 or more"),
        ({"search_epochs": 0}, "search_epochs: expected 1 or more"),
        ({"test_images": 0}, "test_images: expected 1 or more"),
        ({"noise": -1.0}, "noise: expected a finite strength"),
        ({"ptq_bits": 3, "bits": 32}, "ptq_bits: expected one of"),
        ({"method": "lora"}, "method: expected one of adaptformer, full, linear"),
        ({"noise_like_bits": 3}, "noise_like_bits: expected one of 0, 1, 2, 4"),
        ({"ptq_bits": 1}, "ptq_bits: expected 0, or adapters trained with 32 bits"),
        ({"ptq_bits": 1, "bits": 32, "method": "full"}, "ptq_bits"),
        ({"noise": 0.1, "method": "linear"}, "noise: expected 0 with a linear probe"),
        ({"noise": 0.1, "bits": 32, "ptq_bits": 1}, "noise: expected 0"),
    ],
)
def test_configs_that_make_no_sense(values, said):
    with pytest.raises(ValueError, match=said):
        LaptopConfig(**values)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FineTuning(lr=float("nan")), "lr: expected a finite rate"),
        (lambda: FineTuning(lr=0.0), "lr: expected a finite rate"),
        (lambda: FineTuning(weight_decay=-1.0), "weight_decay: expected"),
        (lambda: FineTuning(batch_size=0), "batch_size: expected 1 or more"),
        (lambda: PretrainingConfig(lr=float("inf")), "lr: expected a finite rate"),
        (lambda: PretrainingConfig(images=0), "images: expected 1 or more"),
        (lambda: PretrainingConfig(images=20, batch_size=21), "batch_size: expected at most the 20 images"),
        (lambda: Architecture(heads=5), "heads: expected a divisor of the width 768"),
        (lambda: Architecture(patch_size=15), "patch_size: expected a divisor of 224"),
        (lambda: Architecture(depth=0), "depth: expected 1 or more"),
    ],
)
def test_settings_that_would_fail_minutes_later_are_refused_at_once(make, said):
    with pytest.raises(ValueError, match=said):
        make()
