"""Composites, and the laptop recipe on made-up digits and garments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infocl import recipe
from infocl.composites import CompositeViews, Halves, changed, composites, halves
from infocl.laboratory import Counts, composites_laboratory, photographs_laboratory
from infocl.recipe import RECIPE, LaptopConfig, run_laptop
from sextet.data import CIFAR10, FASHION_MNIST, MNIST
from sextet.recipe import RunContext

QUICK = {
    "epochs": 2, "checkpoints": [1, 2], "images": 32, "probe_images": 160, "test_images": 40, "probe_epochs": 5,
    "penalties": [0.01, 0.1], "out": 8, "training": {"epochs": 2, "batch_size": 16},
}  # fmt: skip


def classes(seed, count):
    """Noisy images of ten patterns."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(9).integers(0, 256, (10, 28, 28, 1))
    labels = rng.integers(0, 10, count)
    images = 0.4 * patterns[labels] + 0.6 * rng.integers(0, 256, (count, 28, 28, 1))
    return images.astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(autouse=True)
def made_up_data(monkeypatch):
    arrays = {}
    for number, passport in enumerate((MNIST, FASHION_MNIST, CIFAR10)):
        held = arrays[passport.name] = {}
        for split, count in (("train", 200), ("test", 50)):
            held[f"{split}_images"], held[f"{split}_labels"] = classes(2 * number + (split == "test"), count)
    for split in ("train", "test"):
        colours = arrays["cifar10"][f"{split}_images"].repeat(3, axis=3)
        arrays["cifar10"][f"{split}_images"] = np.pad(colours, ((0, 0), (2, 2), (2, 2), (0, 0)))
    monkeypatch.setattr(recipe, "load", lambda passport, _: arrays[passport.name])
    monkeypatch.setattr(recipe, "recorded_hash", lambda *_: "made up")


def run(folder, seed=0, **values):
    context = RunContext(folder / "run", folder / "stages", seed, device="cpu")
    return run_laptop(RECIPE.configure({**QUICK, **values}), context)


