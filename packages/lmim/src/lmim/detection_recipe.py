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

from lmim.coco import COCO, FlippedObjects, Objects, Target, annotation_file
from lmim.config import PAPER_RUNS
from lmim.conversion import encoder_state
from lmim.detection import DetectionLoss, Found, average_precisions, found_objects, make_detector
from lmim.features import SwinFeatures, make_features, start_features
from lmim.imagenet import IMAGENET
from lmim.loading import Share, Stream
from lmim.paper import PaperConfig, fine_tuning_stage, pretraining_stage
from lmim.pretraining import counter_seed, place, set_rate
from lmim.segmentation_recipe import stage_model
from sextet.cuda import Precision, autocast, seed_everything, select_device
from sextet.data import DataMissing, Passport, load
from sextet.files import write_atomic
from sextet.processes import launch
from sextet.recipe import Metrics, Recipe, RunContext, Scores, plain
from sextet.training import Training

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
        if self.start not in ("pretrained", "fine-tuned", "scratch"):
            raise ValueError(f"start: expected pretrained, fine-tuned or scratch, got {self.start!r}")
        if not self.short_sides or min(self.short_sides) < 1 or self.long_side < max(self.short_sides):
            raise ValueError(f"long_side: expected at least one of the short sides, got {self.long_side}")
        if self.batch % self.devices:
            raise ValueError(f"batch: expected a multiple of {self.devices} devices, got {self.batch}")
        self.pretraining()
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
    device = select_device(context.device)
    before = None
    if config.start != "scratch":
        stage = pretraining_stage if config.start == "pretrained" else fine_tuning_stage
        before = stage(config.pretraining(), context)

    def build(folder: Path) -> None:
        arguments = config, before, folder, context.seed, context.data_root
        launch(detection_job, arguments, folder=folder, device=device, processes=config.devices)

    recipe = {key: value for key, value in plain(config).items() if key != "workers"}
    folder = context.stage(
        "detection", recipe | {"start_from": before.name if before else "", "seed": context.seed}, build
    )
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
    train_detector(model, stream, config, folder, seed=seed, device=device, accelerator=accelerator)
    val = Objects(arrays, "val")
    found = detect(model, val, config, device, accelerator)
    if accelerator is None or accelerator.is_main_process:
        state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        write_atomic(folder / "detector.safetensors", safetensors.torch.save(state))
        official = annotation_file(val.root, "val")
        kinds = {"box_ap": "bbox", "mask_ap": "segm"}
        precision = {name: average_precisions(official, found, kind) for name, kind in kinds.items()}
        write_atomic(folder / "precision.safetensors", safetensors.torch.save(precision))


def new_detector(config: DetectionConfig, before: Path | None, classes: int) -> MaskRCNN:
    """The model of a cell, its encoder from the folder of a stage or new."""
    model_config = config.pretraining().settings().model
    features = make_features(model_config, model_config.image, config.drop_path)
    if before is not None:
        start_features(features, encoder_state(stage_model(config.start, model_config, before)))
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


def train_detector(
    model: MaskRCNN, stream: DetectionStream, config: DetectionConfig, folder: Path, *, seed: int,
    device: torch.device, accelerator: Accelerator | None = None,
) -> None:  # fmt: skip
    """Train `model` in place; resumes from `folder`.

    Args:
        model: see `make_detector`.
        stream: images and objects by the number of the micro-batch, see `lmim.pretraining.pretrain`.
        config: the recipe.
        folder: checkpoints and log.
        seed: of sizes, drop path, and the proposals that are learned from.
        device: where to compute.
        accelerator: for several processes.
    """
    model.train()
    optimizer = torch.optim.AdamW(detector_groups(model, config.weight_decay), lr=0.0, betas=(0.9, 0.999))
    forward: Any = DetectionLoss(model)
    forward = accelerator.prepare_model(forward) if accelerator else forward
    rank, processes = place(accelerator)
    steps_per_epoch = stream.share.steps_per_epoch
    with Training(
        folder, steps=config.epochs * steps_per_epoch, state={"model": model, "optimizer": optimizer},
        config={**plain(config), "seed": seed}, save_every=500, device=device, precision=config.precision,
        accelerator=accelerator, progress="detection",
    ) as training:  # fmt: skip
        for step in training:
            set_rate(optimizer, config.lr * rate(step, steps_per_epoch, config))
            number = step * processes + rank
            images, targets = stream(number)
            seed_everything(counter_seed(seed, number))
            with training.autocast():
                loss = forward(images, targets)
            training.backward(loss)
            training.optimizer_step(optimizer)
            training.log(loss=loss, lr=optimizer.param_groups[0]["lr"])


def rate(step: int, steps_per_epoch: int, config: DetectionConfig) -> float:
    """Share of the learning rate: a tenth less after each of `decay_epochs`, and a line up over the first steps."""
    decayed = 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in config.decay_epochs)
    if step >= config.warmup_steps:
        return decayed
    return decayed * (FIRST_RATE + (1 - FIRST_RATE) * step / config.warmup_steps)


def detector_groups(model: MaskRCNN, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: norms and position biases are not decayed."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, value in model.named_parameters():
        groups["norm" not in name and "relative_position_bias_table" not in name].append(value)
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
    from torchvision.transforms.functional import pil_to_tensor

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
    return (COCO,) if config.start == "scratch" else (IMAGENET, COCO)


RECIPE = Recipe(
    config=DetectionConfig,
    run=run_detection,
    data=detection_data,
    describe="object detection on COCO: Mask R-CNN on a Swin pre-trained by lmim-paper (a recipe of our own)",
)
