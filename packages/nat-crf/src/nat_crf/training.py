"""One training loop for the teacher, NAT and the CRF models: Adam, warm-up, label smoothing (Section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nat_crf.autoregressive import Teacher
from nat_crf.models import Nat
from nat_crf.objective import ObjectiveConfig, translation_loss
from sextet.training import Training

if TYPE_CHECKING:
    from accelerate import Accelerator


class Batch(NamedTuple):
    """Sentence pairs with their boundary symbols: `source [B, S]`, `target [B, T]`, padded on the right."""

    source: Tensor
    target: Tensor


BatchAt = Callable[[int], Batch]
"""The batch of a micro-step, 0-based; depends on nothing else."""
Objective = Callable[[Batch], Mapping[str, Tensor]]
"""Scalars of a batch by name; `loss` is what is minimised."""


@dataclass(frozen=True)
class OptimisationConfig:
    """How a model is trained.

    Attributes:
        steps: updates.
        lr: the highest learning rate, reached at the end of the warm-up.
        warmup: updates of linear warm-up.
        schedule: afterwards `inverse-sqrt`, lr sqrt(warmup / step) (the paper's), or `linear` to 0 at the last update.
        accumulate: batches an update.
        betas, eps, weight_decay: of Adam; the decay is decoupled from the gradient (AdamW) where it is not 0.
        clip: largest norm of the gradient.
        precision: of the forward pass; `bf16` needs no loss scaling.
        average: mean of the weights after the last so many checkpoints; 0 or 1 for the last weights.
        save_every: updates between checkpoints.
    """

    steps: int = 100_000
    lr: float = 7e-4
    warmup: int = 8000
    schedule: Literal["inverse-sqrt", "linear"] = "inverse-sqrt"
    accumulate: int = 1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    weight_decay: float = 0.0
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    average: int = 0
    save_every: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.warmup < self.steps:
            raise ValueError(f"warmup: expected 0 < warmup < steps = {self.steps}, got {self.warmup}")
        if self.schedule not in ("inverse-sqrt", "linear"):
            raise ValueError(f"schedule: expected inverse-sqrt or linear, got {self.schedule!r}")
        if self.accumulate < 1 or self.average < 0:
            raise ValueError(f"expected accumulate >= 1 and average >= 0, got {self.accumulate} and {self.average}")


def learning_rate(step: int, config: OptimisationConfig) -> float:
    """Multiplier of the highest learning rate at a 0-based update: (step + 1) / warmup, then the schedule."""
    update = step + 1
    if update <= config.warmup:
        return update / config.warmup
    if config.schedule == "linear":
        return max(0.0, (config.steps - step) / (config.steps - config.warmup))
    return (config.warmup / update) ** 0.5


def fit(
    model: nn.Module,
    objective: Objective,
    batch_at: BatchAt,
    config: OptimisationConfig,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    title: str,
    accelerator: Accelerator | None = None,
    rows: Callable[[int], Sequence[int]] | None = None,
) -> None:
    """Train `model` in place; a run that is called again with the same folder continues.

    Args:
        model: on any device; ends on `device`, in training mode.
        objective: computes the loss with `model`.
        batch_at: of process r of n, micro-step i asks for batch i n + r.
        config: the recipe.
        folder: checkpoints and log.
        seed: of dropout.
        device: where to compute.
        title: of the progress bar.
        accelerator: for several processes, which then share every update's gradient.
        rows: number of a batch -> its rows of the training set, told where the loss becomes NaN.
    """
    torch.manual_seed(seed)
    model.to(device).train()
    optimizer = make_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, config))
    mean = WeightMean(model)
    state = {"model": model, "optimizer": optimizer, "schedule": schedule, "mean": mean}
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)

    def numbers(step: int) -> list[int]:
        return [micro * processes + rank for micro in range(step * config.accumulate, (step + 1) * config.accumulate)]

    with Training(
        folder,
        steps=config.steps,
        state=state,
        config={**asdict(config), "seed": seed},
        device=device,
        precision=config.precision,
        save_every=config.save_every,
        accelerator=accelerator,
        progress=title,
        rows=rows and (lambda step: [row for number in numbers(step) for row in rows(number)]),
    ) as training:
        for step in training:
            values: Mapping[str, Tensor] = {}
            for number in numbers(step):
                batch = batch_at(number)
                with training.autocast():
                    values = objective(Batch(batch.source.to(device), batch.target.to(device)))
                training.backward(values["loss"] / config.accumulate)
            if accelerator is not None:
                average_gradients(model, accelerator)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            training.optimizer_step(optimizer)
            schedule.step()
            if averaged_step(step, config):
                mean.add(model)
            training.log(**values, norm=norm)
    if config.average > 1:
        mean.copy_to(model)


def make_optimizer(model: nn.Module, config: OptimisationConfig) -> torch.optim.Optimizer:
    """Adam, or AdamW where there is weight decay."""
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if config.weight_decay:
        return torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay, **options)
    return torch.optim.Adam(model.parameters(), **options)


def average_gradients(model: nn.Module, accelerator: Accelerator) -> None:
    """Replace every gradient by its mean over the processes."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            reduced = accelerator.reduce(parameter.grad, reduction="mean")
            assert isinstance(reduced, Tensor)
            parameter.grad = reduced


def averaged_step(step: int, config: OptimisationConfig) -> bool:
    """Whether the weights after this 0-based update are one of the `average` last checkpoints."""
    before_the_end = config.steps - 1 - step
    return before_the_end % config.save_every == 0 and before_the_end // config.save_every < config.average


class WeightMean:
    """Mean of a model's weights over several moments (checkpoint averaging), as part of a resumable state."""

    def __init__(self, model: nn.Module) -> None:
        self.count = torch.zeros((), dtype=torch.int64)
        self.weights = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}

    def add(self, model: nn.Module) -> None:
        """Count the present weights in."""
        self.count += 1
        for name, value in model.state_dict().items():
            self.weights[name] += (value - self.weights[name]) / self.count.to(value.device)

    def copy_to(self, model: nn.Module) -> None:
        """Put the mean into the model."""
        model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Count and mean."""
        return {"count": self.count, "weights": self.weights if self.count else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.count = state["count"]
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)


def translator_objective(model: Nat, config: ObjectiveConfig) -> Objective:
    """L = L_CRF + lambda L_NAR + mu L_length (Section 4.5), with its parts for the log."""

    def objective(batch: Batch) -> dict[str, Tensor]:
        losses = translation_loss(model, batch.source, batch.target, config)
        parts = {"loss": losses.total, "nll": losses.nll, "crf": losses.crf, "length": losses.length}
        return {name: value for name, value in parts.items() if value is not None}

    return objective


def teacher_objective(model: Teacher, label_smoothing: float) -> Objective:
    """Label-smoothed cross-entropy of the autoregressive teacher."""

    def objective(batch: Batch) -> dict[str, Tensor]:
        loss, nll = model.loss(batch.source, batch.target, label_smoothing=label_smoothing)
        return {"loss": loss, "nll": nll}

    return objective
