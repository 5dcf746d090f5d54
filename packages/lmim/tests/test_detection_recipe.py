"""COCO and the detection recipe, end to end on a made-up folder and with tiny models."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from lmim_testing.official_files import write_coco
from lmim_testing.toy_runs import adopt_imagenet, dense_swin, launch_here

from lmim import config as configs
from lmim.coco import COCO, FlippedObjects, Objects, annotation_file, decode_coco, mirrored
from lmim.detection import average_precisions, found_objects
from lmim.detection_recipe import (
    RECIPE,
    DetectionConfig,
    DetectionStream,
    detector_groups,
    new_detector,
    rate,
    run_detection,
)
from lmim.loading import Share
from sextet.data import DataError, DataMissing, adopt, load
from sextet.errors import Interrupted
from sextet.recipe import RunContext
from sextet.training import read_log

pytest.importorskip("pycocotools", reason="pycocotools is not installed (lmim[coco])")
# pycocotools' own arrays with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CPU = torch.device("cpu")
FAST = {
    "precision": "fp32", "workers": 0, "devices": 1, "epochs": 2, "batch": 2, "warmup_steps": 2, "decay_epochs": (1,),
    "short_sides": (48, 64), "long_side": 96, "width": 16, "lr": 1e-3, "drop_path": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def root(tmp_path_factory, coco):
    """A data folder with both datasets adopted."""
    data = adopt_imagenet(tmp_path_factory.mktemp("both"), per_class=4, val=3)
    adopt(replace(COCO, counts={}), coco, data)
    return data


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(configs.PAPER_RUNS, "swin-base-hog", dense_swin(dim=8))
    for module in ("lmim.paper", "lmim.transfer"):
        monkeypatch.setattr(f"{module}.launch", launch_here)


@pytest.fixture
def run(root, tmp_path):
    def run(seed=0, folder=tmp_path, **values):
        context = RunContext(folder / "run", folder / "stages", seed, device="cpu", data_root=root)
        return run_detection(RECIPE.configure({**FAST, **values}), context)

    return run


@pytest.mark.parametrize(("start", "stages"), [
    ("pretrained", {"pretraining", "detection"}), ("fine-tuned", {"pretraining", "fine-tuning", "detection"}),
    ("scratch", {"detection"}),
])  # fmt: skip
def test_from_pre_training_to_scores(run, tmp_path, monkeypatch, start, stages):
    # Eight devices need no accumulation, and these toys have no batch that could be accumulated
    monkeypatch.setattr("lmim.paper.PUBLISHED_DEVICES", 1)
    scores = run(start=start)
    assert set(scores) == {"box_ap", "mask_ap"}
    for each in scores.values():
        assert each.unit == "class"
        assert len(each.values) == 2
        assert all(0 <= value <= 1 for value in each.values)
    assert {path.name.rpartition("-")[0] for path in (tmp_path / "stages").iterdir() if path.is_dir()} == stages
    log = read_log(next((tmp_path / "stages").glob("detection-*")))
    assert len(log) == 6  # three steps of two in an epoch of seven images with objects


@pytest.mark.slow
def test_it_finds_the_rectangles_after_some_steps(run):
    scores = run(start="scratch", epochs=40, decay_epochs=(35,), lr=2e-3, drop_path=0.0, short_sides=(64,))
    assert scores["box_ap"].mean > 0.3
    assert scores["mask_ap"].mean > 0.3


def test_a_run_that_is_stopped_goes_on(run, tmp_path, monkeypatch):
    whole = run(start="scratch", folder=tmp_path / "whole")
    count, getitem = iter(range(1000)), FlippedObjects.__getitem__

    def until(self, item):
        if next(count) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return getitem(self, item)

    monkeypatch.setattr(FlippedObjects, "__getitem__", until)
    with pytest.raises(Interrupted):
        run(start="scratch", folder=tmp_path / "stopped")
    assert run(start="scratch", folder=tmp_path / "stopped") == whole
    logs = [read_log(next((tmp_path / name / "stages").glob("*-*"))) for name in ("whole", "stopped")]
    assert logs[0] == logs[1]


def test_without_pycocotools_nothing_is_trained(run, tmp_path, monkeypatch):
    monkeypatch.setattr("lmim.detection_recipe.find_spec", lambda _: None)
    with pytest.raises(DataMissing, match=r"pip install 'lmim\[coco\]'"):
        run()
    assert not (tmp_path / "stages").exists()


def test_objects(root):
    objects = Objects(load(replace(COCO, counts={}), root), "train")
    assert len(objects) == 8
    assert objects.ids.tolist() == list(range(100, 108))
    assert objects.with_objects().tolist() == list(range(7))
    image, target = objects.image(1), objects.target(1, 64, 48)
    assert image.size == (64, 48)
    assert target["boxes"].tolist() == [[24.0, 14.0, 48.0, 34.0]]
    assert target["labels"].tolist() == [1]  # category 3, the smaller of the two numbers
    wanted = torch.zeros(1, 48, 64, dtype=torch.uint8)
    wanted[:, 14:34, 24:48] = 1
    assert target["masks"].equal(wanted)
    empty = objects.target(7, 64, 48)
    assert [len(value) for value in empty.values()] == [0, 0, 0]


def test_mirrored_twice_is_as_before(coco):
    items = FlippedObjects(Objects(decode_coco(coco), "train"), seed=0)
    seen = {int(items[number, 2][1]["boxes"][0, 0]) for number in range(12)}
    assert seen == {8, 64 - 32}
    pixels, target = items[0, 2]
    flipped = mirrored(pixels, target)
    assert flipped[0][:, :, 0].equal(pixels[:, :, -1])
    left, top, right, bottom = map(int, flipped[1]["boxes"][0])
    assert bool(flipped[1]["masks"][0, top:bottom, left:right].all())
    again = mirrored(*flipped)
    assert again[0].equal(pixels)
    assert all(again[1][name].equal(value) for name, value in target.items())


def test_the_truth_scores_1_and_half_of_it_less(coco):
    objects, kinds = Objects(decode_coco(coco), "val"), ("bbox", "segm")
    official = annotation_file(coco, "val")

    def found(rows, shift=0):
        parts = []
        for row in rows:
            target = objects.target(row, 64, 48)
            output = target | {
                "boxes": target["boxes"] + shift, "masks": target["masks"][:, None].roll(shift, -1).float(),
                "scores": torch.full((len(target["labels"]),), 0.9),
            }  # fmt: skip
            parts += found_objects(output, int(objects.ids[row]), objects.arrays["categories"])
        return parts

    for kind in kinds:
        assert average_precisions(official, found(range(3)), kind).tolist() == pytest.approx([1.0, 1.0])
        assert average_precisions(official, found([0]), kind).tolist() == pytest.approx([0.0, 1.0])
        assert average_precisions(official, [], kind).tolist() == [0.0, 0.0]
        assert 0 < average_precisions(official, found(range(3), shift=2), kind).mean() < 1


def test_batches_are_lists_on_the_device(coco):
    items = FlippedObjects(Objects(decode_coco(coco), "train"), seed=0)
    images, targets = DetectionStream(items, Share(len(items), 2, 1), CPU)(0)
    assert [image.shape for image in images] == [(3, 48, 64)] * 2
    assert all(float(image.min()) >= 0 and 0.5 < float(image.max()) <= 1 for image in images)
    assert [set(target) for target in targets] == [{"boxes", "labels", "masks"}] * 2


def test_rates_and_groups():
    config = RECIPE.configure({**FAST, "warmup_steps": 4, "decay_epochs": (2, 3), "epochs": 4})
    assert [rate(step, 10, config) for step in (0, 2, 4, 19, 20, 30)] == pytest.approx([1e-3, 0.5005, 1, 1, 0.1, 0.01])
    model = new_detector(RECIPE.configure(FAST), None, 2)
    decayed, plain = detector_groups(model, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    names = {id(value): name for name, value in model.named_parameters()}
    assert all("norm" in names[id(v)] or "position_bias" in names[id(v)] for v in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_sizes_in_training_vary_and_in_evaluation_do_not():
    model = new_detector(RECIPE.configure(FAST), None, 2)
    images = [torch.rand(3, 48, 64)]
    torch.manual_seed(0)
    sizes = {tuple(model.transform.train()(images)[0].image_sizes[0]) for _ in range(12)}
    assert sizes == {(48, 64), (64, 85)}
    assert {tuple(model.transform.eval()(images)[0].image_sizes[0]) for _ in range(4)} == {(64, 85)}


def damaged(folder, change):
    """A COCO folder, one annotation file of which was changed."""
    write_coco(folder, 2, 2)
    path = annotation_file(folder, "train")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("change", "message"), [
    (lambda content: content.pop("images"), "is damaged"),
    (lambda content: content["images"][0].update(file_name="../secret.jpg"), "no file of the folder"),
    (lambda content: content["annotations"][0].update(category_id=7), "is damaged"),
    (lambda content: content["annotations"][0].update(bbox=[0, 0, float("inf"), 3]), "not finite"),
    (lambda content: content["annotations"][0].update(bbox=[1, 2]), "is damaged"),
    (lambda content: content["categories"].append({"id": 99}), "categories"),
])  # fmt: skip
def test_damaged_annotations(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        decode_coco(damaged(tmp_path / "coco", change))


def test_broken_folders(tmp_path):
    with pytest.raises(DataMissing, match="instances_train2017"):
        decode_coco(tmp_path)
    folder = write_coco(tmp_path / "coco", 2, 2)
    annotation_file(folder, "val").write_text("{")
    with pytest.raises(DataError, match=r"instances_val2017\.json is damaged"):
        decode_coco(folder)
    (folder / "train2017/000000000100.jpg").write_bytes(b"no image")
    write_coco(tmp_path / "other", 2, 2)
    annotation_file(folder, "val").write_bytes(annotation_file(tmp_path / "other", "val").read_bytes())
    with pytest.raises(DataError, match=r"000000000100\.jpg is not read"):
        FlippedObjects(Objects(decode_coco(folder), "train"), 0)[0, 0]


@pytest.mark.parametrize(("values", "message"), [
    ({"start": "end"}, "start"), ({"long_side": 32}, "long_side"), ({"short_sides": ()}, "long_side"),
    ({"batch": 3, "devices": 2}, "multiple of 2 devices"), ({"run": "vit"}, "run"), ({"run": "vit-base"}, "of a Swin"),
])  # fmt: skip
def test_bad_input(values, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.configure({**FAST, **values})


def test_the_defaults_are_the_usual_three_schedules():
    config = DetectionConfig()
    assert (config.epochs, config.decay_epochs, config.lr, config.weight_decay) == (36, (27, 33), 1e-4, 0.05)
    assert (config.short_sides[0], config.short_sides[-1], config.long_side) == (480, 800, 1333)
    assert np.diff(config.short_sides).tolist() == [32] * 10
