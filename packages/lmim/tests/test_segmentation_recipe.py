"""ADE20K and its recipe, end to end on made-up folders and with tiny models."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from lmim_testing.official_files import write_ade20k
from lmim_testing.toy_runs import FINE_TUNING, PRETRAINING, adopt_imagenet, dense_swin, launch_here
from PIL import Image

from lmim import config as configs
from lmim.ade20k import ADE20K, AugmentedScenes, Scenes, crop_corner, decode_ade20k, distorted, fitted_size
from lmim.config import MimConfig, Run
from lmim.segmentation import IGNORED
from lmim.segmentation_recipe import (
    PUBLISHED,
    RECIPE,
    SegmentationConfig,
    class_scores,
    new_segmenter,
    poly_rate,
    run_segmentation,
    segmenter_groups,
)
from sextet.data import DataError, DataMissing, adopt
from sextet.errors import Interrupted
from sextet.recipe import RunContext
from sextet.training import read_log

TOY = {
    "vit-base": Run(
        MimConfig(image=32, patch=16, dim=12, depths=(7,), heads=(2,), decoder_dims=(8,), decoder_heads=2),
        PRETRAINING, FINE_TUNING,
    ),
    "swin-base-hog": dense_swin(dim=4),
}  # fmt: skip
FAST = {
    "precision": "fp32", "workers": 0, "devices": 8, "steps": 4, "batch": 8, "warmup_steps": 1, "crop": 32,
    "stride": 22, "width": 8, "evaluate_every": 2, "lr": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def ade(tmp_path_factory):
    return write_ade20k(tmp_path_factory.mktemp("ade"))


@pytest.fixture(scope="module")
def root(tmp_path_factory, ade):
    """A data folder with both datasets adopted."""
    data = adopt_imagenet(tmp_path_factory.mktemp("both"), per_class=4, val=3)
    adopt(replace(ADE20K, counts={}), ade, data)
    return data


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name, run in TOY.items():
        monkeypatch.setitem(configs.PAPER_RUNS, name, run)
    for module in ("lmim.paper", "lmim.transfer"):
        monkeypatch.setattr(f"{module}.launch", launch_here)
    monkeypatch.setattr("lmim.ade20k.SHORT", 32)
    monkeypatch.setattr("lmim.ade20k.LONG", 128)


@pytest.fixture
def run(root, tmp_path):
    def run(seed=0, folder=tmp_path, **values):
        context = RunContext(folder / "run", folder / "stages", seed, device="cpu", data_root=root)
        return run_segmentation(RECIPE.configure({**FAST, **values}), context)["iou"]

    return run


@pytest.mark.parametrize("name", ["vit-base", "swin-base-hog"])
@pytest.mark.parametrize("start", ["pretrained", "fine-tuned", "scratch"])
def test_from_pre_training_to_scores(run, tmp_path, name, start):
    scores = run(run=name, start=start)
    assert scores.unit == "class"
    assert 2 <= len(scores.values) <= 150
    assert all(0 <= value <= 1 for value in scores.values)
    kinds = {path.name.rpartition("-")[0] for path in (tmp_path / "stages").iterdir() if path.is_dir()}
    assert kinds == {
        "pretrained": {"pretraining", "segmentation"}, "fine-tuned": {"pretraining", "fine-tuning", "segmentation"},
        "scratch": {"segmentation"},
    }[start]  # fmt: skip
    log = read_log(next((tmp_path / "stages").glob("segmentation-*")))
    assert len([entry for entry in log if "loss" in entry]) == 4
    assert [entry["step"] for entry in log if "miou" in entry] == [1]


def test_it_learns_what_the_labels_are(run):
    """Left and right half differ in brightness: two classes are found, and 148 others no more."""
    scores = run(run="swin-base-hog", start="scratch", steps=40, evaluate_every=100, lr=0.02)
    assert sorted(scores.values)[-2] > 0.5
    assert scores.mean > 0.3


def test_a_run_that_is_stopped_goes_on(run, tmp_path, monkeypatch):
    whole = run(start="scratch", folder=tmp_path / "whole")
    count, getitem = iter(range(1000)), AugmentedScenes.__getitem__

    def until(self, item):
        if next(count) == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return getitem(self, item)

    monkeypatch.setattr(AugmentedScenes, "__getitem__", until)
    with pytest.raises(Interrupted):
        run(start="scratch", folder=tmp_path / "stopped")
    assert run(start="scratch", folder=tmp_path / "stopped") == whole
    logs = [read_log(next((tmp_path / name / "stages").glob("*-*"))) for name in ("whole", "stopped")]
    assert [entry.get("loss") for entry in logs[0]] == [entry.get("loss") for entry in logs[1]]


def test_scenes(ade):
    scenes = Scenes(decode_ade20k(ade), "train")
    assert len(scenes) == 8
    image, labels = scenes[0]
    assert image.size == (40, 34)
    assert labels[0].tolist() == [IGNORED] * 40
    assert labels[1].tolist() == [0] * 20 + [1] * 20


def test_crops_are_of_image_and_labels_alike(ade):
    """Brightness tells the classes apart in every augmented crop."""
    crops = AugmentedScenes(Scenes(decode_ade20k(ade), "train"), 64, seed=0)
    for item in ((0, 1), (1, 1), (5, 7)):
        pixels, labels = crops[item]
        assert pixels.shape == (3, 64, 64)
        assert labels.shape == (64, 64)
        assert set(labels.unique().tolist()) <= {0, 1, IGNORED}
        means = [pixels.mean(0)[labels == label].mean() for label in (0, 1) if (labels == label).any()]
        assert means == sorted(means)
        assert torch.equal(crops[item][0], pixels)
    assert not torch.equal(crops[0, 1][0], crops[1, 1][0])


def test_fitted_sizes(monkeypatch):
    monkeypatch.undo()
    assert fitted_size(683, 512) == (683, 512)
    assert fitted_size(256, 256, 2.0) == (1024, 1024)
    assert fitted_size(4096, 512) == (2048, 256)
    assert fitted_size(300, 200, 0.5) == (384, 256)


def test_crops_avoid_a_class_that_fills_them():
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 30:] = 1
    lefts = [crop_corner(labels, 20, np.random.default_rng(seed))[1] for seed in range(50)]
    assert sum(left + 20 - 30 >= 5 for left in lefts) > 45
    assert crop_corner(np.zeros((10, 10), np.uint8), 20, np.random.default_rng(0)) == (0, 0)


def test_distortion_stays_in_range_and_leaves_some_alone():
    pixels = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    found = [distorted(pixels, np.random.default_rng(seed)) for seed in range(60)]
    assert all(float(each.min()) >= 0 and float(each.max()) <= 255 for each in found)
    same = sum(torch.allclose(each, pixels, atol=1e-3) for each in found)
    assert 1 <= same <= 12  # one in sixteen on average
    grey = distorted(torch.full((3, 4, 4), 100.0), np.random.default_rng(3))
    assert float(grey.std()) == pytest.approx(0, abs=1e-3)


def test_rates_and_groups():
    assert poly_rate(0, 100, 10) == pytest.approx(1e-6)
    assert poly_rate(5, 100, 10) == pytest.approx(0.95 * (1 - 0.5 * (1 - 1e-6)))
    assert poly_rate(10, 100, 10) == 0.9
    assert poly_rate(99, 100, 10) == pytest.approx(0.01)
    vit = new_segmenter(SegmentationConfig(crop=64, stride=64, width=8), None)
    scales = {id(value): group for group in segmenter_groups(vit, PUBLISHED["vit"]) for value in group["params"]}
    named = dict(vit.named_parameters())
    assert scales[id(named["backbone.pos_embed"])]["lr_scale"] == pytest.approx(0.65**8)
    assert scales[id(named["backbone.pos_embed"])]["weight_decay"] == 0.05
    assert scales[id(named["backbone.blocks.6.attn.qkv.weight"])]["lr_scale"] == pytest.approx(0.65)
    assert scales[id(named["head.merge.conv.weight"])]["lr_scale"] == 1
    assert scales[id(named["backbone.blocks.6.gamma_1"])]["weight_decay"] == 0
    swin = new_segmenter(SegmentationConfig(run="swin-base-hog", crop=64, stride=64, width=8), None)
    groups = segmenter_groups(swin, PUBLISHED["swin"])
    assert [(group["lr_scale"], group["weight_decay"]) for group in groups] == [(1.0, 0.0), (1.0, 0.01)]
    names = {id(value): name for name, value in swin.named_parameters()}
    assert all("norm" in names[id(v)] or "position_bias" in names[id(v)] for v in groups[0]["params"])
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_small_images_are_scored_at_their_own_size(ade):
    scenes = Scenes(decode_ade20k(ade), "val")

    class Bright(torch.nn.Module):
        def forward(self, pixels):
            bright = (pixels.mean(1, keepdim=True) > 0).float()
            return torch.cat([1 - bright, bright, torch.full_like(bright.expand(-1, 148, -1, -1), -9)], dim=1)

    for name in TOY:
        found = class_scores(Bright(), scenes, RECIPE.configure({**FAST, "run": name}), torch.device("cpu"))
        assert len(found) == 2
        assert float(found.min()) > 0.9


def test_broken_folders_and_files(ade, tmp_path):
    with pytest.raises(DataMissing, match="images/training"):
        decode_ade20k(tmp_path)
    broken = write_ade20k(tmp_path / "a", 2, 1)
    (broken / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(DataError, match="ADE_train_00000002"):
        decode_ade20k(broken)
    broken = write_ade20k(tmp_path / "b", 3, 1)
    scenes = Scenes(decode_ade20k(broken), "train")
    path = broken / "annotations/training/ADE_train_00000001.png"
    Image.new("L", (5, 5)).save(path)
    with pytest.raises(DataError, match=r"expected 8 bits for \(40, 34\)"):
        scenes[0]
    Image.new("L", (40, 34), 200).save(path)
    with pytest.raises(DataError, match="expected labels 0 to 150, found 200"):
        scenes[0]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="is not read"):
        scenes[0]
    (broken / "images/training/ADE_train_00000002.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"ADE_train_00000002\.jpg is not read"):
        scenes[1]


@pytest.mark.parametrize(("values", "message"), [
    ({"start": "end"}, "start"), ({"crop": 500}, "multiple of 32"), ({"stride": 0}, "strides"),
    ({"warmup_steps": 4}, "warmup_steps"), ({"batch": 12}, "multiple of 8 devices"), ({"run": "vit"}, "run"),
    ({"epochs": 7}, "epochs"),
])  # fmt: skip
def test_bad_input(values, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.configure({**FAST, **values})
