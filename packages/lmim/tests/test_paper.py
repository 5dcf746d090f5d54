"""The paper's experiments end to end, on made-up ImageNet folders and with tiny models."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from lmim_testing.toy_runs import adopt_imagenet, launch_here

from lmim import config as configs
from lmim.classifiers import make_classifier
from lmim.config import PAPER_RUNS, FineTuningConfig, MimConfig, PretrainingConfig, Run
from lmim.conversion import make_pretrained
from lmim.loading import Augmented
from lmim.paper import PAPER, PaperConfig, fine_tuning_job, load_pretrained, pretraining_job, run_paper, timing_job
from lmim.segmentation_recipe import RECIPE as SEGMENTATION
from sextet.errors import Interrupted
from sextet.processes import launch
from sextet.recipe import RunContext
from sextet.training import read_log

PRETRAINING = PretrainingConfig(epochs=2, warmup_epochs=1, batch=16, base_lr=2e-3)
FINE_TUNING = FineTuningConfig(
    epochs=3, warmup_epochs=1, batch=8, lr=5e-3, drop_path=0.0, mixup=0.0, cutmix=0.0, erasing=0.0, rand_augment=""
)
TOY = {
    "vit-base": Run(
        MimConfig(image=16, patch=4, dim=12, depths=(7,), heads=(2,), scales=(2.0, 2.0, 1.0, 0.5), decoder_dims=(8,)),
        PRETRAINING, FINE_TUNING,
    ),
    "swin-base-hog": Run(
        MimConfig(
            backbone="swin", image=24, patch=1, dim=4, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2), scales=(1.0,) * 4,
            decoder_dims=(8,), decoder_heads=2,
        ),
        PRETRAINING, FINE_TUNING,
    ),
}  # fmt: skip
TABLES = Path(__file__).parents[3] / "benchmarks/tables/lmim"
FAST = {"precision": "fp32", "workers": 0, "devices": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder with ImageNet adopted."""
    return adopt_imagenet(tmp_path_factory.mktemp("imagenet"), per_class=12, val=9)


@pytest.fixture(autouse=True)
def _toy_runs(monkeypatch):
    for name, run in TOY.items():
        monkeypatch.setitem(configs.PAPER_RUNS, name, run)
        monkeypatch.setitem(configs.SHORT_FINE_TUNING, name, run.fine_tuning)
    monkeypatch.setattr("lmim.paper.launch", launch_here)


@pytest.fixture
def run(root, tmp_path):
    """Run one cell; runs of one test share their stages."""

    def run(seed=0, folder=tmp_path, **values):
        context = RunContext(folder / "run", folder / "stages", seed, device="cpu", data_root=root)
        return run_paper(PAPER.configure({**FAST, **values}), context)

    return run


def losses(folder):
    return [entry["loss"] for entry in read_log(folder) if "loss" in entry]


def stages(folder):
    return Counter(path.name.rpartition("-")[0] for path in (folder / "stages").iterdir() if path.is_dir())


