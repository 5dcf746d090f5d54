"""The published recipe: AdamW on adapters and head, a learning rate an epoch, incomplete batches dropped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bi_adapter.schedule import WARMUP_EPOCHS, learning_rate
from sextet.checkpoint import Stateful
from sextet.cuda import Precision
from sextet.training import Training

Draw = Callable[[Tensor, torch.Generator], Tensor]
"""(rows [batch], generator on the CPU) -> the model's input for them, on its device; augments where training does."""


@dataclass(frozen=True)
class FineTuning:
    """The recipe for VTAB-1K; few-shot runs have lr 5e-3.

    Attributes:
        epochs, batch_size: 1,000 images give 15 steps an epoch; the last 40 of each epoch's order are dropped.
        lr, weight_decay: of AdamW with its usual betas; the decay acts on everything that is trained.
        warmup: epochs of warm-up.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
    """

    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = WARMUP_EPOCHS
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        learning_rate(0, self.lr, self.epochs, self.warmup)  # raises where there is no room for the warm-up
        if self.batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {self.batch_size}")
        check_rates(self.lr, self.weight_decay)


def check_rates(lr: float, weight_decay: float) -> None:
    """Raise ValueError unless the learning rate is positive and the decay not negative, both finite."""
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr: expected a finite rate above 0, got {lr}")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"weight_decay: expected a finite number, 0 or more, got {weight_decay}")


class TunedPart:
    """The parameters of a model that are trained, as the part of a checkpoint that is worth keeping."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}

    def state_dict(self) -> dict[str, Any]:
        """Name -> tensor."""
        return {name: value.detach() for name, value in self.parameters.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned.

        Raises:
            ValueError: it holds other names.
        """
        if state_dict.keys() != self.parameters.keys():
            raise ValueError(f"expected the parameters {sorted(self.parameters)}, found {sorted(state_dict)}")
        with torch.no_grad():
            for name, value in state_dict.items():
                self.parameters[name].copy_(value)


def fine_tune(
    model: nn.Module,
    draw: Draw,
    labels: Tensor,
    config: FineTuning,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    after_epoch: Callable[[int], None] | None = None,
    state: dict[str, Stateful] | None = None,
    save_every: int = 50,
    title: str | None = None,
) -> None:
    """Train in place what of `model` requires gradients; resumes from `folder`.

    Args:
        model: input -> logits [batch, classes].
        draw: makes the input of some rows.
        labels: [n] int64, on the CPU.
        config: the recipe.
        folder: checkpoints and log.
        seed: order of the images, dropout, augmentation.
        device: where to compute.
        after_epoch: called with the number of epochs done, such as to evaluate; may leave the model in any mode.
        state: what of `after_epoch` belongs into checkpoints.
        save_every: epochs between checkpoints.
        title: of the progress bar.

    Raises:
        ValueError: fewer images than a batch holds.
    """
    steps = len(labels) // config.batch_size
    if steps == 0:
        raise ValueError(f"batch_size: {len(labels)} images fill no batch of {config.batch_size}; incomplete ones drop")
    torch.manual_seed(seed)
    model.to(device)
    tuned = TunedPart(model)

    rows_of = partial(batch_rows, len(labels), config.batch_size, seed)
    optimizer = torch.optim.AdamW(tuned.parameters.values(), lr=config.lr, weight_decay=config.weight_decay)
    with Training(
        folder,
        steps=config.epochs * steps,
        state={"tuned": tuned, "optimizer": optimizer, **(state or {})},
        config={**asdict(config), "seed": seed, "images": len(labels)},
        save_every=save_every * steps,
        log_every=steps,
        device=device,
        precision=config.precision,
        progress=title,
        rows=rows_of,
    ) as training:
        for step in training:
            epoch, position = divmod(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch, config.lr, config.epochs, config.warmup)
            rows = rows_of(step)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            model.train()
            with training.autocast():
                logits = model(draw(rows, generator))
            loss = F.cross_entropy(logits.float(), labels[rows].to(device))
            training.backward(loss)
            training.optimizer_step(optimizer)
            training.log(loss=loss)
            if after_epoch is not None and position == steps - 1:
                after_epoch(epoch + 1)


def epoch_order(n: int, epoch: int, seed: int) -> Tensor:
    """The order of n images in one epoch, int64 [n]; depends on (n, epoch, seed) only."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def batch_rows(n: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Which of n images a step sees, int64 [batch]: its place in the order of its epoch, incomplete batches dropped."""
    epoch, position = divmod(step, n // batch_size)
    return epoch_order(n, epoch, seed)[position * batch_size :][:batch_size]
