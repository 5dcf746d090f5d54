"""Objects and their outlines on COCO with Mask R-CNN from a pre-trained Swin (section 8), as a recipe of our own.

The paper reports such a table without code or settings; the settings here are the field's standard for a Swin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.transforms.functional import pil_to_tensor

from lmim.coco import COCO, FlippedObjects, Objects, Target, annotation_file
from lmim.config import PAPER_RUNS
from lmim.detection import DetectionLoss, Found, average_precisions, found_objects, make_detector
from lmim.features import SwinFeatures, make_features
from lmim.loading import Share, Stream
from lmim.paper import PaperConfig
from lmim.pretraining import place
from lmim.transfer import (
    check_transfer,
    is_decayed_dense_swin,
    save_model,
    start_backbone,
    train_head,
    transfer_data,
    transfer_stage,
)
from sextet.cuda import Precision, autocast
from sextet.data import DataMissing, Passport, load
from sextet.files import write_atomic
from sextet.recipe import Metrics, Recipe, RunContext, Scores

if TYPE_CHECKING:
    from accelerate import Accelerator

FIRST_RATE = 1e-3
"""Share of the learning rate that warm-up begins with."""


@dataclass(frozen=True)
class DetectionConfig:
    """One cell: a pre-trained Swin, and how Mask R-CNN learns on it.

    Attributes:
        run, pretraining_epochs: the pre-training, see `PaperConfig`.
        start: `pretrained`, `fine-tuned` on ImageNet's classes besides, or `scratch`.
        epochs, batch, warmup_steps: length of the run (36 are the usual "3x") and its warm-up.
        decay_epochs: after which the rate falls to a tenth each.
        lr, weight_decay, drop_path: of AdamW and the encoder.
        short_sides, long_side, width: see `make_detector`.
        devices, precision, workers: see `PaperConfig`.
    """

    run: str = "swin-base-hog"
    pretraining_epochs: int = 0
    start: str = "pretrained"
    epochs: int = 36
    batch: int = 16
    warmup_steps: int = 1000
    decay_epochs: tuple[int, ...] = (27, 33)
    lr: float = 1e-4
    weight_decay: float = 0.05
    drop_path: float = 0.3
    short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    long_side: int = 1333
    width: int = 256
    devices: int = 1
    precision: Precision = "fp16"
    workers: int = 8

    def __post_init__(self) -> None:
        check_transfer(self)
        if not self.short_sides or min(self.short_sides) < 1 or self.long_side < max(self.short_sides):
            raise ValueError(f"long_side: expected at least one of the short sides, got {self.long_side}")
        if PAPER_RUNS[self.run].model.backbone != "swin":
            raise ValueError(f"run: expected one of a Swin, which takes images of any size, got {self.run}")

    def pretraining(self) -> PaperConfig:
        """The cell of the paper whose encoder is used."""
        return PaperConfig(
            run=self.run, epochs=self.pretraining_epochs, devices=self.devices, precision=self.precision,
            workers=self.workers,
        )  # fmt: skip


def run_detection(config: DetectionConfig, context: RunContext) -> Metrics:
    """Average precision of boxes and of masks, of each class on the 5,000 validation images; their means are the AP.

    Raises:
        DataMissing: pycocotools is not installed; told before anything is trained.
    """
    if find_spec("pycocotools") is None:
        raise DataMissing("COCO's annotations are read and scored by pycocotools: pip install 'lmim[coco]'")
    folder = transfer_stage("detection", detection_job, config, context)
    found = safetensors.torch.load_file(folder / "precision.safetensors")
    return {name: Scores(tuple(found[name].tolist()), unit="class") for name in ("box_ap", "mask_ap")}


def detection_job(
    accelerator: Accelerator | None, device: torch.device, config: DetectionConfig, before: Path | None, folder: Path,
    seed: int, data_root: Path | None,
) -> None:  # fmt: skip
    """One process of the training; the first one writes the model and the classes' scores to the folder."""
    torch.manual_seed(seed)
    arrays = load(COCO, data_root)
    model = new_detector(config, before, len(arrays["categories"])).to(device)
    train = FlippedObjects(Objects(arrays, "train"), seed)
    processes = place(accelerator)[1]
    stream = DetectionStream(train, Share(len(train), config.batch, processes, processes), device, config.workers)
    steps_per_epoch = stream.share.steps_per_epoch
    train_head(
        model, DetectionLoss(model), detector_groups(model, config.weight_decay), stream, config, folder,
        steps=config.epochs * steps_per_epoch, rate=lambda step: config.lr * rate(step, steps_per_epoch, config),
        seed=seed, device=device, title="detection", accelerator=accelerator,
    )  # fmt: skip
    val = Objects(arrays, "val")
    found = detect(model, val, config, device, accelerator)
    if accelerator is None or accelerator.is_main_process:
        save_model(model, folder / "detector.safetensors")
        official = annotation_file(val.root, "val")
        kinds = {"box_ap": "bbox", "mask_ap": "segm"}
        precision = {name: average_precisions(official, found, kind) for name, kind in kinds.items()}
        write_atomic(folder / "precision.safetensors", safetensors.torch.save(precision))


