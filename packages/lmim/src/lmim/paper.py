"""The paper's own experiments on ImageNet-1K: pre-train, fine-tune, count right answers (sections 6, 7 and 9).

One run is one cell. Pre-training is shared by all cells that differ in what comes after it, segmentation included;
fine-tuning by those that differ in the protocol alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from lmim.classifiers import make_classifier
from lmim.config import (
    PAPER_RUNS,
    FineTuningConfig,
    MimConfig,
    PretrainingConfig,
    Run,
    fused,
    mae,
    mask_feat,
    short,
    single_scale,
    top_only,
)
from lmim.conversion import encoder_state, load_released_state, make_pretrained, start_classifier
from lmim.finetuning import fine_tune
from lmim.image_index import ImageIndex
from lmim.imagenet import IMAGENET
from lmim.loading import (
    Augmented,
    Share,
    Stream,
    evaluation_transform,
    fine_tuning_transform,
    pretraining_transform,
    right_answers,
)
from lmim.pretraining import place, pretrain
from lmim.schedule import is_decayed, is_decayed_in_fine_tuning, is_decayed_swin, swin_layer, vit_layer
from lmim.sharding import whole_state
from sextet.cuda import Precision, autocast, select_device
from sextet.data import Passport, load
from sextet.files import write_atomic
from sextet.processes import launch
from sextet.recipe import Metrics, Recipe, RunContext, Scores, plain

if TYPE_CHECKING:
    from accelerate import Accelerator

PUBLISHED_DEVICES = 8
"""The published runs had so many GPUs; accumulation makes up for fewer, and a micro-batch stays as large."""
_ARMS = ("local", "top-only", "single-scale", "fusion", "isolated", "mae", "mask-feat")
_CHOICES = {
    "task": ("fine-tune", "timing"), "run": tuple(PAPER_RUNS), "epochs": (0, 100), "arm": _ARMS,
    "protocol": ("ours", "as-published"), "target": ("", "hog", "pixels", "normalised-pixels"),
    "precision": ("fp32", "tf32", "bf16", "fp16"),
}  # fmt: skip


@dataclass(frozen=True)
class PaperConfig:
    """One cell of the paper's tables. Empty and zero stand for what was published for that run.

    Attributes:
        task: `fine-tune`: accuracy after pre-training and fine-tuning; `timing`: GPU hours an epoch of pre-training.
        run: one of the five published runs, `vit-base`, `vit-large`, `swin-base-pixels`, `swin-base-hog`, `swin-large`.
        epochs: of pre-training: 0 as published for the run, or 100, with its own warm-up and fine-tuning.
        arm: `local` as published; `top-only`, `single-scale`, `fusion` (one decoder on a learned mean of the taps) and
            `isolated` (no gradient between stages) change that alone; `mae` and `mask-feat` are those methods.
        taps: 0-based blocks of a ViT whose output is decoded.
        scales: of the taps, cells a token and axis.
        decoder_dim, decoder_depth: of every decoder.
        target: `hog`, `pixels` or `normalised-pixels`.
        protocol: `ours` reports the accuracy after the last epoch; `as-published` the best of all epochs, which is
            chosen on the images that are reported.
        devices: processes with a device each; fewer than eight accumulate more micro-batches.
        precision: fp16 as published, with loss scaling; bf16, tf32, fp32.
        workers: processes that decode images, for each device.
        compiled: run pre-training's forward pass through `torch.compile`.
        sharded: divide the model among the devices in pre-training; with another precision than fp16.
        timing_steps: of `timing`.
    """

    task: str = "fine-tune"
    run: str = "vit-base"
    epochs: int = 0
    arm: str = "local"
    taps: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    decoder_dim: int = 0
    decoder_depth: int = 0
    target: str = ""
    protocol: str = "ours"
    devices: int = 1
    precision: Precision = "fp16"
    workers: int = 16
    compiled: bool = False
    sharded: bool = False
    timing_steps: int = 200

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        if self.arm not in ("local", "isolated") and self.run.startswith("swin"):
            raise ValueError(f"arm: {self.arm} is of ViTs only, got run {self.run}")
        if self.devices < 1 or PUBLISHED_DEVICES % self.devices:
            raise ValueError(f"devices: expected a divisor of {PUBLISHED_DEVICES}, got {self.devices}")
        if self.sharded and (self.devices == 1 or self.precision == "fp16"):
            raise ValueError(f"sharded: expected devices to share, not in fp16; got {self.devices}, {self.precision}")

    def settings(self) -> Run:
        """Model, pre-training and fine-tuning of this cell, accumulation for its devices included."""
        run = short(self.run) if self.epochs else PAPER_RUNS[self.run]
        more = PUBLISHED_DEVICES // self.devices
        return Run(
            self.model(run.model),
            replace(
                run.pretraining,
                accumulation=run.pretraining.accumulation * more,
                precision=self.precision,
                sharded=self.sharded,
            ),
            replace(run.fine_tuning, accumulation=run.fine_tuning.accumulation * more, precision=self.precision),
        )

    def model(self, published: MimConfig) -> MimConfig:
        """The arm of a published model, with this cell's changes."""
        arms = {
            "top-only": top_only, "single-scale": single_scale, "fusion": fused, "mae": mae, "mask-feat": mask_feat,
            "isolated": lambda model: replace(model, isolate_stages=True),
        }  # fmt: skip
        model = arms.get(self.arm, lambda model: model)(published)
        changes: dict[str, Any] = {
            "taps": self.taps, "scales": self.scales, "decoder_depth": self.decoder_depth, "target": self.target,
            "decoder_dims": (self.decoder_dim,) if self.decoder_dim else (),
        }  # fmt: skip
        return replace(model, **{name: value for name, value in changes.items() if value})


