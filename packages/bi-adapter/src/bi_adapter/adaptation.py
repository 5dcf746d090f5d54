"""One adapted model: its data, its model, its training and its scale, as stages that runs share (Sections 4 and 5)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from bi_adapter.adapters import attach
from bi_adapter.backbone import Architecture, backbone_passport, load_frozen
from bi_adapter.config import BiAdapterConfig
from bi_adapter.evaluation import BestOnTest, best_scale, hits
from bi_adapter.fewshot import FEW_SHOT, FEW_SHOT_PASSPORTS
from bi_adapter.preprocessing import centre_crop, crop_and_flip, decoded_images, normalised
from bi_adapter.training import Draw, FineTuning, TunedPart, fine_tune
from bi_adapter.vtab import PASSPORTS, TASKS
from sextet.cuda import select_device
from sextet.data import Passport, load, recorded_hash
from sextet.files import write_atomic
from sextet.recipe import RunContext

ADAPTERS = ("adaptformer", "lora")
METHODS = (*ADAPTERS, "full", "linear")
EVALUATIONS = 10
"""The published protocol evaluates so often on the test set."""


@dataclass(frozen=True)
class Adaptation:
    """What an adapted model depends on, its seed and images aside.

    Attributes:
        task: one of VTAB-1K's 19 or of the five few-shot datasets.
        shots: images a class of a few-shot dataset; 0 for VTAB-1K.
        method: host of the adapters, `adaptformer` or `lora`; or `full` fine-tuning, or a `linear` probe.
        bits, dim, dropout: of the adapters: bits a weight, hidden width, on the hidden units.
        head_bits: of the classification head, 1 or 32.
        quantiser, codebook, per_row, statistic_gradients: see `quantise.py`.
        scale: s, on what the adapters add.
        drop_path: of the backbone's last block; rises linearly from 0 at the first.
        normalise: of the pixels: `none`, `imagenet` or `inception`.
        jpeg75: whether images pass a JPEG of quality 75 first.
        tuning: the recipe.
        backbone: its shape; ViT-B/16 but in tests.
    """

    task: str = "cifar"
    shots: int = 0
    method: str = "adaptformer"
    bits: int = 1
    dim: int = 32
    dropout: float = 0.1
    head_bits: int = 32
    quantiser: str = "median"
    codebook: str = "converged"
    per_row: bool = False
    statistic_gradients: bool = True
    scale: float = 1.0
    drop_path: float = 0.1
    normalise: str = "none"
    jpeg75: bool = False
    tuning: FineTuning = field(default_factory=FineTuning)
    backbone: Architecture = field(default_factory=Architecture)

    @property
    def passport(self) -> Passport:
        """Of the task's data."""
        return FEW_SHOT_PASSPORTS[self.task] if self.shots else PASSPORTS[self.task]

    @property
    def n_classes(self) -> int:
        """Of the task."""
        return FEW_SHOT[self.task].n_classes if self.shots else TASKS[self.task].n_classes


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images of a task.

    Attributes:
        pixels: uint8 [n, side, side, 3], memory-mapped.
        labels: int64 [n].
        arrays: rows by name, see `vtab.py` and `fewshot.py`.
    """

    pixels: np.ndarray
    labels: Tensor
    arrays: Mapping[str, np.ndarray]

    def rows(self, name: str) -> np.ndarray:
        """Rows int64 [n] of one list; `train1000` are both of VTAB-1K's training lists."""
        if name == "train1000":
            return np.concatenate([self.arrays["train800"], self.arrays["val200"]])
        return np.array(self.arrays[name])  # a copy, since the stored array is read-only

    def labels_of(self, name: str) -> Tensor:
        """Labels int64 of one list."""
        return self.labels[torch.from_numpy(self.rows(name))]


