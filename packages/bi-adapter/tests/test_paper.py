"""The paper's experiments from end to end, on folders laid out as the official ones with few and small images."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from bi_adapter_testing.benchmark import TINY_VIT, TOY, n_test, write_benchmark

import bi_adapter.adaptation
import bi_adapter.paper
from bi_adapter.adaptation import Images
from bi_adapter.fewshot import FEW_SHOT
from bi_adapter.paper import PAPER, SURFACE_SIDE, PaperConfig, head_bytes, paper_data, run_paper, storage_kib
from bi_adapter.scales import released_scale
from bi_adapter.vtab import TASKS, group_means
from sextet.data import DataMissing
from sextet.recipe import RunContext

TABLES = Path(__file__).parents[3] / "benchmarks/tables/bi-adapter"
SMALL = {"task": "kitti", **TOY}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder with two tasks, one few-shot dataset and the backbone's weights."""
    return write_benchmark(tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data"), ("kitti", "dtd"))


@pytest.fixture
def run(root, tmp_path):
    """Run one cell; runs of one test share their stages."""

    def run(seed=0, folder=tmp_path, data=root, **values):
        context = RunContext(folder / "run", folder / "stages", seed, device="cpu", data_root=data)
        (scores,) = run_paper(PAPER.configure({**SMALL, **values}), context).values()
        return scores

    return run


def stages(folder):
    return Counter(path.name.rpartition("-")[0] for path in (folder / "stages").iterdir() if path.is_dir())


@pytest.mark.parametrize("protocol", ["ours", "as-published"])
@pytest.mark.parametrize("values", [{}, {"method": "lora", "head_bits": 1}, {"method": "full"}, {"method": "linear"}])
def test_every_method_under_both_protocols(run, tmp_path, protocol, values):
    scores = run(protocol=protocol, **values)
    assert (len(scores.values), scores.unit) == (n_test("kitti"), "image")
    found = stages(tmp_path)
    if protocol == "ours" and values.get("method") in (None, "lora"):
        assert found == {"decoded-vtab-kitti": 1, "scale-kitti": 1, "adapted-kitti": 3}
    else:
        assert found == {"decoded-vtab-kitti": 1, "adapted-kitti": 1}


@pytest.mark.slow
def test_the_whole_benchmark_is_the_mean_of_its_groups(run, tmp_path):
    data = write_benchmark(tmp_path / "raw", tmp_path / "data", TASKS)
    scores = run(data=data, task="vtab", scale=10.0)
    assert (len(scores.values), scores.unit) == (3, "task group")
    tasks = {name: run(data=data, task=name, scale=10.0) for name in TASKS}
    assert {name: len(scores.values) for name, scores in tasks.items()} == {name: n_test(name) for name in TASKS}
    assert scores.values == pytest.approx(group_means({name: each.mean for name, each in tasks.items()}))
    found = stages(tmp_path)
    assert all(found[f"adapted-{name}"] == 1 for name in TASKS)


def test_released_scales_are_taken_where_the_paper_chose_on_the_test_set(run, monkeypatch):
    asked = []
    real = bi_adapter.paper.adapted_stage

    def watched(config, *arguments, **options):
        asked.append((config.scale, options["best_on_test"], options["train"]))
        return real(config, *arguments, **options)

    monkeypatch.setattr(bi_adapter.paper, "adapted_stage", watched)
    for task in ("kitti", "dtd"):
        run(protocol="as-published", task=task)
    run(scale=3.0)
    assert asked == [
        (released_scale("kitti", "adaptformer", 2, False), True, "train1000"),
        (released_scale("dtd", "adaptformer", 2, False), True, "train1000"),
        (3.0, False, "train1000"),
    ]


def test_choosing_the_scale_does_not_look_at_the_test_images(run, monkeypatch):
    asked = []
    real = Images.rows
    monkeypatch.setattr(Images, "rows", lambda self, name: (asked.append(name), real(self, name))[1])
    run()
    first = asked.index("test")
    assert set(asked[:first]) == {"train800", "val200"}
    assert set(asked[first:]) == {"test", "train1000"}


def test_few_shot_runs_use_the_list_of_their_seed(run, monkeypatch):
    asked = []
    real = bi_adapter.adaptation.make_draw

    def watched(config, images, name, *arguments, **options):
        asked.append(name)
        return real(config, images, name, *arguments, **options)

    monkeypatch.setattr(bi_adapter.adaptation, "make_draw", watched)
    few = {"task": "pets", "shots": 2}
    scores = [run(seed=seed, **few) for seed in (0, 1, 2)]
    assert all(len(each.values) == 4 for each in scores)
    searches, trainings = [("val", "train_8_0")] * 2, [("test", f"train_2_{seed}") for seed in (0, 1, 2)]
    assert asked == [name for pair in (*searches, *trainings) for name in pair]
    with pytest.raises(ValueError, match="few-shot lists are drawn for the seeds"):
        run(seed=3, **few)


def test_one_shot_lists_that_name_images_twice_fill_a_batch(run):
    assert len(run(task="pets", shots=1, scale=1.0).values) == 4  # four images, twice: one batch of eight


def test_everything_is_decided_by_config_and_seed(run, tmp_path):
    first = run(folder=tmp_path / "a", task="dtd", scale=10.0)
    assert run(folder=tmp_path / "b", task="dtd", scale=10.0) == first
    assert run(folder=tmp_path / "a", task="dtd", scale=10.0, seed=1) != first


@pytest.mark.parametrize("method", ["adaptformer", "lora", "full"])
@pytest.mark.parametrize("noise_on", ["weights", "update"])
def test_noise_acts_on_what_was_trained(run, tmp_path, method, noise_on):
    values = {"task": "dtd", "method": method, "bits": 1, "scale": 10.0, "noise_on": noise_on}
    plain = run(**values)
    assert run(**values, noise=1e-7).values == pytest.approx(plain.values)
    shaken = run(**values, noise=50.0)
    assert shaken.values != plain.values
    assert set(np.multiply(shaken.values, 2)) <= {0.0, 1.0, 2.0}  # two draws
    assert stages(tmp_path)["adapted-dtd"] == 1


def test_quantising_afterwards_shares_the_training(run, tmp_path):
    values = {"task": "dtd", "bits": 32, "dim": 8, "scale": 100.0}
    plain, eight, one = (run(**values, ptq_bits=bits) for bits in (0, 8, 1))
    assert np.abs(np.subtract(plain.values, eight.values)).mean() < 0.05
    assert len(one.values) == n_test("dtd")
    assert stages(tmp_path)["adapted-dtd"] == 1


@pytest.mark.parametrize("values", [{"bits": 1}, {"bits": 32}, {"method": "full"}])
def test_the_surface_around_the_trained_weights(run, values):
    scores = run(measure="surface", scale=1.0, **values)
    surface = np.reshape(scores.values, (SURFACE_SIDE, SURFACE_SIDE))
    assert surface[SURFACE_SIDE // 2, SURFACE_SIDE // 2] == 0
    assert scores.unit == "grid point"
    assert np.abs(surface).max() > 1e-4


@pytest.mark.parametrize(
    ("values", "kib"),
    [
        ({}, 211.8), ({"head_bits": 1}, 76.6), ({"dim": 1, "head_bits": 1}, 6.8), ({"method": "lora"}, 284.0),
        ({"method": "lora", "head_bits": 1}, 148.7), ({"method": "lora", "dim": 1, "head_bits": 1}, 9.2),
        ({"method": "linear"}, 139.6),
    ],
)  # fmt: skip
def test_published_sizes(values, kib):
    """README of the authors, with nine classes of smallNORB-elevation; group means."""
    config = PaperConfig(task="vtab", measure="storage", **values)
    assert round(sum(storage_kib(config)) / 3, 1) == kib


def test_sizes_of_single_tasks():
    whole = PaperConfig(task="svhn", measure="storage", method="full", backbone=TINY_VIT)
    parameters = sum(value.numel() for value in bi_adapter.paper.make_backbone(TINY_VIT).parameters())
    assert storage_kib(whole) == (pytest.approx((4 * parameters + 4 * 13 * 10) / 1024),) * 3
    assert [head_bytes(768, 10, bits) for bits in (32, 16, 1, 4)] == [30760, 15380, 968, 3848]
    assert not paper_data(whole)


def test_the_data_that_a_cell_needs(tmp_path):
    names = [passport.name for passport in paper_data(PaperConfig(task="vtab"))]
    assert names == ["vit-b16-orig-in21k", *(f"vtab-{name}" for name in TASKS)]
    assert paper_data(PaperConfig(task="cars", shots=4))[1].name == "fewshot-cars"
    context = RunContext(tmp_path / "run", tmp_path / "stages", 0, device="cpu", data_root=tmp_path / "root")
    with pytest.raises(DataMissing):
        run_paper(PAPER.configure({**TOY, "task": "dtd"}), context)


def merged(*parts):
    """Mappings one over the other, the inner ones too."""
    made = {}
    for part in parts:
        for key, value in part.items():
            made[key] = merged(made[key], value) if isinstance(value, dict) and key in made else value
    return made


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_tables_ask_for_what_there_is(path):
    table = yaml.safe_load(path.read_text())
    for profile in table["profiles"].values():
        if profile["recipe"] != "bi-adapter-paper":
            continue
        for row in table["rows"]:
            for column in table["columns"]:
                if column["id"] not in row.get("skip", []):
                    parts = (profile.get("config", {}), column.get("config", {}), row.get("config", {}))
                    config = PAPER.configure(merged(*parts))
                    assert config.task in ("vtab", *TASKS, *FEW_SHOT)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"task": "imagenet"}, "task: expected one of"),
        ({"task": "pets"}, "shots: expected one of"),
        ({"task": "kitti", "shots": 4}, "shots: expected one of"),
        ({"protocol": "best"}, "protocol"),
        ({"protocol": "as-published", "noise": 0.1}, "as-published goes with accuracy"),
        ({"ptq_bits": 1}, "ptq_bits: expected 0, or adapters trained with 32 bits"),
        ({"measure": "storage", "task": "pets", "shots": 4}, "storage is that of VTAB-1K"),
        ({"bits": 3}, "bits: expected one of"),
        ({"head_bits": 5}, "head_bits: expected one of"),
        ({"dim": 0}, "dim: expected a width"),
        ({"quantiser": "nf4"}, "nf4 exists at 4 bits only"),
        ({"noise": -0.5}, "noise, draws: expected 0 or more"),
        ({"draws": 0}, "noise, draws: expected 0 or more and 1 or more"),
        ({"method": "linear", "noise": 0.5}, "a linear probe has no trained matrices"),
        ({"method": "linear", "measure": "surface"}, "a linear probe has no trained matrices"),
        ({"normalise": "half"}, "normalise"),
    ],
)
def test_configs_that_make_no_sense(values, said):
    with pytest.raises(ValueError, match=said):
        replace(PaperConfig(), **values)


def test_too_few_images_for_a_batch_say_so(run):
    with pytest.raises(ValueError, match="fill no batch of 999"):
        run(tuning={**TOY["tuning"], "batch_size": 999}, scale=1.0)


def test_surfaces_and_noise_leave_the_weights_as_they_were(run):
    before = run(task="dtd", scale=10.0)
    run(task="dtd", scale=10.0, noise=1.0)
    run(task="dtd", scale=10.0, measure="surface")
    assert run(task="dtd", scale=10.0) == before
    assert torch.get_default_dtype() == torch.float32
