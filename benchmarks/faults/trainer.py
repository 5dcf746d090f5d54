"""What the fault tests know of a trainer, and made-up data that is spoilt with NaN."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from benchmarks.faults.endings import steps_saved
from benchmarks.faults.machine import Train
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

SEED = 3


@dataclass(frozen=True)
class Trainer:
    """A trainer at a size that takes a second.

    Attributes:
        name: of the package and of what it trains.
        train: starts or continues the run.
        steps: of the whole run.
        save_every: steps between checkpoints.
        rows: step -> rows of the data, by the package's own function from (seed, step); None where a whole step is
            spoilt and not a row.
        spoilable: whether there is a loss or a floating-point input.
        saved: run folder -> steps that are saved there.
        one_checkpoint: whether one `checkpoints` folder is all of the state.
        parallel: whether several processes may share the work.
        check: how the message of the method's own check begins, which meets NaN before a loss can be logged; empty for
            none.
    """

    name: str
    train: Train
    steps: int
    save_every: int
    rows: Callable[[int], Any] | None = None
    spoilable: bool = True
    saved: Callable[[Path], int] = steps_saved
    one_checkpoint: bool = True
    parallel: bool = False
    check: str = ""

    def spoilt(self) -> int:
        """Something that spoils a step after the first checkpoint and not the last one."""
        inside = range(self.save_every + 1, self.steps - 1)
        return next(what for what in range(100_000) if self.first_step(what) in inside)

    def first_step(self, spoilt: int) -> int:
        """The 0-based step whose loss shows first what is spoilt; a very large number for none in the first 1,000."""
        if self.rows is None:
            return spoilt
        return next((step for step in range(1000) if bool((self.rows(step) == spoilt).any())), 10**9)

    def __repr__(self) -> str:
        return self.name


def accelerator() -> Accelerator | None:
    """That of this process's group; None where it is alone."""
    if "WORLD_SIZE" not in os.environ:
        return None
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def spoil_row(values: Tensor, row: int | None) -> Tensor:
    """A copy with NaN in a row, or `values`."""
    if row is None or row >= len(values):
        return values
    values = values.clone()
    values[row] = torch.nan
    return values


def spoil_call(module: nn.Module, number: int | None) -> None:
    """Make the output of a module's call with this 0-based number NaN."""
    calls = itertools.count()

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return output * torch.nan if next(calls) == number else output

    module.register_forward_hook(hook)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def pictures(count: int, size: int, channels: int, classes: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures of some patterns, uint8 [count, size, size, channels], and their labels [count]."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    patterns = torch.randint(0, 200, (classes, size, size, channels), generator=generator)
    noise = torch.randint(0, 56, (count, size, size, channels), generator=generator)
    return (patterns[labels] + noise).to(torch.uint8), labels
