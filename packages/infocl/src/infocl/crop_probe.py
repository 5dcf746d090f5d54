"""The published linear evaluation of ImageNet models (7.4): every epoch sees other crops, so features are made anew."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infocl.augmentation import Augmentation
from infocl.methods import stages_of
from infocl.photograph_views import Following, PhotographViews
from infocl.probes import cosine_rate
from infocl.training import batch_rows, check_sizes, epoch_order, set_rate
from sextet.cuda import Precision
from sextet.training import Training

CROPS = Augmentation(size=224, jitter=0.0, grey=0.0)
"""Random resized crop and mirror, nothing else."""


@dataclass(frozen=True)
class CropProbeConfig:
    """The published recipe.

    Attributes:
        epochs: length of the run.
        batch_size: 256 on ImageNet, 128 elsewhere; an epoch's last incomplete batch is dropped.
        lr: falls to 0 by a cosine, once an epoch.
        momentum: of SGD; there is no decay.
        precision: of the encoder.
        save_every: steps between checkpoints.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 0.3
    momentum: float = 0.9
    precision: Precision = "tf32"
    save_every: int = 2000


class EpochHits:
    """Whether each test row was right after each epoch; part of a checkpoint.

    Args:
        epochs, rows: how many of them.
    """

    def __init__(self, epochs: int, rows: int) -> None:
        self.table = torch.zeros(epochs, rows, dtype=torch.bool)

    def state_dict(self) -> dict[str, Any]:
        """The table."""
        return {"table": self.table}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Put it back."""
        self.table.copy_(state_dict["table"])


def crop_probe(
    encoder: nn.Module,
    train: PhotographViews,
    test: tuple[Tensor, Tensor],
    classes: int,
    config: CropProbeConfig,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    title: str | None = "linear probe",
) -> Tensor:
    """Whether each test row is right after each epoch, bool [epochs, n]; resumes from `folder`.

    Args:
        encoder: frozen; in evaluation mode.
        train: one view an image, with labels; `following_of` tells it what comes next.
        test: features [n, dim] of centre crops, and labels [n].
        classes: number of them.
        config: the recipe.
        folder: checkpoints and log.
        seed: of the initial weights and of the order.
        device: where to compute.
        title: of the progress bar.

    Raises:
        ValueError: fewer training images than a batch, or no labels.
    """
    if train.labels is None:
        raise ValueError("train: expected views with labels")
    steps = check_sizes(len(train), config.batch_size, 1)
    layer = nn.Linear(test[0].shape[1], classes)
    nn.init.normal_(layer.weight, 0.0, 0.01, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)
    layer, encoder = layer.to(device), encoder.to(device).eval()
    optimizer = torch.optim.SGD(layer.parameters(), lr=config.lr, momentum=config.momentum)
    hits, features = EpochHits(config.epochs, len(test[1])), test[0].to(device)

    rows_of = partial(batch_rows, len(train), config.batch_size, seed)
    with Training(
        folder, steps=config.epochs * steps, state={"layer": layer, "optimizer": optimizer, "hits": hits},
        config={**asdict(config), "images": len(train), "seed": seed}, save_every=config.save_every, device=device,
        precision=config.precision, progress=title, rows=rows_of,
    ) as training:  # fmt: skip
        for step in training:
            epoch, position = divmod(step, steps)
            rows = rows_of(step)
            (views,) = train.views(rows, epoch)
            with torch.no_grad(), training.autocast():
                h = stages_of(encoder, views)[-1].float()
            set_rate(optimizer, cosine_rate(epoch, config.epochs, config.lr))
            loss = F.cross_entropy(layer(h), train.labels[rows].to(device))
            training.backward(loss)
            training.optimizer_step(optimizer)
            training.log(loss=loss)
            if position == steps - 1:
                with torch.no_grad():
                    hits.table[epoch] = layer(features).argmax(dim=1).cpu() == test[1]
    return hits.table


def following_of(images: int, batch_size: int, seed: int, epochs: int, rank: int = 0, processes: int = 1) -> Following:
    """For `PhotographViews`: (rows, epoch) -> what comes after them in training, or None at the end.

    Args:
        images: how many there are.
        batch_size, seed, epochs: of the training.
        rank, processes: of the process that asks, whose share of every batch it is.
    """
    steps = images // batch_size

    def following(rows: Tensor, epoch: int) -> tuple[Tensor, int] | None:
        place = int((epoch_order(images, seed, epoch) == rows[0]).nonzero()[0, 0])
        step = epoch * steps + place // batch_size + 1
        if step == epochs * steps:
            return None
        return batch_rows(images, batch_size, seed, step).chunk(processes)[rank], step // steps

    return following
