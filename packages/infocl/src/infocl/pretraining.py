"""Pre-training at the paper's sizes: CIFAR-10/100, STL-10, ImageNet (section 7.1), on one device or several."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch
from torch import nn

from infocl.augmentation import SUPERVISED, Augmentation, Views
from infocl.crop_probe import following_of
from infocl.methods import REGULARIZERS, BarlowTwins, Byol, Method, SimClr, Supervised
from infocl.networks import LAYERS, Decoder, Encoder, SmallEncoder
from infocl.passports import DATASETS
from infocl.photograph_views import PhotographViews
from infocl.preprocessing import STATISTICS
from infocl.regularisers import LowerBoundRegularizer
from infocl.stored_images import ArrayImages, images_of
from infocl.training import Source, TrainingConfig, train
from sextet.checkpoint import load_foreign
from sextet.cuda import select_device
from sextet.data import load
from sextet.files import write_atomic
from sextet.processes import launch

if TYPE_CHECKING:
    from accelerate import Accelerator

METHODS = {"simclr": SimClr, "byol": Byol, "barlow": BarlowTwins, "supervised": Supervised}
STEMS = {"CIFAR10": "cifar", "CIFAR100": "cifar", "STL-10": "stl10", "ImageNet": "imagenet"}
SIDES = {"CIFAR10": 32, "CIFAR100": 32, "STL-10": 64, "ImageNet": 224}


@dataclass(frozen=True)
class PretrainingConfig:
    """One pre-training run.

    Attributes:
        data: `CIFAR10`, `CIFAR100`, `STL-10` (its unlabelled images; its labelled ones for `supervised`), `ImageNet`.
        method: `simclr`, `byol`, `barlow` or `supervised`.
        regulariser: see `methods.Method`; lambda is `training.weight`.
        sigma, rho, stage_weights: of LBE; sigma is the noise of `noise` and `mib`, too.
        arch: one of `networks.LAYERS`, or `small`, for tests.
        checkpoints: epochs after which the encoder is kept; the last one always is.
        processes: to share every batch, one a GPU.
        training: the recipe.
    """

    data: str = "CIFAR10"
    method: str = "simclr"
    regulariser: str = "none"
    sigma: float = 0.1
    rho: float = 0.05
    stage_weights: tuple[float, ...] = (0.25, 0.5, 1.0)
    arch: str = "resnet18"
    checkpoints: tuple[int, ...] = ()
    processes: int = 1
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        known = {"data": STEMS, "method": METHODS, "regulariser": REGULARIZERS, "arch": (*LAYERS, "small")}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if any(not 1 <= epoch <= self.training.epochs for epoch in self.checkpoints):
            raise ValueError(f"checkpoints: expected epochs 1..{self.training.epochs}, got {list(self.checkpoints)}")


def make_encoder(config: PretrainingConfig) -> Encoder | SmallEncoder:
    """A fresh encoder with the stem that goes with the images."""
    if config.arch == "small":
        return SmallEncoder(3)
    return Encoder(config.arch, STEMS[config.data])  # pyright: ignore[reportArgumentType]


def make_method(config: PretrainingConfig) -> Method:
    """The method with fresh weights."""
    encoder = make_encoder(config)
    arguments = {
        "regulariser": config.regulariser,
        "weight": config.training.weight,
        "decoder": Decoder(encoder.dim, SIDES[config.data]) if config.regulariser == "rc" else None,
        "lower_bound": LowerBoundRegularizer(config.sigma, config.rho, config.stage_weights),
    }
    if config.method == "supervised":
        return Supervised(encoder, encoder.dim, DATASETS[config.data].classes, **arguments)
    return METHODS[config.method](encoder, encoder.dim, **arguments)


def make_source(
    config: PretrainingConfig, root: Path | None, *, seed: int, device: torch.device, rank: int = 0
) -> Source:
    """The images with their augmentation; arrays are held on the device, photographs decoded on the way.

    Args:
        config: of the run.
        root: where datasets lie; None for the default.
        seed: of the augmentation.
        device: where views are made.
        rank: of the process, where there are several.
    """
    supervised = config.method == "supervised"
    split = "unlabeled" if config.data == "STL-10" and not supervised else "train"
    images = images_of(load(DATASETS[config.data].passport, root), split, DATASETS[config.data].classes)
    augmentation = replace(SUPERVISED if supervised else Augmentation(), size=SIDES[config.data])
    mean, std = STATISTICS["ImageNet" if config.data == "ImageNet" else "CIFAR10"]
    count = 1 if supervised else 2
    if not isinstance(images, ArrayImages):
        following = following_of(
            len(images), config.training.batch_size, seed, config.training.epochs, rank, config.processes
        )
        return PhotographViews(
            images, augmentation, seed=seed, count=count, labels=supervised, mean=mean, std=std, device=device,
            following=following,
        )  # fmt: skip
    pixels = torch.from_numpy(np.array(images.pixels)).to(device)
    labels = torch.from_numpy(np.array(images.labels)) if supervised else None
    return Views(pixels, augmentation, seed=seed, count=count, labels=labels, mean=mean, std=std)


def pretrain(config: PretrainingConfig, folder: Path, *, seed: int, device: str, root: Path | None) -> None:
    """Train; keep `encoder-<epoch>.safetensors` in `folder`, where a run that was stopped continues.

    Several processes, where the config asks for them, are started here and share every batch.
    """
    arguments = config, folder, seed, root
    launch(pretraining_job, arguments, folder=folder, device=select_device(device), processes=config.processes)


def pretraining_job(
    accelerator: Accelerator | None, device: torch.device, config: PretrainingConfig, folder: Path, seed: int,
    root: Path | None,
) -> None:  # fmt: skip
    """One process of the training; the first one writes the encoders."""
    torch.manual_seed(seed)
    model = make_method(config)
    kept = {*config.checkpoints, config.training.epochs}

    def keep(trained: Method, epoch: int) -> None:
        if epoch in kept and (accelerator is None or accelerator.is_main_process):
            tensors = {name: value.detach().cpu().contiguous() for name, value in trained.encoder.state_dict().items()}
            write_atomic(folder / f"encoder-{epoch}.safetensors", safetensors.torch.save(tensors))

    rank = accelerator.process_index if accelerator else 0
    source = make_source(config, root, seed=seed, device=device, rank=rank)
    train(model, source, config.training, folder, seed=seed, device=device, on_epoch=keep, accelerator=accelerator)


def load_encoder(config: PretrainingConfig, file: Path) -> nn.Module:
    """An encoder out of a file that `pretrain` wrote, in evaluation mode."""
    encoder = make_encoder(config)
    encoder.load_state_dict(load_foreign(file))
    return encoder.eval()
