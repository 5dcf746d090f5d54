from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from fslstm_testing.official_files import write_cifar_fs_pickles, write_mini_cache, write_places
from torch import nn

import fslstm.learning
from fslstm.backbones import PretrainingClassifier
from fslstm.datasets import CIFAR_FS, MINI_IMAGENET, decode_cifar_fs, decode_mini_imagenet
from fslstm.learning import LearningConfig, make_learner
from fslstm.modules import Prototype
from fslstm.networks import NORMALISATION, load_matching, make_backbone, make_base_learner
from fslstm.paper import PAPER, PaperConfig, make_sampler, run_paper
from fslstm.places import (
    PLACES365,
    Photographs,
    PlacesConfig,
    batches,
    decode_places,
    places_stage,
    pretrain_on_places,
    random_box,
)
from fslstm.samplers import ImbalancedSampler, PublishedSampler, largest_remainder
from fslstm.selection import Selection
from fslstm.training import Learner, MetaTrainingConfig, meta_train
from sextet.data import DataError, adopt, load
from sextet.recipe import RunContext
from sextet.training import Training, read_log

CPU = torch.device("cpu")
GOLDEN = Path(os.environ.get("SEXTET_GOLDEN_DIR") or Path(__file__).parent / "golden")
TABLES = Path(__file__).parents[3] / "benchmarks/tables/fslstm"
NAMES = ("sota-mini", "sota-cifarfs", "base-learners", "modules", "pretraining", "codes")
TOY = {
    "widths": [4, 4, 4, 8], "n_query": 1, "episodes": 6, "val_shot": 2, "val_query": 2, "val_episodes": 4,
    "train_shot": 2, "train_query": 2, "episodes_per_step": 1, "epochs": 2, "steps_per_epoch": 2,
    "places": {"epochs": 2, "batch_size": 4, "steps_per_epoch": 2, "workers": 0}, "initialisation": "scratch",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder with all three datasets, adopted out of small files in their official formats."""
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    few = {"counts": {}}
    cifar = replace(CIFAR_FS, decode=partial(decode_cifar_fs, images_per_class=10), **few)
    adopt(cifar, write_cifar_fs_pickles(raw / "cifar", 10), root)
    mini = replace(MINI_IMAGENET, decode=partial(decode_mini_imagenet, images_per_class=8), **few)
    adopt(mini, write_mini_cache(raw / "mini", 8), root)
    places = replace(PLACES365, decode=partial(decode_places, n_classes=3), **few)
    adopt(places, write_places(raw / "places"), root)
    return root


@pytest.fixture
def run(root, tmp_path):
    """Run one cell; runs of one test share their stages."""

    def run(seed=0, folder=tmp_path, **values):
        context = RunContext(folder / "run", folder / "stages", seed, device="cpu", data_root=root)
        return run_paper(PAPER.configure({**TOY, **values}), context)["accuracy"]

    return run


def stages(folder):
    return Counter(path.name.rpartition("-")[0] for path in (folder / "stages").iterdir() if path.is_dir())


@pytest.mark.parametrize("head", ["prototype", "ridge", "svm", "ls_svm"])
def test_every_head_runs_with_and_without_the_modules(run, head):
    for values in ({}, {"psm_rounds": 2}, {"iam": True}, {"iam": True, "psm_rounds": 2}):
        scores = run(head=head, n_shot=5, episodes=40, **values)
        assert len(scores.values) == 40
        assert 0.4 < scores.mean < 1


@pytest.mark.parametrize("dataset", ["cifar-fs", "mini-imagenet"])
@pytest.mark.parametrize("backbone", ["conv4", "resnet12"])
def test_both_datasets_and_networks_run_from_places(run, dataset, backbone, tmp_path):
    values = {"widths": [2, 2, 2, 8], "epochs": 1, "steps_per_epoch": 1, "val_episodes": 1, "val_shot": 1}
    assert run(dataset=dataset, backbone=backbone, initialisation="places365", episodes=30, **values).mean > 0.3
    assert stages(tmp_path) == {"places365": 1, "meta-training": 1, "test-features": 1}


def test_cells_that_differ_in_the_test_alone_share_the_model(run, tmp_path):
    for values in (
        {}, {"n_shot": 5}, {"psm_rounds": 3}, {"code": "ovo"}, {"code": "ecoc"}, {"queries": "dirichlet"},
    ):  # fmt: skip
        run(**values)
    assert stages(tmp_path) == {"meta-training": 1, "test-features": 1}
    run(iam=True)
    run(seed=1)
    run(head="ridge")
    assert stages(tmp_path) == {"meta-training": 4, "test-features": 4}


def test_seeds_share_the_pre_training(run, tmp_path):
    run(initialisation="places365")
    run(initialisation="places365", seed=1)
    assert stages(tmp_path) == {"places365": 1, "meta-training": 2, "test-features": 2}


# Python 3.12 and later warn of any fork beside threads
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_number_of_workers_does_not_matter(root, tmp_path):
    folders = []
    for workers in (0, 1):
        config = PAPER.configure({**TOY, "places": {**TOY["places"], "workers": workers}}).places
        context = RunContext(tmp_path / "run", tmp_path / str(workers), 0, device="cpu", data_root=root)
        folders.append(places_stage(config, context, "conv4", (2, 2, 2, 4), 32))
    assert folders[0].name == folders[1].name
    first, second = (safetensors.torch.load_file(folder / "backbone.safetensors") for folder in folders)
    assert all(map(torch.equal, first.values(), second.values()))


def test_everything_is_decided_by_config_and_seed(run, tmp_path):
    first = run(folder=tmp_path / "a", initialisation="places365", iam=True, episodes=30)
    assert run(folder=tmp_path / "b", initialisation="places365", iam=True, episodes=30) == first
    assert run(folder=tmp_path / "c", initialisation="places365", iam=True, episodes=30, seed=1) != first


def test_the_embedding_starts_from_places(run, tmp_path):
    run(initialisation="places365", lr=1e-12, epochs=1, steps_per_epoch=1)
    found = {}
    for name in ("places365", "meta-training"):
        (file,) = (tmp_path / "stages").glob(f"{name}-*/backbone.safetensors")
        found[name] = safetensors.torch.load_file(file)
    for name, value in found["places365"].items():
        if name.endswith("0.weight"):
            torch.testing.assert_close(found["meta-training"][name], value)


def test_exhaustive_code_and_one_vs_all_answer_alike(run):
    assert run(code="ecoc", episodes=30) == run(code="ova", episodes=30)


def test_the_published_protocol(run):
    """Its episodes are the same for all seeds, and others than ours."""
    values = {"protocol": "as-published", "val_shot": 5, "episodes": 20}
    assert run(**values).values != run(**{**values, "protocol": "ours"}).values
    labels = np.arange(80, 100).repeat(10)
    config = PAPER.configure({**TOY, **values})
    assert make_sampler(config, labels, 0).digest(20) == make_sampler(config, labels, 1).digest(20)


@pytest.mark.parametrize("stop", [3, 7])
def test_meta_training_continues_where_it_was(run, tmp_path, stop, monkeypatch):
    values = {"iam": True, "epochs": 2, "steps_per_epoch": 4, "initialisation": "places365"}
    whole = run(folder=tmp_path / "whole", **values)
    real = fslstm.learning.make_learner
    monkeypatch.setattr(fslstm.learning, "meta_train", partial(_saving_often, meta_train))
    monkeypatch.setattr(fslstm.learning, "make_learner", lambda config, seed: PowerCut(real(config, seed=seed), stop))
    with pytest.raises(RuntimeError, match="power cut"):
        run(folder=tmp_path / "halves", **values)
    monkeypatch.setattr(fslstm.learning, "make_learner", real)
    assert run(folder=tmp_path / "halves", **values) == whole
    for name in ("meta-training-*/backbone", "meta-training-*/attention", "test-features-*/features"):
        first, second = (
            safetensors.torch.load_file(next((tmp_path / side / "stages").glob(f"{name}.safetensors")))
            for side in ("whole", "halves")
        )
        assert all(map(torch.equal, first.values(), second.values()))
    logs = [read_log(next((tmp_path / side / "stages").glob("meta-training-*"))) for side in ("whole", "halves")]
    assert logs[0] == logs[1]


class PowerCut(Learner):
    """A learner that breaks off in its training call number `stop`."""

    def __init__(self, learner, stop):
        super().__init__(learner.embedding, learner.head.head, learner.attention)
        self.stop, self.done = stop, 0

    def forward(self, *inputs):
        if self.done == self.stop:
            raise RuntimeError("power cut")
        self.done += 1
        return super().forward(*inputs)


def test_pre_training_continues_where_it_was(root, tmp_path, monkeypatch):
    config = PlacesConfig(epochs=3, batch_size=4, steps_per_epoch=2, workers=0)
    arrays = load(PLACES365, root)

    def network(folder):
        torch.manual_seed(0)
        backbone = make_backbone("resnet12", 32, (2, 2, 2, 4), pretraining=True)
        selection = pretrain_on_places(backbone, arrays, config, tmp_path / folder, device=CPU)
        return backbone.state_dict(), selection.epoch, read_log(tmp_path / folder)

    whole = network("whole")
    monkeypatch.setattr("fslstm.places.Training", partial(_saving_often, Training))
    forward, calls = PretrainingClassifier.forward, []

    def cut(self, images):
        calls.append(self.training)
        if sum(calls) == 4:
            raise RuntimeError("power cut")
        return forward(self, images)

    monkeypatch.setattr(PretrainingClassifier, "forward", cut)
    with pytest.raises(RuntimeError, match="power cut"):
        network("halves")
    monkeypatch.undo()
    again = network("halves")
    assert again[1:] == whole[1:]
    assert all(map(torch.equal, whole[0].values(), again[0].values()))
    assert len(whole[2]) == 9


def _saving_often(function, *arguments, **named):
    return function(*arguments, **{**named, "save_every": 2})


def test_the_epoch_that_validates_best_is_kept(tmp_path):
    """Scores are dictated: the weights after the second of four epochs come back, the earlier of two equal ones."""
    features, labels = torch.randn(60, 6), torch.arange(6).repeat_interleave(10)
    config = MetaTrainingConfig(n_way=3, n_shot=1, n_query=1, episodes_per_step=1, epochs=4, steps_per_epoch=3)
    scores, seen = iter([0.1, 0.7, 0.7, 0.3]), []

    def validate(learner):
        assert not learner.training
        seen.append(learner.embedding.weight.detach().clone())
        return next(scores)

    learner = Learner(nn.Linear(6, 4), Prototype())
    selection = meta_train(learner, features, labels, config, tmp_path, seed=0, device=CPU, validate=validate)
    assert (selection.score, selection.epoch, len(seen)) == (0.7, 1, 4)
    assert torch.equal(learner.embedding.weight, seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert [line["validation"] for line in read_log(tmp_path) if "validation" in line] == [
        0.1, 0.7, 0.7, 0.3,
    ]  # fmt: skip


def test_the_test_images_are_not_looked_at_before_the_test(root, tmp_path, monkeypatch):
    asked = []
    real = fslstm.learning.split
    monkeypatch.setattr(fslstm.learning, "split", lambda c, x, name: (asked.append(name), real(c, x, name))[1])
    context = RunContext(tmp_path / "run", tmp_path / "stages", 0, device="cpu", data_root=root)
    fslstm.learning.learning_stage(PAPER.configure(TOY).learning(), context, None)
    assert sorted(asked) == ["train", "val"]
    selected = json.loads(next((tmp_path / "stages").glob("*/selection.json")).read_text())
    log = read_log(next((tmp_path / "stages").glob("meta-training-*")))
    assert selected["validation_accuracy"] == max(line.get("validation", 0) for line in log)


def test_published_settings_are_filled_in():
    rates = {}
    for dataset in ("cifar-fs", "mini-imagenet"):
        for backbone in ("conv4", "resnet12"):
            found = PaperConfig(dataset=dataset, backbone=backbone).learning()
            rates[dataset, backbone] = (found.meta.lr, found.meta.attention_lr, found.reduction, found.meta.n_shot)
    assert rates == {
        ("cifar-fs", "conv4"): (5e-3, 1e-2, 8, 5), ("cifar-fs", "resnet12"): (5e-4, 5e-3, 8, 5),
        ("mini-imagenet", "conv4"): (5e-3, 1e-2, 32, 15), ("mini-imagenet", "resnet12"): (5e-4, 5e-3, 16, 15),
    }  # fmt: skip
    assert PaperConfig(initialisation="scratch").learning().meta.lr == 0.1
    assert PaperConfig().learning().meta == MetaTrainingConfig()
    assert PaperConfig(train_shot=1, lr=0.5).learning().meta.n_shot == 1


@pytest.mark.parametrize(
    ("dataset", "backbone", "dim", "attention"),
    [
        ("cifar-fs", "conv4", 2048, 4_207_616), ("cifar-fs", "resnet12", 2560, 6_570_240),
        ("mini-imagenet", "conv4", 4608, 5_336_640), ("mini-imagenet", "resnet12", 5760, 16_624_800),
    ],
)  # fmt: skip
def test_published_sizes(dataset, backbone, dim, attention):
    learner = make_learner(PaperConfig(dataset=dataset, backbone=backbone, iam=True).learning(), seed=0)
    assert learner.embedding.backbone.out_features == dim
    assert sum(p.numel() for p in learner.attention.parameters()) == attention
    assert np.allclose(learner.embedding.mean.flatten(), NORMALISATION[backbone][0])


def test_dirichlet_queries():
    labels = np.arange(20).repeat(100)
    sampler = ImbalancedSampler(labels, 5, 1, 15, seed=3)
    batch = sampler.batch(0, 400)
    assert batch.query_ids.shape == (400, 75)
    assert batch.support_ids.shape == (400, 5)
    counts = np.stack([np.bincount(row, minlength=5) for row in batch.query_labels])
    shares = np.stack([sampler.proportions(i) for i in range(4000)])
    # Dirichlet(2, 2, 2, 2, 2): mean 1/5, variance (1/5)(4/5)/11
    assert shares.mean(0) == pytest.approx([0.2] * 5, abs=0.01)
    assert shares.var(0) == pytest.approx([0.16 / 11] * 5, rel=0.1)
    assert np.abs(counts - 75 * shares[:400]).max() < 1
    for row in range(20):
        ids = [*batch.query_ids[row], *batch.support_ids[row]]
        assert len(set(ids)) == 80
        assert np.array_equal(labels[batch.query_ids[row]], batch.classes[row][batch.query_labels[row]])
    assert ImbalancedSampler(labels, 5, 1, 15, seed=3)[7].query_ids.tolist() == batch.query_ids[7:8].tolist()
    assert sampler[7].query_ids.tolist() != ImbalancedSampler(labels, 5, 1, 15, seed=4)[7].query_ids.tolist()


def test_largest_remainder():
    assert largest_remainder(np.array([0.5, 0.26, 0.24]), 10).tolist() == [5, 3, 2]
    assert largest_remainder(np.array([1 / 3] * 3), 10).sum() == 10


def test_published_episodes_are_rows_of_the_test_set():
    """The golden sequence of the reference sampler, with rows of the test set in shuffled order."""
    with np.load(GOLDEN / "sampler_cifar_fs_like.npz", allow_pickle=False) as golden:
        base, novel, per_class = (
            int(golden[name]) for name in ("n_base_classes", "n_novel_classes", "images_per_class")
        )
        labels = 7 + np.arange(novel).repeat(per_class)
        order = np.random.default_rng(0).permutation(len(labels))
        way, shot, query = (int(golden[name]) for name in ("way", "shot", "query"))
        sampler = PublishedSampler(labels[order], way, shot, query, n_base_classes=base)
        batch = sampler.batch(0, len(golden["classes"]))
        assert np.array_equal(batch.classes - 7 + base, golden["classes"])
        assert np.array_equal(
            labels[order][batch.query_ids], batch.classes[np.arange(len(batch))[:, None], batch.query_labels]
        )
        assert np.array_equal(batch.query_labels, golden["query_labels"])
        stable = np.argsort(labels[order], kind="stable")
        assert np.array_equal(batch.support_ids, stable[golden["support_ids"] - base * per_class])
        assert np.array_equal(sampler[3].query_ids, batch.query_ids[3:4])


def test_batches_of_pre_training_cover_each_epoch_and_continue():
    whole = list(batches(10, 3, 3, 0, 6, seed=1))
    assert whole[4:] == list(batches(10, 3, 3, 4, 6, seed=1))
    rows = [row for batch in whole[:3] for _, row in batch]
    assert len(set(rows)) == 9
    assert [epoch for batch in whole for epoch, _ in batch] == [0] * 9 + [1] * 9


def test_random_boxes_are_inside_and_of_the_stated_size():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(64, 48, rng) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() == 0
    assert boxes[:, 2].max() == 64
    assert boxes[:, 3].max() == 48
    assert (width * height / (64 * 48)).min() > 0.06
    assert (width / height).max() < 1.5
    assert (width / height).min() > 0.66
    assert random_box(1000, 10, rng)[3] == 10


def test_only_fitting_tensors_are_copied():
    conv, other = make_backbone("conv4", 32, (4, 4, 4, 8)), make_backbone("conv4", 84, (4, 4, 4, 6))
    first = next(iter(conv.state_dict()))
    load_matching(other, conv.state_dict())
    assert torch.equal(other.state_dict()[first], conv.state_dict()[first])
    with pytest.raises(ValueError, match="none of the pre-trained tensors fits"):
        load_matching(make_backbone("resnet12", 32, (4, 4, 4, 8)), conv.state_dict())


def test_gone_photographs_are_named(root, tmp_path):
    arrays = {**load(PLACES365, root), "folder": np.array([str(tmp_path / "elsewhere")])}
    with pytest.raises(DataError, match="adopt their folder again"):
        Photographs(arrays, "train", 32, 0)[0, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "mini"}, "dataset: expected one of cifar-fs, mini-imagenet, got 'mini'"),
        ({"head": "lssvm"}, "head: expected one of"),
        ({"code": "ovo", "head": "ridge"}, "goes with head ls_svm only"),
        ({"protocol": "as-published", "queries": "dirichlet"}, "balanced queries and val_shot 5"),
        ({"protocol": "as-published", "val_shot": 1}, "balanced queries and val_shot 5"),
    ],
)
def test_configs_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        PaperConfig(**values)


def test_other_bad_input():
    with pytest.raises(ValueError, match="expected conv4 or resnet12"):
        make_backbone("conv6", 32)
    with pytest.raises(ValueError, match="head: expected one of"):
        make_base_learner("nn", 0.1, 0.1)
    with pytest.raises(ValueError, match="concentration"):
        ImbalancedSampler(np.arange(5).repeat(90), 5, 1, 15, concentration=0)
    with pytest.raises(ValueError, match="classes of equal size"):
        PublishedSampler([0, 0, 0, 1, 1, 1, 1], 2, 1, 1)
    with pytest.raises(IndexError):
        PublishedSampler([0, 0, 1, 1], 2, 1, 1)[-1]
    with pytest.raises(ValueError, match="no epoch was validated"):
        Selection().restore(nn.Identity())


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_of_the_tables_has_a_config(name):
    content = yaml.safe_load((TABLES / f"{name}.yaml").read_text())
    assert (content["name"], list(content["profiles"])) == (name, ["paper"])
    profile = content["profiles"]["paper"]
    assert profile["recipe"] == "fslstm-paper"
    cells = {}
    for row in content["rows"]:
        for column in content["columns"]:
            values = {**profile.get("config", {}), **column.get("config", {}), **row.get("config", {})}
            cells[f"{row['id']}/{column['id']}"] = PAPER.configure(values)
    assert len({json.dumps(str(config)) for config in cells.values()}) == len(cells)
    assert all(isinstance(config.learning(), LearningConfig) and config.episodes == 10_000 for config in cells.values())
    assert all(claim["left"] in cells and claim["right"] in cells for claim in content["claims"])
    assert not any(claim.get("gate") for claim in content["claims"])
