"""Semantic segmentation on ADE20K with UPerNet from a pre-trained encoder (section 8), as a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lmim.ade20k import ADE20K, N_CLASSES, AugmentedScenes, Scenes, fitted_size, normalised, to_tensor
from lmim.config import PAPER_RUNS
from lmim.features import make_features
from lmim.loading import Share, Stream
from lmim.paper import PaperConfig
from lmim.pretraining import place
from lmim.schedule import is_decayed, layer_scale, vit_layer
from lmim.segmentation import Confusion, SegmentationLoss, Segmenter, resized, sliding_logits
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
from sextet.data import Passport, load
from sextet.files import write_atomic
from sextet.recipe import Metrics, Recipe, RunContext, Scores

if TYPE_CHECKING:
    from accelerate import Accelerator

FIRST_RATE = 1e-6
"""Share of the learning rate that warm-up begins with."""


@dataclass(frozen=True)
class Published:
    """What the published configurations set differently for each kind of backbone.

    Attributes:
        width: of the head.
        lr, weight_decay, drop_path: of the backbone and the heads.
        layer_decay: a layer's rate is lr * layer_decay^(layers above it).
        slide: test in windows, else on the whole image.
    """

    width: int
    lr: float
    weight_decay: float
    drop_path: float
    layer_decay: float
    slide: bool


PUBLISHED = {
    "vit": Published(768, 4e-4, 0.05, 0.1, 0.65, True),
    "swin": Published(512, 6e-5, 0.01, 0.3, 1.0, False),
}


@dataclass(frozen=True)
class SegmentationConfig:
    """One cell: a pre-trained encoder, and how UPerNet learns on it. Zero stands for the published value.

    Attributes:
        run, epochs: the pre-training, see `PaperConfig`.
        start: `pretrained`, `fine-tuned` on ImageNet's classes besides, or `scratch`.
        steps, batch, warmup_steps: length of the run and its warm-up.
        crop: pixels a side of the training crops and of the windows in which a ViT is tested.
        stride: from one window to the next.
        lr: peak rate.
        width: of the head.
        evaluate_every: steps between evaluations, which are logged; the last one counts.
        devices, precision, workers: see `PaperConfig`; batch statistics are over the whole batch on any number of GPUs.
    """

    run: str = "vit-base"
    epochs: int = 0
    start: str = "pretrained"
    steps: int = 160_000
    batch: int = 16
    warmup_steps: int = 1500
    crop: int = 512
    stride: int = 341
    lr: float = 0.0
    width: int = 0
    evaluate_every: int = 16_000
    devices: int = 1
    precision: Precision = "fp16"
    workers: int = 8

    def __post_init__(self) -> None:
        check_transfer(self)
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps: expected 0 or more and below {self.steps}, got {self.warmup_steps}")
        if self.crop % 32 or not 0 < self.stride <= self.crop:
            raise ValueError(f"crop: expected a multiple of 32 and strides up to it, got {self.crop}, {self.stride}")

    def pretraining(self) -> PaperConfig:
        """The cell of the paper whose encoder is used."""
        return PaperConfig(
            run=self.run, epochs=self.epochs, devices=self.devices, precision=self.precision, workers=self.workers
        )

    def published(self) -> Published:
        """The published settings of this kind of backbone."""
        return PUBLISHED[PAPER_RUNS[self.run].model.backbone]


def run_segmentation(config: SegmentationConfig, context: RunContext) -> Metrics:
    """Intersection over union of each class on the 2,000 validation images; their mean is the mIoU."""
    folder = transfer_stage("segmentation", segmentation_job, config, context)
    return {"iou": Scores(tuple(safetensors.torch.load_file(folder / "iou.safetensors")["iou"].tolist()), unit="class")}


def segmentation_job(
    accelerator: Accelerator | None, device: torch.device, config: SegmentationConfig, before: Path | None,
    folder: Path, seed: int, data_root: Path | None,
) -> None:  # fmt: skip
    """One process of the training; the first one writes the model and the classes' scores to the folder."""
    torch.manual_seed(seed)
    arrays = load(ADE20K, data_root)
    train, val = Scenes(arrays, "train"), Scenes(arrays, "val")
    model = new_segmenter(config, before).to(device)
    processes = place(accelerator)[1]
    if processes > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    share = Share(len(train), config.batch, processes, processes)
    stream = Stream(AugmentedScenes(train, config.crop, seed), share, device, config.workers)

    def evaluate() -> Tensor:
        return class_scores(model, val, config, device, accelerator)

    def measure(step: int) -> dict[str, Tensor]:
        due = (step + 1) % config.evaluate_every == 0 and step + 1 < config.steps
        return {"miou": evaluate().mean()} if due else {}

    def rate(step: int) -> float:
        return (config.lr or config.published().lr) * poly_rate(step, config.steps, config.warmup_steps)

    assert isinstance(model, Segmenter)
    train_head(
        model, SegmentationLoss(model), segmenter_groups(model, config.published()), stream, config, folder,
        steps=config.steps, rate=rate, seed=seed, device=device, title="segmentation", accelerator=accelerator,
        measure=measure,
    )  # fmt: skip
    scores = evaluate()
    if accelerator is None or accelerator.is_main_process:
        save_model(model, folder / "segmenter.safetensors")
        write_atomic(folder / "iou.safetensors", safetensors.torch.save({"iou": scores}))


