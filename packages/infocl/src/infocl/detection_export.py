"""Encoders for object detection and segmentation with detectron2, by MoCo's protocol (7.5).

What is written here is for MoCo's training script, which adds `Res5ROIHeadsExtraNorm` to detectron2; neither is needed
to write it.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sextet.data import DataError, DataMissing
from sextet.files import write_atomic

PICKLE_PROTOCOL = 4


class Detection(NamedTuple):
    """One part of Table 2.

    Attributes:
        config: name of the file with detectron2's settings.
        kind: of its metrics, `bbox` or `segm`.
    """

    config: str
    kind: str


DETECTION: dict[str, Detection] = {
    "voc": Detection("voc_faster_rcnn_r50_c4_24k.yaml", "bbox"),
    "coco-detection": Detection("coco_mask_rcnn_r50_c4_2x.yaml", "bbox"),
    "coco-segmentation": Detection("coco_mask_rcnn_r50_c4_2x.yaml", "segm"),
}


def detectron2_name(name: str) -> str:
    """The name of an encoder's weight in detectron2's ResNet: `layer1.0.bn1.weight` -> `res2.0.conv1.norm.weight`."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    for stage in range(4, 0, -1):
        name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
    for number in (1, 2, 3):
        name = name.replace(f"bn{number}.", f"conv{number}.norm.")
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def detectron2_content(state: Mapping[str, Tensor], author: str = "infocl") -> dict[str, object]:
    """What detectron2 reads of a weight file: arrays by its names, and that it may match them to its own.

    Args:
        state: of an `Encoder`, with torchvision's names.
        author: any text.

    Raises:
        ValueError: names that no such encoder has.
    """
    known = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
    if unknown := [name for name in state if not name.startswith(known)]:
        raise ValueError(f"state: expected the entries of an Encoder, found {unknown[:3]}")
    model = {detectron2_name(name): value.numpy(force=True) for name, value in state.items()}
    return {"model": model, "__author__": author, "matching_heuristics": True}


def write_detectron2(state: Mapping[str, Tensor], path: Path) -> None:
    """Write an encoder's weights for detectron2's `MODEL.WEIGHTS`, a `.pkl`; such files are written here, never read.

    Raises:
        ValueError: another suffix, which detectron2 would read as something else; or as `detectron2_content`.
    """
    if path.suffix != ".pkl":
        raise ValueError(f"path: expected a name that ends with .pkl, got {path.name}")
    write_atomic(path, pickle.dumps(detectron2_content(state), protocol=PICKLE_PROTOCOL))


def detection_config(task: str) -> str:
    """The protocol's settings for detectron2 as YAML.

    Raises:
        ValueError: a task other than those of `DETECTION`.
    """
    if task not in DETECTION:
        raise ValueError(f"task: expected one of {', '.join(DETECTION)}, got {task!r}")
    return (files("infocl") / "detectron2" / DETECTION[task].config).read_text(encoding="utf-8")


def export_detection(state: Mapping[str, Tensor], task: str, folder: Path) -> None:
    """Write `encoder.pkl` and the task's settings, which name it, into `folder`.

    Raises:
        ValueError: another task; or an encoder that is none.
    """
    settings = detection_config(task).replace("encoder.pkl", str((folder / "encoder.pkl").resolve()))
    write_detectron2(state, folder / "encoder.pkl")
    write_atomic(folder / DETECTION[task].config, settings.encode())


def average_precision(folder: Path, task: str, metric: str) -> float:
    """What detectron2 measured at last, in 0..1, from the `metrics.json` that it leaves in its output folder.

    Args:
        folder: of `export_detection`; detectron2's OUTPUT_DIR.
        task: one of `DETECTION`.
        metric: `AP`, `AP50`, `AP75`.

    Raises:
        DataMissing: detectron2 has not been run there, with what to run.
        DataError: its file is damaged, or does not have the metric.
    """
    path, key = folder / "metrics.json", f"{DETECTION[task].kind}/{metric}"
    if not path.is_file():
        raise DataMissing(
            f"{path} is not there: run detectron2 with MoCo's detection/train_net.py, "
            f"--config-file {folder / DETECTION[task].config} --num-gpus 8 OUTPUT_DIR {folder}, then this again"
        )
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        values = [float(line[key]) for line in lines if key in line]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected one JSON object a line ({error})") from error
    if not values or not 0 <= values[-1] <= 100:
        raise DataError(f"{path}: expected {key} in 0..100, as detectron2's evaluation writes it")
    return values[-1] / 100
