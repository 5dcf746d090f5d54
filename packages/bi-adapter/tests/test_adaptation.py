"""One adapted model: its images, its parameters, its stages."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import fields, replace

import numpy as np
import pytest
import safetensors.torch
import torch
from bi_adapter_testing.made_up import adopt_backbone
from bi_adapter_testing.official_data import small_few_shot, small_task, write_few_shot, write_vtab

import bi_adapter.adaptation
from bi_adapter import adapter_infos
from bi_adapter.adaptation import (
    Adaptation,
    adapted_stage,
    adapter_config,
    chosen_scale,
    load_adapted,
    load_hits,
    load_images,
    make_draw,
    make_model,
)
from bi_adapter.backbone import Architecture
from bi_adapter.config import BiAdapterConfig
from bi_adapter.evaluation import hits
from bi_adapter.fewshot import FEW_SHOT, FEW_SHOT_PASSPORTS
from bi_adapter.training import FineTuning
from bi_adapter.vtab import PASSPORTS, TASKS
from sextet.data import DataMissing, adopt
from sextet.errors import Interrupted
from sextet.recipe import RunContext
from sextet.training import read_log

CPU = torch.device("cpu")
VIT = Architecture(image_size=16, patch_size=8, dim=12, depth=2, heads=2)
TUNING = FineTuning(epochs=20, batch_size=8, warmup=2, lr=0.01)
KITTI = Adaptation("kitti", dim=2, scale=10.0, tuning=TUNING, backbone=VIT)
PETS = Adaptation("pets", shots=2, dim=2, tuning=TUNING, backbone=VIT)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    adopt_backbone(VIT, raw / "backbone", root)
    kitti, pets = TASKS["kitti"], replace(FEW_SHOT["pets"], n_classes=4)  # images of the first four of 37 breeds
    adopt(small_task(PASSPORTS["kitti"], kitti), write_vtab(raw / "vtab", kitti), root)
    adopt(small_few_shot(FEW_SHOT_PASSPORTS["pets"], pets), write_few_shot(raw / "few", pets), root)
    return root


@pytest.fixture
def context(root, tmp_path):
    return RunContext(tmp_path / "run", tmp_path / "stages", 0, device="cpu", data_root=root)


def test_the_thousand_are_both_training_lists(context):
    images = load_images(KITTI, context)
    assert images.pixels.shape == (36, 16, 16, 3)
    assert images.rows("train1000").tolist() == [*images.rows("train800"), *images.rows("val200")]
    assert not {*images.rows("train1000")} & {*images.rows("test")}
    assert images.labels_of("test").tolist() == images.labels[images.rows("test")].tolist()


@pytest.mark.parametrize("train", [True, False])
def test_what_the_model_reads_of_vtab(context, train):
    images = load_images(KITTI, context)
    drawn = make_draw(KITTI, images, "val200", CPU, train=train)(torch.tensor([3, 1]), torch.Generator())
    wanted = torch.from_numpy(images.pixels[images.rows("val200")[[3, 1]]]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(drawn, wanted)
    how = replace(KITTI, normalise="inception")
    other = make_draw(how, images, "val200", CPU, train=train)(torch.tensor([3, 1]), torch.Generator())
    torch.testing.assert_close(other, wanted * 2 - 1)


def test_few_shot_images_are_cropped(context):
    images = load_images(PETS, context)
    assert images.pixels.shape[1:] == (18, 18, 3)
    rows = torch.tensor([3, 0])
    whole = torch.from_numpy(images.pixels[images.rows("val")[[3, 0]]])
    test = make_draw(PETS, images, "val", CPU, train=False)
    for seed in (0, 1):
        found = test(rows, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(found, whole[:, 1:17, 1:17].permute(0, 3, 1, 2) / 255)
    train = make_draw(PETS, images, "train_2_0", CPU, train=True)
    views = [train(rows, torch.Generator().manual_seed(seed)) for seed in range(6)]
    assert len({str(view.sum()) for view in views}) > 1
    assert torch.equal(train(rows, torch.Generator().manual_seed(0)), views[0])


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ("adaptformer", 2 * 2 * 24 + 13 * 4), ("lora", 2 * 4 * 24 + 13 * 4), ("linear", 13 * 4),
        ("full", None),
    ],
)  # fmt: skip
def test_what_is_trained(context, method, trained):
    model = make_model(replace(KITTI, method=method), context.data_root, 0)
    found = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert found == (trained or sum(value.numel() for value in model.parameters()))
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 4)
    assert model.blocks[1].drop_path1.drop_prob == pytest.approx(0.1)


def test_the_adapters_settings_are_the_models():
    config = replace(KITTI, bits=4, quantiser="nf4", head_bits=1, per_row=True, statistic_gradients=False, dropout=0.2)
    made = adapter_config(config)
    shared = {field.name for field in fields(BiAdapterConfig)} - {"drop_path"}
    assert {name: getattr(made, name) for name in shared} == {name: getattr(config, name) for name in shared}
    assert made.drop_path is None  # the backbone is made with it


@pytest.mark.parametrize("method", ["adaptformer", "lora", "full", "linear"])
def test_a_stage_holds_the_model_after_its_last_epoch(context, method):
    config = replace(KITTI, method=method)
    folder = adapted_stage(config, context, train="train800", test="test")
    images = load_images(config, context)
    model = load_adapted(config, context, folder)
    draw = make_draw(config, images, "test", CPU, train=False)
    assert torch.equal(hits(model, draw, images.labels_of("test"), device=CPU), load_hits(folder))
    assert len(read_log(folder)) == TUNING.epochs * (16 // 8)


def test_the_published_selection_takes_the_best_of_ten(context, monkeypatch):
    found = []
    real = bi_adapter.adaptation.hits

    def watched(*arguments, **options):
        found.append(real(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(bi_adapter.adaptation, "hits", watched)
    last = adapted_stage(KITTI, context, train="train1000", test="test")
    assert len(found) == 1
    assert torch.equal(load_hits(last), found[0])
    best = adapted_stage(KITTI, context, train="train1000", test="test", best_on_test=True)
    ten = [int(each.sum()) for each in found[1:]]
    assert len(ten) == 10
    assert ten[-1] == int(found[0].sum())
    assert int(load_hits(best).sum()) == max(ten)
    with safetensors.safe_open(best / "hits.safetensors", "pt") as file:
        assert int(file.metadata()["epoch"]) == 2 * (1 + ten.index(max(ten)))


def test_the_scale_is_the_best_on_validation_images(context):
    scales = (0.01, 10.0, 100.0)
    chosen = chosen_scale(KITTI, context, scales, train="train800", val="val200", seed=7)
    told = json.loads(next(context.stages.glob("scale-kitti-*/scale.json")).read_text())
    assert {float(scale) for scale in told["accuracies"]} == set(scales)
    for scale, accuracy in told["accuracies"].items():
        trained = adapted_stage(
            replace(KITTI, scale=float(scale)), replace(context, seed=7), train="train800", test="val200"
        )
        assert float(load_hits(trained).double().mean()) == accuracy
    assert told["accuracies"][str(chosen)] == max(told["accuracies"].values())
    count = len(list(context.stages.iterdir()))
    assert (
        chosen_scale(
            replace(KITTI, scale=3.0), replace(context, seed=5), scales, train="train800", val="val200", seed=7
        )
        == chosen
    )
    assert len(list(context.stages.iterdir())) == count


@pytest.mark.parametrize(("config", "train", "test"), [(KITTI, "train1000", "test"), (PETS, "train_2_1", "val")])
@pytest.mark.parametrize("method", ["adaptformer", "full"])
def test_a_stopped_stage_continues_to_the_same_weights(context, tmp_path, monkeypatch, config, train, test, method):
    config = replace(config, method=method)
    names = {"train": train, "test": test, "best_on_test": test == "test"}
    whole = adapted_stage(config, context, **names)
    other = replace(context, stages=tmp_path / "other")
    real, count = bi_adapter.adaptation.make_model, iter(range(10_000))

    def stopping(*arguments):
        model = real(*arguments)
        model.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM) if next(count) == 11 else None)
        return model

    monkeypatch.setattr(bi_adapter.adaptation, "make_model", stopping)
    with pytest.raises(Interrupted):
        adapted_stage(config, other, **names)
    monkeypatch.setattr(bi_adapter.adaptation, "make_model", real)
    again = adapted_stage(config, other, **names)
    assert again.name == whole.name
    for file in ("tuned.safetensors", "hits.safetensors"):
        assert (again / file).read_bytes() == (whole / file).read_bytes()
    assert read_log(again) == read_log(whole)


def test_data_that_is_not_here(tmp_path):
    nowhere = RunContext(tmp_path / "run", tmp_path / "stages", 0, device="cpu", data_root=tmp_path / "root")
    with pytest.raises(DataMissing, match="vtab-kitti"):
        load_images(KITTI, nowhere)
    with pytest.raises(DataMissing, match="vit-16-8"):
        make_model(KITTI, nowhere.data_root, 0)


def test_the_adapter_knows_its_classes(context):
    model = make_model(PETS, context.data_root, 0)
    assert adapter_infos(model)["default"].num_classes == 37
    assert np.isclose(adapter_infos(model)["default"].config.scale, 1.0)
