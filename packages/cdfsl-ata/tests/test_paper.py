from __future__ import annotations

import functools
import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from cdfsl_ata_testing.official_folders import WRITERS

import cdfsl_ata.paper
from cdfsl_ata.checkpoints import write_published
from cdfsl_ata.datasets import DOMAINS, passport
from cdfsl_ata.networks import NetworkConfig, make_encoder
from cdfsl_ata.paper import PAPER, load_learner, meta_training_stage, pretraining_stage, run_paper
from cdfsl_ata.paper_config import METHODS
from cdfsl_ata.paper_data import with_rotations
from sextet.checkpoint import CheckpointError
from sextet.data import CIFAR10, adopt
from sextet.recipe import RunContext, Scores, module_closure
from sextet.training import Training, read_log

TOY = {
    "encoder": "Conv4", "image_size": 24, "n_shot": 1, "n_query": 3, "episodes": 4, "train_query": 3, "epochs": 2,
    "episodes_per_epoch": 2, "val_episodes": 1, "steps": 1, "pretraining": {"steps": 2, "batch_size": 4, "outputs": 64},
    "tuning": {"n_pseudo": 15, "steps": 2, "linear_epochs": 1}, "domain": "eurosat", "train_shot": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_look_at_the_sources(monkeypatch):
    """Stages are named by the code that builds them; within these tests it is hashed once."""
    monkeypatch.setattr("sextet.recipe.module_closure", hashes_of)


@functools.cache
def hashes_of(module):
    return module_closure(module)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder with mini-ImageNet and three targets, adopted out of tiny official folders."""
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    for key, per_class in (("mini-imagenet", 8), ("eurosat", 8), ("cub", 3), ("isic", 60)):
        small = replace(passport(DOMAINS[key], side=27), counts={})
        adopt(small, WRITERS[key](raw / key, per_class), root)
    return root


@pytest.fixture
def context(root, tmp_path):
    return partial(context_in, root, tmp_path)


def context_in(root, folder, name="run", seed=0):
    return RunContext(folder / name, folder / "stages", seed, device="cpu", data_root=root)


@pytest.fixture
def run(context):
    """Run one cell; runs of one test share their stages."""
    numbers = iter(range(1000))

    def run(seed=0, name=None, **values):
        name = name or f"run{next(numbers)}"
        return run_paper(PAPER.configure({**TOY, **values}), context(name, seed))["accuracy"]

    return run


def stages(folder):
    return Counter(path.name.rpartition("-")[0] for path in (folder / "stages").iterdir() if path.is_dir())


@pytest.mark.parametrize("head", ["proto", "matching", "relation", "gnn", "tpn"])
def test_every_head_runs_with_every_method(run, head, tmp_path):
    methods = [method for method in METHODS if method != "lrp" or head in ("relation", "gnn")]
    for method in methods:
        scores = run(head=head, method=method)
        assert len(scores.values) == 4
        assert all(0 <= value <= 1 for value in scores.values)
    run(head=head, n_shot=5, n_query=2)
    assert stages(tmp_path) == {"cdfsl-encoder": 1, "cdfsl-learner": len(methods)}


@pytest.mark.parametrize(("head", "models"), [("relation", 1), ("gnn", 2)])
def test_both_shots_are_tested_with_one_model_or_two(run, tmp_path, head, models):
    """RelationNet is trained at 5 shots for both tests, the GNN for each."""
    for n_shot in (1, 5):
        run(head=head, n_shot=n_shot, train_shot=None, train_query=1)
    assert stages(tmp_path)["cdfsl-learner"] == models


def test_classes_of_one_colour_are_told_apart(run):
    """Every picture of a class has its colour; a trained ProtoNet finds that out on classes it has not seen."""
    longer = {"epochs": 1, "episodes_per_epoch": 15, "augmentation": {"jitter": 0.0}}
    assert run(head="proto", domain="isic", episodes=20, **longer).mean > 0.6


@pytest.mark.parametrize("head", ["proto", "gnn", "relation"])
def test_fine_tuning_of_a_meta_trained_learner(run, head, tmp_path):
    values = {"head": head, "method": "ata", "n_shot": 3}
    tuned, plain = run(**values, fine_tune=True), run(**values)
    assert len(tuned.values) == len(plain.values) == 4
    assert stages(tmp_path) == {"cdfsl-encoder": 1, "cdfsl-learner": 1}


def test_quirks_of_fine_tuning_reach_the_scores(run, monkeypatch):
    found = []
    real = cdfsl_ata.tuned_evaluation.accuracy
    monkeypatch.setattr("cdfsl_ata.tuned_evaluation.accuracy", lambda s: (found.append(s), real(s))[1])
    for quirks in ({}, {"tuned_mode": "eval"}, {"pseudo_order": "support-first"}):
        run(head="proto", n_shot=3, episodes=1, fine_tune=True, quirks=quirks)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_linear_classifier_needs_no_meta_training(run, tmp_path):
    scores = run(head="linear", n_shot=1)
    assert len(scores.values) == 4
    assert stages(tmp_path) == {"cdfsl-encoder": 1}
    assert scores.values == run(head="linear", n_shot=1).values


def test_heads_share_the_pre_training(run, tmp_path):
    """Convolutional encoders of heads on maps are networks of their own; residual ones are the same."""
    for head in ("proto", "gnn", "relation", "linear"):
        run(head=head, epochs=1, episodes_per_epoch=1, val_episodes=1, episodes=1)
    assert stages(tmp_path) == {"cdfsl-encoder": 2, "cdfsl-learner": 3}


@pytest.mark.slow
def test_the_published_networks_at_small_size(run, tmp_path):
    """ResNet10 without its first pooling at 64 pixels, as the experiment on open data has it."""
    values = {"encoder": "ResNet10", "image_size": 64, "stem_pool": False, "epochs": 1, "episodes_per_epoch": 1}
    for head in ("gnn", "relation", "tpn"):
        assert len(run(head=head, method="ata", episodes=2, **values).values) == 2
    assert stages(tmp_path) == {"cdfsl-encoder": 1, "cdfsl-learner": 3}


def test_everything_is_decided_by_config_and_seed(run, tmp_path, context, root):
    first = run(head="gnn", method="ata")
    torch.rand(100)
    second = run_paper(PAPER.configure({**TOY, "method": "ata"}), context_in(root, tmp_path / "elsewhere"))["accuracy"]
    assert first == second
    assert run(head="gnn", method="ata", seed=1) != first


def test_the_test_images_are_not_looked_at_before_the_test(context, monkeypatch):
    def refuse(*_):
        raise AssertionError("target images in training")

    monkeypatch.setattr(cdfsl_ata.paper, "target_images", refuse)
    asked = []
    real = cdfsl_ata.paper.source_images
    monkeypatch.setattr(cdfsl_ata.paper, "source_images", lambda *a: (asked.append(a[1]), real(*a))[1])
    folder = meta_training_stage(PAPER.configure({**TOY, "method": "ata"}), context())
    assert set(asked) == {"base", "val"}
    chosen = json.loads((folder / "selection.json").read_text())
    log = [entry for entry in read_log(folder) if "validation" in entry]
    assert len(log) == 2
    assert chosen["validation_accuracy"] == max(entry["validation"] for entry in log)
    assert chosen["epoch"] == int(np.argmax([entry["validation"] for entry in log]))


@pytest.mark.parametrize("method", ["ata", "ft", "lrp"])
def test_meta_training_continues_where_it_was(run, monkeypatch, tmp_path, root, method):
    values = {**TOY, "method": method}
    whole = run(**values)
    monkeypatch.setattr("cdfsl_ata.training.Training", partial(saving_often, Training))
    real, calls = cdfsl_ata.training.episode_images, []

    def cut(source, episode, step=None):
        if step is not None:
            calls.append(step)
            if len(calls) == 4:
                raise RuntimeError("power cut")
        return real(source, episode, step)

    monkeypatch.setattr("cdfsl_ata.training.episode_images", cut)
    halves = context_in(root, tmp_path / "halves")
    with pytest.raises(RuntimeError, match="power cut"):
        run_paper(PAPER.configure(values), halves)
    assert run_paper(PAPER.configure(values), halves)["accuracy"] == whole
    first, second = (
        safetensors.torch.load_file(next((side / "stages").glob("cdfsl-learner-*/learner.safetensors")))
        for side in (tmp_path, tmp_path / "halves")
    )
    assert all(map(torch.equal, first.values(), second.values()))


def saving_often(function, *arguments, **named):
    return function(*arguments, **{**named, "save_every": 1})


@pytest.mark.parametrize("head", ["linear", "proto", "gnn"])
def test_tasks_that_are_tuned_together_are_tuned_as_one_by_one(run, monkeypatch, head):
    """Three tasks at a time, and a last one alone: the same scores up to rounding."""
    found = {}
    real = cdfsl_ata.tuned_evaluation.accuracy
    for together in (1, 3):
        seen = found.setdefault(together, [])
        monkeypatch.setattr("cdfsl_ata.tuned_evaluation.accuracy", lambda s, seen=seen: (seen.append(s), real(s))[1])
        tuning = {**TOY["tuning"], "together": together}
        assert len(run(head=head, fine_tune=head != "linear", tuning=tuning).values) == 4
    for alone, stacked in zip(found[1], found[3], strict=True):
        assert torch.allclose(alone, stacked, atol=1e-2)  # Adam turns gradients of rounding size into whole steps


@pytest.mark.parametrize("head", ["linear", "proto"])
def test_tasks_that_are_fine_tuned_continue_where_they_were(run, monkeypatch, head):
    values = {"head": head, "fine_tune": head != "linear", "n_shot": 1}
    whole = run(name="whole", **values)
    monkeypatch.setattr("cdfsl_ata.tuned_evaluation.Training", partial(saving_often, Training))
    real, calls = cdfsl_ata.tuned_evaluation.episode_images, []

    def cut(source, episode):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return real(source, episode)

    monkeypatch.setattr("cdfsl_ata.tuned_evaluation.episode_images", cut)
    with pytest.raises(RuntimeError, match="power cut"):
        run(name="halves", **values)
    assert run(name="halves", **values) == whole
    assert len(calls) == 3 + 2


def test_a_published_checkpoint_in_place_of_pre_training(run, context, tmp_path):
    torch.manual_seed(5)
    holder = torch.nn.Module()
    holder.feature = make_encoder(NetworkConfig("Conv4", 24, head="proto"))
    write_published(holder, tmp_path / "399.tar", 399)
    config = PAPER.configure({**TOY, "head": "proto", "pretrained": str(tmp_path / "399.tar")})
    stored = safetensors.torch.load_file(pretraining_stage(config, context()) / "encoder.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in holder.feature.state_dict().items())
    assert len(run(head="linear", pretrained=config.pretrained).values) == 4
    with pytest.raises(
        CheckpointError, match=r"pretrained: expected a published checkpoint, and 400\.tar is not there"
    ):
        pretraining_stage(replace(config, pretrained="400.tar"), context())
    wrong = replace(config, encoder="Conv6")
    with pytest.raises(CheckpointError, match=r"399\.tar: lacks trunk\.4"):
        pretraining_stage(wrong, context())


def test_feature_wise_transformations_have_no_part_in_the_test(context):
    config = PAPER.configure({**TOY, "method": "ft", "head": "proto"})
    folder = meta_training_stage(config, context())
    assert any(name.endswith("gamma") for name in safetensors.torch.load_file(folder / "learner.safetensors"))
    learner = load_learner(config, folder)
    assert not any(name.endswith("gamma") for name in learner.state_dict())


def test_the_ascent_is_in_the_record(context):
    values = {**TOY, "head": "proto", "epochs": 1, "episodes_per_epoch": 11, "train_query": 1}
    metrics = run_paper(PAPER.configure({**values, "method": "ata"}), context())
    assert set(metrics) == {"accuracy", "perturbation_rms", "loss_gain"}
    assert isinstance(metrics["perturbation_rms"], Scores)
    assert metrics["perturbation_rms"].unit == "step"
    assert set(run_paper(PAPER.configure(values), context("plain"))) == {"accuracy"}


def test_settings_can_be_chosen_on_the_source(run):
    """The validation classes as a target, whatever becomes of the others."""
    scores = run(head="proto", domain="source-validation")
    assert len(scores.values) == 4
    assert scores != run(head="proto", domain="mini-imagenet")


def test_small_classes_are_filled_up_or_refused(run):
    """CUB of 3 images a class: published episodes repeat them, strict ones cannot be drawn."""
    assert len(run(head="proto", domain="cub", n_shot=2).values) == 4
    with pytest.raises(ValueError, match=r"classes with fewer than n_shot \+ n_query = 5 rows"):
        run(head="proto", domain="cub", n_shot=2, quirks={"pad_small_classes": 0})


def test_the_protocol_of_bscd_fsl(run):
    """Up to 50 shots, of classes that are large enough, by learners that were trained with fewer."""
    for head, n_shot in (("gnn", 20), ("relation", 20), ("tpn", 50), ("proto", 50)):
        assert len(run(domain="isic", head=head, n_shot=n_shot, episodes=1).values) == 1


@pytest.mark.parametrize("head", ["gnn", "matching", "proto"])
def test_the_clean_preset_runs(run, head):
    tuning = {"n_pseudo": 10, "steps": 1}
    assert len(run(head=head, method="ata", preset="clean", n_shot=2, fine_tune=True, tuning=tuning).values) == 4


def test_rotations_are_classes():
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    turned, labels = with_rotations(images, np.array([1, 0]))
    assert labels.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert np.array_equal(turned[0], images[0])
    assert np.array_equal(turned[5], np.rot90(images[1]))
    assert np.array_equal(np.rot90(turned[3]), images[0])


def test_open_data_in_place_of_the_papers(monkeypatch, tmp_path):
    """CIFAR-10 with rotations as source and handwriting as targets, with made-up pixels."""
    rng = np.random.default_rng(0)

    def cifar(known, _):
        assert known is CIFAR10
        labels = np.arange(10).repeat(4)
        images = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
        return {
            f"{split}_{kind}": v for split in ("train", "test") for kind, v in (("images", images), ("labels", labels))
        }

    monkeypatch.setattr("cdfsl_ata.paper_data.load", cifar)
    digits = torch.from_numpy(rng.integers(0, 256, (90, 1, 32, 32), dtype=np.uint8)), np.arange(9).repeat(10)
    monkeypatch.setattr("cdfsl_ata.domains.domain_images", lambda *_: digits)
    path = Path(__file__).parents[3] / "benchmarks/tables/cdfsl-ata/cdfsl-open.yaml"
    table = yaml.safe_load(path.read_text())
    small = {name: TOY[name] for name in TOY if name != "domain"}
    for row in table["rows"]:
        for column in (table["columns"][0], table["columns"][-1]):
            values = {**table["profiles"]["gpu"]["config"], **column["config"], **row["config"], **small}
            context = RunContext(tmp_path / row["id"] / column["id"], tmp_path / "stages", 0, device="cpu")
            scores = run_paper(PAPER.configure(values), context)["accuracy"]
            assert len(scores.values) == 4


def test_warnings_of_exploding_perturbations_name_the_setting(run):
    with pytest.warns(UserWarning, match=r"perturbation of RMS .* lower step_size"):
        run(head="proto", method="nr", step_size=1e6, epochs=1, episodes_per_epoch=1)