def run_paper(config: PaperConfig, context: RunContext) -> Metrics:
    """Whether each validation image is classified rightly, one score an image; or the GPU hours of an epoch."""
    if config.task == "timing":
        return {"hours": Scores((hours_per_epoch(config, context),), unit="run")}
    folder = fine_tuning_stage(config, context)
    name = "last" if config.protocol == "ours" else "best"
    right = np.load(folder / f"{name}.npy", allow_pickle=False)
    return {"accuracy": Scores(tuple(right.astype(float).tolist()), unit="image")}


def pretraining_stage(config: PaperConfig, context: RunContext) -> Path:
    """Folder of a pre-trained model: `model.safetensors`, with the GPU hours it took in its notes."""
    settings, device = config.settings(), select_device(context.device)
    recipe = {"model": plain(settings.model), "pretraining": plain(settings.pretraining), "seed": context.seed}

    def build(folder: Path) -> None:
        arguments = settings, folder, context.seed, context.data_root, config.workers, config.compiled
        launch(pretraining_job, arguments, folder=folder, device=device, processes=config.devices)

    return context.stage("pretraining", recipe | {"devices": config.devices}, build)


def pretraining_job(
    accelerator: Accelerator | None, device: torch.device, settings: Run, folder: Path, seed: int,
    data_root: Path | None, workers: int, compiled: bool,
) -> None:  # fmt: skip
    """One process of pre-training; the first one writes the model to the folder."""
    stream = pretraining_stream(settings, seed, data_root, device, workers, accelerator)
    model = new_model(settings.model, seed)
    meter = pretrain(
        model, stream.images, settings.pretraining, folder, steps_per_epoch=stream.share.steps_per_epoch, seed=seed,
        device=device, accelerator=accelerator, rows=stream.rows, save_every=500, compiled=compiled,
        **of_model(settings.model),
    )  # fmt: skip
    state = whole_state(model)
    if accelerator is None or accelerator.is_main_process:
        notes = {"gpu_hours": str(meter.hours(place(accelerator)[1]))}
        state = {name: value.cpu().contiguous() for name, value in state.items()}
        write_atomic(folder / "model.safetensors", safetensors.torch.save(state, notes))


def pretraining_stream(
    settings: Run, seed: int, data_root: Path | None, device: torch.device, workers: int,
    accelerator: Accelerator | None,
) -> Stream:  # fmt: skip
    """The batches of a process in pre-training."""
    index = ImageIndex(load(IMAGENET, data_root), "train")
    transform = pretraining_transform(settings.model.image, settings.pretraining.crop_scale)
    share = share_of(len(index), settings.pretraining, accelerator)
    return Stream(Augmented(index, transform, seed), share, device, workers)


def share_of(images: int, config: PretrainingConfig | FineTuningConfig, accelerator: Accelerator | None) -> Share:
    """How a process's batches are made from the set."""
    processes = place(accelerator)[1]
    return Share(images, config.batch, config.accumulation * processes, processes)


def new_model(config: MimConfig, seed: int) -> Any:
    """A pre-training model with initial weights that depend on the seed alone."""
    torch.manual_seed(seed)
    return make_pretrained(config)


def of_model(config: MimConfig) -> dict[str, Any]:
    """What `pretrain` has to know of a model."""
    return {
        "mask_ratio": config.mask_ratio, "loss_weights": config.loss_weights,
        "decayed": is_decayed if config.backbone == "vit" else is_decayed_swin,
    }  # fmt: skip


def load_pretrained(config: MimConfig, folder: Path) -> Any:
    """The model of a pre-training stage."""
    model = make_pretrained(config)
    path = folder / "model.safetensors"
    load_released_state(model, safetensors.torch.load_file(path), where=str(path))
    return model


