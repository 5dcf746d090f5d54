"""Pre-training: masked reconstruction with AdamW (section 6), resumable, in one or several processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lmim.config import PretrainingConfig
from lmim.schedule import is_decayed, learning_rate, parameter_groups
from lmim.sharding import FSDPModule, WholeState, gradients_stay, shard
from sextet.cuda import synchronize
from sextet.training import Rows, Training

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = Callable[[int], Tensor]
"""Number of a micro-batch -> images [micro-batch, channels, height, width], normalised; depends on the number only."""


class TapLosses(nn.Module):
    """The forward pass of one micro-batch as a module, for what wraps modules (DDP, `torch.compile`).

    Args:
        model: called with (images, ratio), it returns something with `losses` [taps]; a method `losses` with the same
            arguments is preferred where there is one, since it need not compute what the loss does not see.
        ratio: of hidden tokens.
    """

    def __init__(self, model: nn.Module, ratio: float) -> None:
        super().__init__()
        self.model, self.ratio = model, ratio

    def forward(self, images: Tensor) -> Tensor:
        """Losses [taps], unweighted, of images [batch, channels, height, width]."""
        direct = getattr(self.model, "losses", None)
        return direct(images, self.ratio) if direct is not None else self.model(images, self.ratio).losses


class ComputeMeter:
    """GPU hours as the paper counts them: the time of computing alone, data loading left out.

    Attributes:
        seconds: of this process so far, over resumptions.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def measure(self, device: torch.device) -> Iterator[None]:
        """Add the seconds of a block, begun and ended with nothing left to do on the device."""
        synchronize(device)
        start = time.perf_counter()
        yield
        synchronize(device)
        self.seconds += time.perf_counter() - start

    def hours(self, processes: int = 1) -> float:
        """Device hours over all processes."""
        return self.seconds * processes / 3600

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.seconds = float(state["seconds"])