def pool(count=6, seed=0):
    images = torch.rand(count, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Halves(images, torch.arange(count) % 10)


def test_a_composite_is_two_halves_side_by_side():
    digits, garments = pool(), pool(seed=1)
    both = composites(digits, garments)
    assert both.shape == (6, 1, 16, 32)
    torch.testing.assert_close(both[:, 0, :, :16], 2 * digits.images - 1)
    torch.testing.assert_close(both[:, 0, :, 16:], 2 * garments.images - 1)


def test_halves_are_averages_of_four_pixels():
    arrays = {"test_images": np.arange(4 * 784).reshape(4, 28, 28, 1) % 256, "test_labels": np.arange(4)}
    made = halves(arrays, "test", 4, seed=3)
    assert sorted(made.labels.tolist()) == [0, 1, 2, 3]
    which = int(made.labels[0])
    wanted = arrays["test_images"][which, :2, :2, 0].mean() / 255
    assert float(made.images[0, 1, 1]) == pytest.approx(wanted, abs=1e-6)
    assert not made.images[:, 0].any()
    later = halves(arrays, "test", 2, start=1, seed=3)
    assert torch.equal(later.images, made.images[1:3])
    with pytest.raises(ValueError, match="expected 6 test images, got 4"):
        halves(arrays, "test", 3, start=3, seed=3)


def test_a_digit_in_the_middle_of_its_ranges_is_unchanged():
    digits = pool().images
    torch.testing.assert_close(changed(digits, torch.full((6, 4), 0.5)), digits, rtol=0, atol=1e-5)
    moved = changed(digits, torch.tensor([[0.5, 0.5 + 1 / (16 * 0.3), 0.5, 0.5]] * 6))  # one pixel to the left
    torch.testing.assert_close(moved[:, :, :-1], digits[:, :, 1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(
        changed(digits, torch.tensor([[0.5, 0.5, 0.5, 0.0]] * 6)), 0.6 * digits, atol=1e-5, rtol=0
    )


def test_views_share_the_digit_and_not_the_garment():
    bars = torch.zeros(3, 16, 16)
    bars[0, 2:14, 6:10], bars[1, 6:10, 2:14], bars[2, 5:11, 5:11] = 1, 1, 1
    digits = Halves(bars, torch.zeros(3))
    garments = Halves(torch.linspace(0, 1, 50)[:, None, None].expand(50, 16, 16), torch.zeros(50))
    source = CompositeViews(digits, garments, seed=1)
    rows = torch.tensor([2, 0, 1])
    one, other = source.views(rows, 4)
    assert one.shape == (3, 1, 16, 32)
    assert not torch.equal(one[:, 0, :, 16:], other[:, 0, :, 16:])
    assert torch.equal(one, source.views(rows, 4)[0])
    assert not torch.equal(one, source.views(rows, 5)[0])
    left = one[:, 0, :, :16].flatten(1), other[:, 0, :, :16].flatten(1)
    similarity = torch.corrcoef(torch.cat(left))[:3, 3:]
    assert similarity.argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("regulariser", ["none", "noise", "rc", "lbe"])
def test_every_regulariser_gives_scores(tmp_path, regulariser):
    metrics = run(tmp_path, regulariser=regulariser)
    assert {name: len(scores.values) for name, scores in metrics.items()} == {
        "accuracy": 40, "norm": 40, "participation_ratio": 1,
    }  # fmt: skip
    assert set(metrics["accuracy"].values) <= {0.0, 1.0}
    assert metrics["accuracy"].mean > 0.25
    assert 1 <= metrics["participation_ratio"].mean <= 128


def test_tasks_probes_and_lengths_share_the_features(tmp_path):
    cells = [
        run(tmp_path, task=task, probe=probe, epochs=epochs)["accuracy"].values
        for task in ("digit", "garment") for probe in ("reference", "converged") for epochs in (1, 2)
    ]  # fmt: skip
    assert len(list((tmp_path / "stages").glob("composites-features-*"))) == 1
    assert len(set(cells)) == 8


def test_everything_is_decided_by_config_and_seed(tmp_path):
    first = run(tmp_path / "a", method="barlow")
    assert run(tmp_path / "b", method="barlow") == first
    assert run(tmp_path / "c", method="barlow", seed=1) != first


def numbered(count, side, channels):
    """Images whose every pixel, and whose label, is the image's number."""
    numbers = np.arange(count)
    images = np.broadcast_to(numbers[:, None, None, None], (count, side, side, channels)).astype(np.uint8)
    return {f"{split}_{kind}": part for split in ("train", "test") for kind, part in
            (("images", images), ("labels", numbers))}  # fmt: skip


def test_nothing_that_was_trained_on_is_probed():
    digits, garments, photographs = numbered(90, 28, 1), numbered(80, 28, 1), numbered(70, 32, 3)
    counts = Counts(20, 30, 40)
    both = composites_laboratory(digits, garments, counts, seed=3)
    assert not {*both.source.digits.labels.tolist()} & {*both.tasks["digit"].train.tolist()}
    assert not {*both.source.garments.labels.tolist()} & {*both.tasks["garment"].train.tolist()}
    coloured = photographs_laboratory(photographs, {"digits": digits}, counts, seed=3)
    assert not {*coloured.source.images[:, 0, 0, 0].tolist()} & {*coloured.tasks["photographs"].train.tolist()}
    for laboratory, name in ((both, "composites"), (coloured, "photographs"), (coloured, "digits")):
        train, test = laboratory.images[name]
        assert (len(train), len(test)) == (30, 40)
        assert laboratory.decoder.shape == train.shape[1:] == test.shape[1:]
    torch.testing.assert_close(coloured.images["digits"][0].mean(), torch.zeros(()), atol=1e-5, rtol=0)
    other = composites_laboratory(digits, garments, counts, seed=4)
    assert torch.equal(both.tasks["digit"].test, other.tasks["digit"].test)
    assert not torch.equal(both.tasks["digit"].train, other.tasks["digit"].train)


@pytest.mark.parametrize("task", ["photographs", "digits", "garments"])
def test_photographs_are_probed_at_home_and_elsewhere(tmp_path, task):
    metrics = run(tmp_path, data="photographs", task=task, regulariser="rc", probe="reference")
    assert len(metrics["accuracy"].values) == 40


@pytest.mark.parametrize("call", [
    lambda: LaptopConfig(task="colour"),
    lambda: LaptopConfig(data="photographs"),
    lambda: LaptopConfig(data="videos"),
    lambda: LaptopConfig(method="moco"),
    lambda: LaptopConfig(probe="best"),
    lambda: LaptopConfig(epochs=5),
    lambda: LaptopConfig(epochs=100, checkpoints=(100,)),
    lambda: composites(pool(), pool(5)),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