def fine_tuning_stage(config: PaperConfig, context: RunContext) -> Path:
    """Folder of a fine-tuned model: `classifier.safetensors` and, for each validation image, whether it was classified
    rightly after the last and in the best epoch, `last.npy` and `best.npy`."""
    settings, device = config.settings(), select_device(context.device)
    before = pretraining_stage(config, context)

    def build(folder: Path) -> None:
        arguments = settings, before, folder, context.seed, context.data_root, config.workers
        launch(fine_tuning_job, arguments, folder=folder, device=device, processes=config.devices)

    recipe = {"pretraining": before.name, "fine_tuning": plain(settings.fine_tuning), "seed": context.seed}
    return context.stage("fine-tuning", recipe | {"devices": config.devices}, build)


def fine_tuning_job(
    accelerator: Accelerator | None, device: torch.device, settings: Run, before: Path, folder: Path, seed: int,
    data_root: Path | None, workers: int,
) -> None:  # fmt: skip
    """One process of fine-tuning; the first one writes model and answers to the folder."""
    model_config, config = settings.model, settings.fine_tuning
    arrays = load(IMAGENET, data_root)
    train, val, classes = ImageIndex(arrays, "train"), ImageIndex(arrays, "val"), len(arrays["classes"])
    torch.manual_seed(seed)
    model = make_classifier(model_config, classes, config.drop_path)
    start_classifier(model, encoder_state(load_pretrained(model_config, before)))
    share = share_of(len(train), config, accelerator)
    stream = Stream(Augmented(train, fine_tuning_transform(model_config.image, config), seed), share, device, workers)
    is_main = accelerator is None or accelerator.is_main_process

    def evaluate(model: nn.Module) -> float:
        with autocast(device, config.precision):
            right = right_answers(
                model, val, evaluation_transform(model_config.image), device, workers=workers, accelerator=accelerator
            )  # fmt: skip
        if is_main:
            np.save(folder / f"right-{int(right.sum())}.npy", right, allow_pickle=False)
        return float(right.mean())

    layer = vit_layer if model_config.backbone == "vit" else swin_layer
    of_layer: Any = model_config.depth if model_config.backbone == "vit" else model_config.depths
    curve = fine_tune(
        model, stream, evaluate, config, folder, classes=classes, layer=lambda name: layer(name, of_layer),
        layers=model_config.depth, steps_per_epoch=share.steps_per_epoch, seed=seed, device=device,
        decayed=is_decayed_in_fine_tuning if model_config.backbone == "vit" else is_decayed, accelerator=accelerator,
        rows=stream.rows, save_every=500,
    )  # fmt: skip
    if is_main:
        for name, accuracy in (("last", curve.last), ("best", curve.best)):
            write_atomic(folder / f"{name}.npy", (folder / f"right-{round(accuracy * len(val))}.npy").read_bytes())
        state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        write_atomic(folder / "classifier.safetensors", safetensors.torch.save(state))


def hours_per_epoch(config: PaperConfig, context: RunContext) -> float:
    """GPU hours of computing that an epoch of pre-training takes, from some steps after as many to warm up."""
    settings, device = config.settings(), select_device(context.device)
    folder = context.directory / "timing"
    arguments = settings, folder, context.seed, context.data_root, config.workers, config.compiled, config.timing_steps
    launch(timing_job, arguments, folder=folder, device=device, processes=config.devices)
    return float(np.load(folder / "hours.npy", allow_pickle=False))


def timing_job(
    accelerator: Accelerator | None, device: torch.device, settings: Run, folder: Path, seed: int,
    data_root: Path | None, workers: int, compiled: bool, steps: int,
) -> None:  # fmt: skip
    """One process of the timing; the first one writes `hours.npy`."""
    stream = pretraining_stream(settings, seed, data_root, device, workers, accelerator)
    brief = replace(settings.pretraining, epochs=1, warmup_epochs=0)
    meters = [
        pretrain(
            new_model(settings.model, seed), stream.images, brief, folder / name, steps_per_epoch=steps, seed=seed,
            device=device, accelerator=accelerator, save_every=steps, compiled=compiled, **of_model(settings.model),
        )
        for name in ("warm-up", "measured")
    ]  # fmt: skip
    if accelerator is None or accelerator.is_main_process:
        processes = place(accelerator)[1]
        hours = meters[-1].hours(processes) / steps * stream.share.steps_per_epoch
        np.save(folder / "hours.npy", np.array(hours), allow_pickle=False)


def paper_data(_config: PaperConfig) -> Sequence[Passport]:
    """The dataset that every cell needs."""
    return (IMAGENET,)


PAPER = Recipe(
    config=PaperConfig,
    run=run_paper,
    data=paper_data,
    describe="the paper's experiments on ImageNet-1K: pre-training, fine-tuning, GPU hours",
)