def pretrain(
    model: nn.Module,
    batch: Batch,
    config: PretrainingConfig,
    folder: Path,
    *,
    steps_per_epoch: int,
    seed: int,
    device: torch.device,
    mask_ratio: float = 0.75,
    loss_weights: tuple[float, ...] = (),
    decayed: Callable[[str, nn.Parameter], bool] = is_decayed,
    accelerator: Accelerator | None = None,
    rows: Rows | None = None,
    after_epoch: Callable[[int], dict[str, float]] | None = None,
    save_every: int = 100,
    compiled: bool = False,
) -> ComputeMeter:
    """Train `model` in place; resumes from `folder`.

    A run is a sequence of micro-batches; process r of w takes numbers (step * accumulation + k) * w + r. Images and
    masks depend on (seed, number) alone, so that two processes do what one does with twice the accumulation. All
    micro-batches hide equally much, so the mean of their losses is the loss of the whole batch.

    Args:
        model: see `TapLosses`; it draws its masks from torch's global generator.
        batch: the images of a micro-batch of config.batch / (accumulation * processes) images.
        config: the recipe.
        folder: checkpoints and log.
        steps_per_epoch: images of the set // config.batch.
        seed: of the masks.
        device: where to compute.
        mask_ratio: of hidden tokens.
        loss_weights: one a tap; () for 1 each.
        decayed: which parameters decay; `is_decayed_swin` for Swin.
        accelerator: for several processes.
        rows: number of a micro-batch -> rows of the training set, told where the loss becomes NaN.
        after_epoch: called with the number of epochs done, e.g. for probes; what it returns is logged.
        save_every: steps between checkpoints.
        compiled: run the forward pass through `torch.compile`.

    Returns:
        The meter, with this process's seconds of computing.

    Raises:
        ValueError: `config.sharded` with a single process, or with `after_epoch`, which would see parts of the model.
    """
    if config.sharded and after_epoch is not None:
        raise ValueError("sharded: expected no probes during pre-training, got after_epoch")
    model.to(device).train()
    forward: Any = TapLosses(model, mask_ratio)
    optimizer, state, forward = set_up(model, forward, config, decayed, device, accelerator)
    forward = torch.compile(forward) if compiled else forward
    weights = torch.tensor(loss_weights or 1.0, device=device)
    meter = ComputeMeter()
    with Training(
        folder,
        steps=config.epochs * steps_per_epoch,
        state={**state, "meter": meter},
        config={**asdict(config), "mask_ratio": mask_ratio, "loss_weights": loss_weights, "seed": seed},
        save_every=save_every,
        device=device,
        precision=config.precision,
        accelerator=accelerator,
        progress="pre-training",
        rows=rows_of_steps(rows, config.accumulation, accelerator),
    ) as training:
        for step in training:
            set_rate(optimizer, rate_of_step(step, steps_per_epoch, config))
            total = torch.zeros(1, device=device)
            numbers = numbers_of_step(step, config.accumulation, accelerator)
            for number in numbers:
                images = batch(number).to(device, non_blocking=True)
                torch.manual_seed(counter_seed(seed, number))
                last = number == numbers[-1]
                with meter.measure(device), gradients_wait(forward, accelerator, wait=not last):
                    with training.autocast():
                        losses = forward(images)
                    loss = (weights * losses).sum() / config.accumulation
                    training.backward(loss)
                    total += loss.detach()
                    if last:
                        training.optimizer_step(optimizer)
            training.log(loss=total, lr=optimizer.param_groups[0]["lr"])
            if after_epoch is not None and (step + 1) % steps_per_epoch == 0:
                training.log(**after_epoch((step + 1) // steps_per_epoch), gpu_hours=meter.hours(place(accelerator)[1]))
                model.train()
    return meter


def set_up(
    model: nn.Module, forward: nn.Module, config: PretrainingConfig, decayed: Callable[[str, nn.Parameter], bool],
    device: torch.device, accelerator: Accelerator | None,
) -> tuple[torch.optim.Optimizer, dict[str, Any], nn.Module]:  # fmt: skip
    """AdamW, what a checkpoint holds of it and the model, and the forward pass, made ready for several processes."""
    if config.sharded:
        shard(forward, model, device)  # before the optimiser, which must be given the shards
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay, decayed), lr=0.0, betas=config.betas)
    if config.sharded:
        return optimizer, {"model": WholeState(model), "optimizer": WholeState(model, optimizer)}, forward
    forward = accelerator.prepare_model(forward) if accelerator else forward
    return optimizer, {"model": model, "optimizer": optimizer}, forward


def rate_of_step(step: int, steps_per_epoch: int, config: PretrainingConfig) -> float:
    """The learning rate of a step (0-based), by the epoch at its start."""
    return learning_rate(
        step / steps_per_epoch, config.peak_lr, config.lr_min, config.warmup_epochs, config.epochs
    )  # fmt: skip


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to `rate` times its `lr_scale` (1 where there is none)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def counter_seed(seed: int, number: int) -> int:
    """A seed of one step's randomness, of a run's seed and the number of the step or micro-batch."""
    return (seed * 1_000_003 + number) % 2**32


def place(accelerator: Accelerator | None) -> tuple[int, int]:
    """(rank, processes)."""
    return (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)


def gradients_wait(forward: nn.Module, accelerator: Accelerator | None, *, wait: bool) -> Any:
    """Context in which processes do not exchange gradients yet."""
    if isinstance(forward, FSDPModule):
        return gradients_stay(forward) if wait else nullcontext()
    return accelerator.no_sync(forward) if accelerator and wait else nullcontext()


def numbers_of_step(step: int, accumulation: int, accelerator: Accelerator | None) -> range:
    """Numbers of the micro-batches that this process takes in a step."""
    rank, processes = place(accelerator)
    return range(step * accumulation * processes + rank, (step + 1) * accumulation * processes, processes)


def rows_of_steps(rows: Rows | None, accumulation: int, accelerator: Accelerator | None) -> Rows | None:
    """The rows of a step, of those of its micro-batches; for `sextet.training.Training`."""
    if rows is None:
        return None

    def rows_of(step: int) -> Tensor:
        numbers = numbers_of_step(step, accumulation, accelerator)
        return torch.cat([torch.as_tensor(rows(number)) for number in numbers])

    return rows_of
