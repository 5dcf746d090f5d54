"""What is written for detectron2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from infocl.detection_export import (
    DETECTION,
    average_precision,
    detection_config,
    detectron2_content,
    detectron2_name,
    export_detection,
    write_detectron2,
)
from infocl.networks import Encoder
from sextet.data import DataError, DataMissing, load_legacy_pickle


def state():
    with torch.device("meta"):
        names = {name: value.shape for name, value in Encoder("resnet50", "imagenet").state_dict().items()}
    return {name: torch.full([min(n, 2) for n in shape], float(k)) for k, (name, shape) in enumerate(names.items())}


def test_names():
    assert detectron2_name("conv1.weight") == "stem.conv1.weight"
    assert detectron2_name("bn1.running_mean") == "stem.conv1.norm.running_mean"
    assert detectron2_name("layer4.2.bn3.bias") == "res5.2.conv3.norm.bias"
    assert detectron2_name("layer1.0.downsample.1.weight") == "res2.0.shortcut.norm.weight"


def test_the_file_holds_plain_arrays(tmp_path):
    """Read back by a reader that knows numbers, texts, containers and arrays, and would refuse all else."""
    tensors = state()
    write_detectron2(tensors, tmp_path / "encoder.pkl")
    content = load_legacy_pickle(tmp_path / "encoder.pkl")
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True
    assert len(content["model"]) == len(tensors)
    for name, value in tensors.items():
        assert np.array_equal(content["model"][detectron2_name(name)], value.numpy())


@pytest.mark.parametrize("task", DETECTION)
def test_settings_of_the_protocol(task, tmp_path):
    export_detection(state(), task, tmp_path)
    settings = yaml.safe_load((tmp_path / DETECTION[task].config).read_text())
    model, solver = settings["MODEL"], settings["SOLVER"]
    assert model["WEIGHTS"] == str(tmp_path / "encoder.pkl")
    assert model["RESNETS"] == {"DEPTH": 50, "NORM": "SyncBN", "STRIDE_IN_1X1": False}
    assert model["BACKBONE"]["FREEZE_AT"] == 0
    assert (model["ROI_HEADS"]["NAME"], settings["INPUT"]["FORMAT"]) == ("Res5ROIHeadsExtraNorm", "RGB")
    assert model["PIXEL_MEAN"] == pytest.approx([255 * m for m in (0.485, 0.456, 0.406)])
    assert model["PIXEL_STD"] == pytest.approx([255 * s for s in (0.229, 0.224, 0.225)])
    assert model["RPN"] == {"PRE_NMS_TOPK_TEST": 6000, "POST_NMS_TOPK_TEST": 1000}
    assert settings["TEST"]["PRECISE_BN"]["ENABLED"]
    assert (solver["IMS_PER_BATCH"], solver["BASE_LR"]) == (16, 0.02)
    sizes, voc = settings["INPUT"]["MIN_SIZE_TRAIN"], task == "voc"
    assert sizes == list(range(480 if voc else 640, 801, 32))
    assert settings["INPUT"]["MIN_SIZE_TEST"] == 800
    assert model["MASK_ON"] is not voc
    assert model["ROI_HEADS"]["NUM_CLASSES"] == (20 if voc else 80)
    expected = ([18_000, 22_000], 24_000) if voc else ([120_000, 160_000], 180_000)
    assert (solver["STEPS"], solver["MAX_ITER"]) == expected
    assert solver.get("WARMUP_ITERS") == (100 if voc else None)


def test_the_last_evaluation_counts(tmp_path):
    (tmp_path / "metrics.json").write_text('{"segm/AP": 1}\n{"bbox/AP": 40.0, "segm/AP": 35.5}\n{"lr": 0.1}\n')
    assert average_precision(tmp_path, "coco-segmentation", "AP") == pytest.approx(0.355)
    assert average_precision(tmp_path, "coco-detection", "AP") == pytest.approx(0.4)


@pytest.mark.parametrize("content", ["", "nothing", '["bbox/AP"]', '{"bbox/AP": "x"}', '{"bbox/AP": 101}', "{}"])
def test_damaged_results(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DataError, match="expected"):
        average_precision(tmp_path, "voc", "AP")


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="expected the entries of an Encoder"):
        detectron2_content({"fc.weight": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=r"ends with \.pkl"):
        write_detectron2(state(), tmp_path / "encoder.pth")
    with pytest.raises(ValueError, match="task: expected"):
        detection_config("ade20k")
    with pytest.raises(DataMissing, match=r"train_net\.py"):
        average_precision(tmp_path, "voc", "AP")