def new_segmenter(config: SegmentationConfig, before: Path | None, classes: int = N_CLASSES) -> Segmenter:
    """The model of a cell, its encoder from the folder of a stage or new."""
    published, model_config = config.published(), config.pretraining().settings().model
    backbone = make_features(model_config, config.crop, published.drop_path)
    start_backbone(backbone, config, model_config, before)
    return Segmenter(backbone, classes, config.width or published.width)


def poly_rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate: linear to 0, and over the first steps the same times a line from 1e-6 to 1."""
    rate = 1 - step / steps
    return rate * (1 - (1 - step / warmup) * (1 - FIRST_RATE)) if step < warmup else rate


def segmenter_groups(model: Segmenter, published: Published) -> list[dict[str, Any]]:
    """Groups for AdamW. A ViT's rates fall with depth, and vectors and biases are not decayed (class token and
    positions are, as published); a Swin has one rate, and norms and position biases are not decayed."""
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    depth = getattr(model.backbone, "depth", 0)
    for name, value in model.named_parameters():
        scale = 1.0
        if depth:
            inner = name.removeprefix("backbone.")
            scale = layer_scale(vit_layer(inner, depth), depth, published.layer_decay)
            decayed = is_decayed(name, value)
        else:
            decayed = is_decayed_dense_swin(name)
        key = scale, published.weight_decay if decayed else 0.0
        groups.setdefault(key, {"params": [], "lr_scale": key[0], "weight_decay": key[1]})["params"].append(value)
    return [groups[key] for key in sorted(groups)]


@torch.no_grad()
def class_scores(
    model: nn.Module, scenes: Scenes, config: SegmentationConfig, device: torch.device,
    accelerator: Accelerator | None = None,
) -> Tensor:  # fmt: skip
    """Intersection over union of the classes that occur, float64, at the images' own size; one scale, no flip.

    Args:
        model: see `Segmenter`; ends in evaluation mode.
        scenes: what is segmented.
        config: of the windows.
        device: where to compute.
        accelerator: for several processes, which share the images.
    """
    model.eval()
    rank, processes = place(accelerator)
    confusion = Confusion(N_CLASSES)
    for row in range(rank, len(scenes), processes):
        image, labels = scenes[row]
        pixels = normalised(to_tensor(image.resize(fitted_size(*image.size), resample=2)))[None].to(device)
        with autocast(device, config.precision):
            if config.published().slide:
                logits = sliding_logits(model, pixels, config.crop, config.stride)
            else:
                logits = model(pixels)
        found = resized(logits.float(), labels.shape).argmax(dim=1)[0].cpu()
        confusion.add(found, torch.from_numpy(labels))
    if accelerator is not None:
        from accelerate.utils import gather_object

        confusion.counts = torch.stack(gather_object([confusion.counts])).sum(dim=0)
    return confusion.intersection_over_union()


def segmentation_data(config: SegmentationConfig) -> Sequence[Passport]:
    """The datasets that a cell needs."""
    return transfer_data(config, ADE20K)


RECIPE = Recipe(
    config=SegmentationConfig,
    run=run_segmentation,
    data=segmentation_data,
    describe="semantic segmentation on ADE20K: UPerNet on an encoder pre-trained by lmim-paper",
)
