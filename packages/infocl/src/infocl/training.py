"""One trainer for all methods: resumable, on one device or several processes, losses in full precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from infocl.lars import Lars
from infocl.methods import Method
from sextet.cuda import Precision
from sextet.training import Training

if TYPE_CHECKING:
    from accelerate import Accelerator

OPTIMIZERS = ("adam", "sgd", "lars", "published-lars")


@dataclass(frozen=True)
class TrainingConfig:
    """The defaults are the published recipe for CIFAR and STL-10 (7.1).

    Attributes:
        epochs: length of the run.
        batch_size: images a step, over all processes; an epoch's last incomplete batch is dropped.
        optimizer: `adam`; `sgd` with momentum; `lars`; or `published-lars`, see `lars.Lars`.
        lr: learning rate; for LARS 0.3 * batch_size / 256 is published.
        weight_decay, momentum: of the optimiser (Adam has no momentum to set).
        schedule: `constant`, or `cosine` to 0, changed once an epoch, without warm-up.
        weight: lambda of the regulariser.
        weight_warmup: epochs over which lambda rises linearly from 0.
        precision: `fp32`, `tf32`, `bf16` or `fp16` of the networks; losses are in float32.
        channels_last: memory layout of images and convolutions; faster on most devices, rounds differently.
        save_every: steps between checkpoints.
    """

    epochs: int = 200
    batch_size: int = 256
    optimizer: str = "adam"
    lr: float = 3e-4
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str = "constant"
    weight: float = 1.0
    weight_warmup: int = 0
    precision: Precision = "fp32"
    channels_last: bool = False
    save_every: int = 1000

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError(f"expected epochs >= 1 and batch_size >= 2, got {self.epochs} and {self.batch_size}")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", ("constant", "cosine"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.weight_warmup < 0:
            raise ValueError(f"weight_warmup: expected at least 0 epochs, got {self.weight_warmup}")


class Source(Protocol):
    """What training reads: `augmentation.Views`, or anything like it.

    `views(rows, epoch)` must depend on its arguments alone; `labels` [n] are needed by supervised training only.
    """

    @property
    def labels(self) -> Tensor | None: ...  # noqa: D102

    def __len__(self) -> int: ...

    def views(self, rows: Tensor, epoch: int) -> tuple[Tensor, ...]: ...  # noqa: D102


def train(
    model: Method,
    source: Source,
    config: TrainingConfig,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Method, int], None] | None = None,
    accelerator: Accelerator | None = None,
    title: str | None = "pre-training",
) -> None:
    """Train `model` in place; resumes from `folder`, where the log holds every step's losses and measurements.

    Args:
        model: any method.
        source: images and views.
        config: the recipe.
        folder: checkpoints and log.
        seed: order of images, noise.
        device: where to compute.
        on_epoch: called with the model, in evaluation mode, and the number of epochs done; may be called again with the
            same number when a run is continued.
        accelerator: for several processes, each of which takes its share of every batch.
        title: of the progress bar.

    Raises:
        ValueError: fewer images than a batch, a batch that processes cannot share, missing labels.
    """
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    steps_per_epoch = check_sizes(len(source), config.batch_size, processes)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(device).to(memory_format=layout)
    parallel: nn.Module = accelerator.prepare(model) if accelerator else model
    optimizer = make_optimizer(model, config)
    torch.manual_seed(seed * 1009 + rank)

    def rows_of(step: int) -> Tensor:
        return batch_rows(len(source), config.batch_size, seed, step).chunk(processes)[rank]

    with Training(
        folder,
        steps=config.epochs * steps_per_epoch,
        state={"model": model, "optimizer": optimizer},
        config={**asdict(config), "images": len(source), "seed": seed, "processes": processes},
        save_every=config.save_every,
        device=device,
        precision=config.precision,
        accelerator=accelerator,
        progress=title,
        rows=rows_of,
    ) as training:
        for step in training:
            epoch, position = divmod(step, steps_per_epoch)
            batch = rows_of(step)
            views = [view.to(device, memory_format=layout) for view in source.views(batch, epoch)]
            labels = None if source.labels is None else source.labels[batch].to(device)
            set_rate(optimizer, learning_rate(config, epoch))
            model.weight = regulariser_weight(config, step / steps_per_epoch)
            parallel.train()
            with training.autocast():
                loss = parallel(*views, labels=labels)
            training.backward(loss)
            training.optimizer_step(optimizer)
            model.after_step(epoch, config.epochs)
            training.log(loss=loss, weight=model.weight, **model.log)
            if on_epoch is not None and position == steps_per_epoch - 1:
                on_epoch(model.eval(), epoch + 1)


def check_sizes(images: int, batch_size: int, processes: int) -> int:
    """Steps an epoch.

    Raises:
        ValueError: fewer images than a batch, or a batch that processes cannot share equally, two images at least.
    """
    if images < batch_size:
        raise ValueError(f"batch_size: expected at most the {images} images there are, got {batch_size}")
    if batch_size % processes or batch_size < 2 * processes:
        raise ValueError(
            f"batch_size: expected a multiple of the {processes} processes, at least two images each, got {batch_size}"
        )
    return images // batch_size


@lru_cache(maxsize=2)
def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """A permutation of 0..images-1, int64, that depends on (seed, epoch) alone."""
    words = np.random.Philox(key=seed, counter=[0, 0, 0, epoch]).random_raw(images)
    return torch.from_numpy(np.argsort(words, kind="stable"))


def batch_rows(images: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Which images a step sees, int64 [batch]: its place in the order of its epoch, incomplete batches dropped."""
    epoch, position = divmod(step, images // batch_size)
    return epoch_order(images, seed, epoch)[position * batch_size :][:batch_size]


def learning_rate(config: TrainingConfig, epoch: int) -> float:
    """Of a 0-based epoch: constant, or lr (1 + cos(pi epoch / epochs)) / 2."""
    if config.schedule == "constant":
        return config.lr
    return config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


def regulariser_weight(config: TrainingConfig, epoch: float) -> float:
    """lambda after so many epochs, whole or not."""
    return config.weight * (min(1.0, epoch / config.weight_warmup) if config.weight_warmup else 1.0)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Of all parameters that learn; a decoder's, too."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    published = config.optimizer == "published-lars"
    return Lars(parameters, config.lr, config.momentum, config.weight_decay, published=published)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