def new_detector(config: DetectionConfig, before: Path | None, classes: int) -> MaskRCNN:
    """The model of a cell, its encoder from the folder of a stage or new."""
    model_config = config.pretraining().settings().model
    features = make_features(model_config, model_config.image, config.drop_path)
    start_backbone(features, config, model_config, before)
    assert isinstance(features, SwinFeatures)
    return make_detector(
        features, classes, short_sides=config.short_sides, long_side=config.long_side, width=config.width
    )  # fmt: skip


def lists(items: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Images, which differ in size, and their objects."""
    return [image for image, _ in items], [target for _, target in items]


class DetectionStream(Stream):
    """(images, objects) of a micro-batch by its number; see `Stream`."""

    collate = staticmethod(lists)

    def moved(self, batch: Any) -> tuple[list[Tensor], list[Target]]:
        """Images float32 [3, height, width] of 0 to 1 and their objects, on the device."""
        images, targets = batch
        return (
            [image.to(self.device, non_blocking=True).float() / 255 for image in images],
            [{name: value.to(self.device, non_blocking=True) for name, value in each.items()} for each in targets],
        )


def rate(step: int, steps_per_epoch: int, config: DetectionConfig) -> float:
    """Share of the learning rate: a tenth of it after each of `decay_epochs`, and a line up over the first steps."""
    decayed = 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in config.decay_epochs)
    if step >= config.warmup_steps:
        return decayed
    return decayed * (FIRST_RATE + (1 - FIRST_RATE) * step / config.warmup_steps)


def detector_groups(model: MaskRCNN, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: norms and position biases are not decayed."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, value in model.named_parameters():
        groups[is_decayed_dense_swin(name)].append(value)
    return [
        {"params": values, "weight_decay": weight_decay if decayed else 0.0} for decayed, values in groups.items()
    ]  # fmt: skip


@torch.no_grad()
def detect(
    model: MaskRCNN, objects: Objects, config: DetectionConfig, device: torch.device,
    accelerator: Accelerator | None = None,
) -> list[Found]:  # fmt: skip
    """What the model finds in all images, at one scale; complete in every process.

    Args:
        model: see `make_detector`; ends in evaluation mode.
        objects: the images.
        config: of the precision.
        device: where to compute.
        accelerator: for several processes, which share the images.
    """
    model.eval()
    rank, processes = place(accelerator)
    found: list[Found] = []
    for row in range(rank, len(objects), processes):
        pixels = pil_to_tensor(objects.image(row)).to(device).float() / 255
        with autocast(device, config.precision):
            (output,) = model([pixels])
        found += found_objects(output, int(objects.ids[row]), objects.arrays["categories"])
    if accelerator is None:
        return found
    from accelerate.utils import gather_object

    return gather_object(found)


def detection_data(config: DetectionConfig) -> Sequence[Passport]:
    """The datasets that a cell needs."""
    return transfer_data(config, COCO)


RECIPE = Recipe(
    config=DetectionConfig,
    run=run_detection,
    data=detection_data,
    describe="object detection on COCO: Mask R-CNN on a Swin pre-trained by lmim-paper (a recipe of our own)",
)