@pytest.mark.parametrize("name", ["vit-base", "swin-base-hog"])
def test_pre_train_fine_tune_count(run, tmp_path, name):
    scores = run(run=name)["accuracy"]
    assert len(scores.values) == 9
    assert set(scores.values) <= {0.0, 1.0}
    best = run(run=name, protocol="as-published")["accuracy"]
    assert best.mean >= scores.mean
    assert stages(tmp_path) == {"pretraining": 1, "fine-tuning": 1}
    (folder,) = (tmp_path / "stages").glob("fine-tuning-*")
    log = read_log(folder)
    accuracies = [entry["accuracy"] for entry in log if "accuracy" in entry]
    assert accuracies[-1] == pytest.approx(scores.mean)
    assert max(accuracies) == pytest.approx(best.mean)
    (pretrained,) = (tmp_path / "stages").glob("pretraining-*")
    assert len(losses(pretrained)) == 2 * (36 // 16)
    model = load_pretrained(TOY[name].model, pretrained)
    classifier = make_classifier(TOY[name].model, 3)
    classifier.load_state_dict(safetensors.torch.load_file(folder / "classifier.safetensors"))
    assert sum(value.numel() for value in model.parameters()) > 0


def test_cells_share_their_stages(run, tmp_path):
    run()
    run(protocol="as-published")
    assert stages(tmp_path) == {"pretraining": 1, "fine-tuning": 1}
    run(arm="top-only")
    run(seed=1)
    assert stages(tmp_path) == {"pretraining": 3, "fine-tuning": 3}


@pytest.mark.parametrize("values", [
    {"arm": "top-only"}, {"arm": "single-scale"}, {"arm": "fusion"}, {"arm": "isolated"}, {"arm": "mask-feat"},
    {"arm": "mae", "decoder_dim": 16, "decoder_depth": 2}, {"target": "normalised-pixels"},
    {"taps": [0, 6], "scales": [1.0, 1.0]}, {"decoder_depth": 2}, {"run": "swin-base-hog", "arm": "isolated"},
])  # fmt: skip
def test_every_arm_is_timed(run, values):
    hours = run(task="timing", timing_steps=1, **values)["hours"]
    assert hours.unit == "run"
    assert 0 < hours.mean < 1


def test_everything_is_decided_by_config_and_seed(run, tmp_path):
    run(folder=tmp_path / "a")
    run(folder=tmp_path / "b")
    run(folder=tmp_path / "c", seed=1)
    first, again, other = (losses(next((tmp_path / name / "stages").glob("fine-tuning-*"))) for name in "abc")
    assert first == again != other


def test_fewer_devices_accumulate_more():
    for devices in (1, 2, 4, 8):
        settings = PaperConfig(run="vit-large", devices=devices).settings()
        parts = settings.pretraining.accumulation * devices
        assert parts == 32
        assert settings.pretraining.batch // parts == 128
        assert settings.fine_tuning.batch // (settings.fine_tuning.accumulation * devices) == 64


def test_settings_are_the_papers(monkeypatch):
    monkeypatch.undo()
    full, brief = PaperConfig(devices=8).settings(), PaperConfig(devices=8, epochs=100).settings()
    assert full == PAPER_RUNS["vit-base"]
    assert (full.pretraining.epochs, full.fine_tuning.lr, full.fine_tuning.layer_decay) == (1600, 2e-3, 0.65)
    assert (brief.pretraining.epochs, brief.pretraining.warmup_epochs, brief.fine_tuning.lr) == (100, 10, 4e-3)
    assert PaperConfig(arm="mae").settings().model.decoder_depth == 8
    assert PaperConfig(target="pixels").settings().model.target == "pixels"


def test_cells_of_the_tables_are_models(monkeypatch):
    monkeypatch.undo()
    recipes = {"lmim-paper": PAPER, "lmim-segmentation": SEGMENTATION}
    seen, models = 0, set()
    for path in sorted(TABLES.glob("*.yaml")):
        table = yaml.safe_load(path.read_text())
        profile = table["profiles"].get("paper")
        if profile is None or profile["recipe"] not in recipes:
            continue
        for row in table["rows"]:
            for column in table["columns"]:
                values = {**profile.get("config", {}), **column.get("config", {}), **row.get("config", {})}
                config = recipes[profile["recipe"]].configure(values)
                settings = (config if isinstance(config, PaperConfig) else config.pretraining()).settings()
                models.add(settings.model)
                seen += 1
    for model in models:
        with torch.device("meta"):
            assert make_pretrained(model).decoder
    assert seen > 40


@pytest.mark.parametrize(("values", "message"), [
    ({"run": "vit-huge"}, "run: expected one of"), ({"epochs": 50}, "epochs"), ({"arm": "deep"}, "arm"),
    ({"devices": 3}, "devices: expected a divisor of 8"), ({"run": "swin-base-hog", "arm": "fusion"}, "of ViTs only"),
    ({"protocol": "best"}, "protocol"), ({"precision": "int8"}, "precision"), ({"tap": [1]}, "did you mean taps"),
])  # fmt: skip
def test_bad_input(values, message):
    with pytest.raises(ValueError, match=message):
        PAPER.configure(values)


def test_without_settings_for_100_epochs():
    with pytest.raises(ValueError, match="swin-base-hog"):
        PaperConfig(run="vit-large", epochs=100).settings()


@pytest.mark.parametrize("at", [40, 100])
def test_a_run_that_is_stopped_goes_on(run, tmp_path, monkeypatch, at):
    """Stopped in pre-training, or in fine-tuning; the scores and all losses are those of an unbroken run."""
    whole = run(folder=tmp_path / "whole")
    count, getitem = iter(range(10_000)), Augmented.__getitem__

    def until(self, item):
        if next(count) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return getitem(self, item)

    monkeypatch.setattr(Augmented, "__getitem__", until)
    with pytest.raises(Interrupted):
        run(folder=tmp_path / "stopped")
    done = stages(tmp_path / "stopped")
    assert run(folder=tmp_path / "stopped") == whole
    assert stages(tmp_path / "stopped") == done | {"fine-tuning": 1}
    for name in ("pretraining", "fine-tuning"):
        one, two = (losses(next((tmp_path / each / "stages").glob(f"{name}-*"))) for each in ("whole", "stopped"))
        assert one == two


@pytest.mark.slow
def test_divided_pre_training_is_timed(root, tmp_path):
    settings = TOY["vit-base"]
    settings = replace(settings, pretraining=replace(settings.pretraining, precision="fp32", sharded=True))
    arguments = settings, tmp_path, 0, root, 0, False, 2
    launch(timing_job, arguments, folder=tmp_path, device=torch.device("cpu"), processes=2)
    assert np.load(tmp_path / "hours.npy") > 0


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_accumulation(root, tmp_path):
    settings = TOY["vit-base"]
    settings = replace(
        settings, pretraining=replace(settings.pretraining, precision="fp32"),
        fine_tuning=replace(settings.fine_tuning, precision="fp32"),
    )  # fmt: skip
    doubled = replace(
        settings, pretraining=replace(settings.pretraining, accumulation=2),
        fine_tuning=replace(settings.fine_tuning, accumulation=2),
    )  # fmt: skip
    for name, run, processes in (("two", settings, 2), ("one", doubled, 1)):
        for stage in ("pretraining", "fine-tuning"):
            (tmp_path / name / stage).mkdir(parents=True)
        before, after = tmp_path / name / "pretraining", tmp_path / name / "fine-tuning"
        jobs: list = [
            (pretraining_job, (run, before, 0, root, 0, False)), (fine_tuning_job, (run, before, after, 0, root, 0))
        ]  # fmt: skip
        for job, arguments in jobs:
            launch(job, arguments, folder=after, device=torch.device("cpu"), processes=processes)
    for stage in ("pretraining", "fine-tuning"):
        one, two = (read_log(tmp_path / name / stage) for name in ("one", "two"))
        assert len(one) == len(two)
        # A process logs the loss of its own micro-batches
        assert [entry["lr"] for entry in one if "lr" in entry] == [entry["lr"] for entry in two if "lr" in entry]
    states = [safetensors.torch.load_file(tmp_path / name / "pretraining/model.safetensors") for name in ("one", "two")]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-5)
    answers = [np.load(tmp_path / name / "fine-tuning/last.npy") for name in ("one", "two")]
    assert answers[0].shape == answers[1].shape == (9,)