def load_images(config: Adaptation, context: RunContext) -> Images:
    """The task's images at the backbone's size; few-shot ones an eighth larger, to be cropped."""
    side = config.backbone.image_size
    pixels = decoded_images(config.passport, context, side * 8 // 7 if config.shots else side, jpeg75=config.jpeg75)
    arrays = load(config.passport, context.data_root)
    return Images(pixels, torch.from_numpy(np.array(arrays["labels"])), arrays)


def make_draw(config: Adaptation, images: Images, name: str, device: torch.device, *, train: bool) -> Draw:
    """What turns rows of one list into the model's input; the training images go to the device once.

    Args:
        config: says how to normalise, and to crop few-shot images (at random and mirrored while training).
        images: of the task.
        name: of the list.
        device: where the input shall be.
        train: whether to hold all images on the device, and to augment few-shot ones.
    """
    rows, side = images.rows(name), config.backbone.image_size
    held = torch.from_numpy(images.pixels[rows]).to(device) if train else None

    def draw(chosen: Tensor, generator: torch.Generator) -> Tensor:
        if held is not None:
            pixels = held[chosen.to(device)]
        else:
            pixels = torch.from_numpy(images.pixels[rows[chosen.numpy()]]).to(device)
        if config.shots:
            pixels = crop_and_flip(pixels, side, generator) if train else centre_crop(pixels, side)
        return normalised(pixels, config.normalise)

    return draw


def make_model(config: Adaptation, data_root: Path | None, seed: int) -> nn.Module:
    """The frozen backbone with fresh head and adapters (or all of it trainable, for `full`).

    Raises:
        DataMissing: the backbone is not in the data store; says what to get.
    """
    model = load_frozen(config.backbone, config.drop_path, data_root)
    torch.manual_seed(seed)
    model.reset_classifier(config.n_classes)
    if config.method not in ADAPTERS:
        model.requires_grad_(config.method == "full")
        model.head.requires_grad_(True)
        return model
    return attach(model, adapter_config(config))


def adapter_config(config: Adaptation) -> BiAdapterConfig:
    """The adapters' part of a config."""
    return BiAdapterConfig(
        method=config.method,  # pyright: ignore[reportArgumentType]  (checked by BiAdapterConfig)
        bits=config.bits,
        dim=config.dim,
        scale=config.scale,
        dropout=config.dropout,
        head_bits=config.head_bits,
        quantiser=config.quantiser,  # pyright: ignore[reportArgumentType]
        codebook=config.codebook,  # pyright: ignore[reportArgumentType]
        per_row=config.per_row,
        statistic_gradients=config.statistic_gradients,
    )


def identity(config: Adaptation, context: RunContext) -> dict[str, Any]:
    """What a stage of this config depends on, contents of the data included."""
    return {
        **asdict(config),
        "data": recorded_hash(config.passport, context.data_root),
        "weights": recorded_hash(backbone_passport(config.backbone), context.data_root),
    }


def adapted_stage(
    config: Adaptation, context: RunContext, *, train: str, test: str, best_on_test: bool = False
) -> Path:
    """Folder of an adapted model: `tuned.safetensors` and `hits.safetensors` of the test images.

    Args:
        config: the model.
        context: of the run; its seed is the model's.
        train, test: names of the lists to train on and to evaluate on.
        best_on_test: whether the hits are those of the best of ten evaluations, as published, and not of the last one.
    """

    def build(folder: Path) -> None:
        device = select_device(context.device)
        images = load_images(config, context)
        model = make_model(config, context.data_root, context.seed)
        best, labels = BestOnTest(), images.labels_of(test)
        draw, precision = make_draw(config, images, test, device, train=False), config.tuning.precision
        every = config.tuning.epochs // EVALUATIONS if best_on_test else config.tuning.epochs

        def after_epoch(epoch: int) -> None:
            if epoch % max(every, 1) == 0:
                best.offer(hits(model, draw, labels, device=device, precision=precision), epoch)

        fine_tune(
            model,
            make_draw(config, images, train, device, train=True),
            images.labels_of(train),
            config.tuning,
            folder,
            seed=context.seed,
            device=device,
            after_epoch=after_epoch,
            state={"best": best},
            title=f"{config.method} on {config.task}",
        )
        assert best.hits is not None
        safetensors.torch.save_file({"hits": best.hits}, folder / "hits.safetensors", {"epoch": str(best.epoch)})
        safetensors.torch.save_file(TunedPart(model.cpu()).state_dict(), folder / "tuned.safetensors")

    key = {**identity(config, context), "train": train, "test": test, "best_on_test": best_on_test}
    return context.stage(f"adapted-{config.task}", {**key, "seed": context.seed}, build)


def load_adapted(config: Adaptation, context: RunContext, folder: Path) -> nn.Module:
    """The model of an `adapted_stage`, after its last epoch."""
    model = make_model(config, context.data_root, context.seed)
    TunedPart(model).load_state_dict(safetensors.torch.load_file(folder / "tuned.safetensors"))
    return model


def load_hits(folder: Path) -> Tensor:
    """The hits uint8 [n] of an `adapted_stage`."""
    return safetensors.torch.load_file(folder / "hits.safetensors")["hits"]


def chosen_scale(
    config: Adaptation, context: RunContext, scales: tuple[float, ...], *, train: str, val: str, seed: int
) -> float:
    """The scale of a grid with the best accuracy on validation images, as a stage that all seeds share.

    Args:
        config: the model; its own scale does not matter.
        context: of the run.
        scales: the grid.
        train, val: names of the lists to train on and to choose on.
        seed: of these runs.
    """

    def build(folder: Path) -> None:
        searching = replace(context, seed=seed)
        found = {}
        for scale in scales:
            trained = adapted_stage(replace(config, scale=scale), searching, train=train, test=val)
            found[scale] = float(load_hits(trained).double().mean())
        content = {"scale": best_scale(found), "accuracies": {str(scale): value for scale, value in found.items()}}
        write_atomic(folder / "scale.json", json.dumps(content, indent=1).encode())

    key = {**identity(replace(config, scale=0.0), context), "scales": scales, "train": train, "val": val, "seed": seed}
    folder = context.stage(f"scale-{config.task}", key, build)
    return float(json.loads((folder / "scale.json").read_text())["scale"])
