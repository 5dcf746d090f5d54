"""What every training loop of the suite shares: resumable steps, signals, logging, schedules. Not a trainer framework.

A loop stays plain PyTorch::

    with Training(folder, steps=300, state={"model": model, "optimizer": optimizer}) as training:
        for step in training:
            loss = loss_function(model, batch(step))
            training.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            training.log(loss=loss)

`batch(step)` must depend on the step (and a seed) only; the step is then the whole data position.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import torch

from sextet import checkpoint, cuda, files
from sextet.errors import Interrupted, NonFiniteLoss

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator
    from numpy.typing import NDArray
    from rich.progress import Progress


Rows = Callable[[int], "torch.Tensor | NDArray[np.int64] | Sequence[int]"]
"""Step -> rows of the training set, of any shape."""


class ConfigMismatch(ValueError):
    """A run folder belongs to another configuration."""


class Training:
    """The steps still to do of one resumable run.

    Args:
        directory: the run's folder: `checkpoints/`, `log.jsonl`, `config.json`.
        steps: how many steps the whole run has.
        state: what a checkpoint holds, by name: anything with `state_dict` and `load_state_dict`.
        config: what identifies the run (plain values); a folder of another config is refused.
        save_every: steps between checkpoints; the last step and an interruption save too.
        log_every: steps between moving logged values off the device, checking and writing them.
        precision: for `autocast()`; fp16 scales the loss.
        accelerator: for several processes: `accelerate.Accelerator`, its processes stop at the same step and the main
            one saves.
        progress: title of a progress bar on a terminal, or None.
        rows: step -> rows of the training set that this process computes it on; told where a step fails.

    Raises:
        ValueError: `steps`, `save_every` or `log_every` out of range.
        ConfigMismatch: the folder was begun with another config.
        checkpoint.CheckpointError: on entering, when the folder's checkpoints do not fit `state` or go beyond `steps`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        steps: int,
        state: Mapping[str, checkpoint.Stateful],
        config: Mapping[str, Any] | None = None,
        save_every: int = 100,
        log_every: int = 10,
        device: torch.device | None = None,
        precision: cuda.Precision = "fp32",
        accelerator: Accelerator | None = None,
        progress: str | None = None,
        rows: Rows | None = None,
    ) -> None:
        if steps < 0 or save_every < 1 or log_every < 1:
            raise ValueError(
                f"expected steps >= 0, save_every >= 1, log_every >= 1, got {steps}, {save_every}, {log_every}"
            )
        self.directory = directory
        self.total = steps
        self.state = dict(state)
        self.save_every = save_every
        self.log_every = log_every
        self.precision: cuda.Precision = precision
        self.accelerator = accelerator
        self.device = accelerator.device if accelerator else device or torch.device("cpu")
        self.step = 0
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self._pending: list[tuple[int, dict[str, torch.Tensor | float]]] = []
        self._signals = SignalGuard()
        self._rows = rows
        self._progress_title = progress
        self._progress: Progress | None = None
        check_config(directory, config or {})

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.accelerator is None or self.accelerator.is_main_process

    def __enter__(self) -> Self:
        """Resume from the newest checkpoint, where there is one, and start to listen for signals."""
        found = checkpoint.load_latest(self.directory / "checkpoints")
        if found is not None:
            self.step, saved = found
            if self.step > self.total:
                raise checkpoint.CheckpointError(
                    f"{self.directory}: {self.step} steps are done already, expected at most {self.total}; "
                    "give another folder, or ask for more steps"
                )
            rank = self._check_fits(saved)
            for name, part in self.state.items():
                part.load_state_dict(saved["parts"][name])
            self._scaler.load_state_dict(saved["scaler"])
            cuda.restore_rng_state(saved["rng"][rank])
        if self.is_main:
            files.remove_leftovers(self.directory)
            truncate_log(self.directory / "log.jsonl", self.step)
        self._signals.__enter__()
        self._progress = start_progress(self._progress_title, self.total, self.step) if self.is_main else None
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._signals.__exit__()
        if isinstance(error, ValueError):  # a method's own check, which does not know where in the run it is
            step, what = self._first_broken() or (self.step, "This was")
            error.add_note(f"{what} in step {step} of {self.total}; {self._what_is_left()}.{self._rows_of(step)}")

    def __iter__(self) -> Iterator[int]:
        """Yield the index of each step still to do; save on the way, at the end and when a signal asks to stop.

        Raises:
            Interrupted: after the step in which SIGTERM or SIGINT arrived, once the state is saved.
            NonFiniteLoss: a logged value was NaN or infinite, or a tensor of the state NaN when it was to be saved.
        """
        while self.step < self.total:
            yield self.step
            self.step += 1
            if self.step % self.log_every == 0:
                self.flush()
            signum = self._stop_requested()
            if signum or self.step == self.total or self.step % self.save_every == 0:
                self.save()
            if self._progress is not None:
                self._progress.update(self._progress.task_ids[0], completed=self.step)
            if signum:
                raise Interrupted(signum, self.directory)
        self._signals.__exit__()  # what comes after the loop is not resumable: signals stop it as they always do
        if self._signals.signum:
            raise Interrupted(self._signals.signum, self.directory)

    def autocast(self) -> Any:
        """Context for the forward pass at the run's precision."""
        return cuda.autocast(self.device, self.precision)

    def backward(self, loss: torch.Tensor) -> None:
        """`loss.backward()`, scaled under fp16; call `optimizer_step` then instead of `optimizer.step()`."""
        self._scaler.scale(loss).backward()

    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, unscaled under fp16 and skipped there when a gradient overflowed; then clear the gradients."""
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def log(self, **values: torch.Tensor | float) -> None:
        """Keep scalars of this step for the log; they stay on the device until the next flush, so nothing waits.

        Raises:
            ValueError: a tensor with more than one element, or the name `step`, which is the log's own.
        """
        kept: dict[str, torch.Tensor | float] = {}
        for name, value in values.items():
            tensor = isinstance(value, torch.Tensor)
            if name == "step" or (tensor and value.numel() != 1):
                shape = list(value.shape) if tensor else "a number"
                raise ValueError(f"log: expected scalars under names other than step, got {name} = {shape}")
            kept[name] = value.detach().clone() if tensor else float(value)  # a running sum may change in place later
        self._pending.append((self.step, kept))

    def flush(self) -> None:
        """Check what was logged since the last flush and append it to `log.jsonl`.

        Raises:
            NonFiniteLoss: naming the first step, its rows, the value, and the checkpoint that is left.
        """
        if broken := self._first_broken():
            raise self._not_finite(*broken)
        lines = [json.dumps({"step": step, **values}) for step, values in self._pending]
        self._pending.clear()
        if lines and self.is_main:
            with (self.directory / "log.jsonl").open("a") as file:
                file.write("".join(line + "\n" for line in lines))

    def save(self) -> None:
        """Write a checkpoint of the present step: all parts, the loss scaler, every process's random generators."""
        self.flush()
        generators = [cuda.rng_state()]
        if self.accelerator is not None:
            from accelerate.utils import gather_object

            generators = gather_object(generators)  # one entry a process, in rank order
        parts = {name: part.state_dict() for name, part in self.state.items()}  # in every process: shards are gathered
        if self.is_main:
            broken = find_nan(parts)
            if broken:  # the loss shows a step's damage one step later only, when this would be the last checkpoint
                raise self._not_finite(self.step - 1, f"{broken} became nan")
            content = {"parts": parts, "scaler": self._scaler.state_dict(), "rng": generators}
            checkpoint.save(self.directory / "checkpoints", content, self.step)
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def _first_broken(self) -> tuple[int, str] | None:
        """The first step whose logged values are not all finite, of those since the last flush, and what it was."""
        self._pending = [(step, {name: float(value) for name, value in kept.items()}) for step, kept in self._pending]
        values = ((step, name, value) for step, kept in self._pending for name, value in kept.items())
        return next(
            ((step, f"{name} became {value}") for step, name, value in values if not math.isfinite(value)), None
        )

    def _not_finite(self, step: int, what: str) -> NonFiniteLoss:
        advice = "Lower the learning rate or raise the precision and start in a new folder"
        return NonFiniteLoss(f"{what} in step {step}; {self._what_is_left()}. {advice}.{self._rows_of(step)}")

    def _rows_of(self, step: int) -> str:
        if self._rows is None or step >= self.total:
            return ""
        rows = torch.as_tensor(self._rows(step)).flatten().tolist()
        return f" The rows of step {step}: {', '.join(map(str, rows))}"

    def _what_is_left(self) -> str:
        return f"the checkpoints in {self.directory / 'checkpoints'} are from before"

    def _check_fits(self, saved: Mapping[str, Any]) -> int:
        """This process's rank, if the checkpoint holds the same parts for the same number of processes."""
        where = self.directory / "checkpoints"
        if saved["parts"].keys() != self.state.keys():
            raise checkpoint.CheckpointError(
                f"{where}: expected the state of {', '.join(self.state)}, found {', '.join(saved['parts'])}"
            )
        processes = self.accelerator.num_processes if self.accelerator else 1
        if len(saved["rng"]) != processes:
            raise checkpoint.CheckpointError(
                f"{where}: saved by {len(saved['rng'])} processes; continue with as many, not {processes}"
            )
        if self._scaler.is_enabled() and not saved["scaler"]:
            raise checkpoint.CheckpointError(f"{where}: saved without loss scaling; do not continue in fp16")
        return self.accelerator.process_index if self.accelerator else 0

    def _stop_requested(self) -> int:
        """The signal that asked to stop, 0 for none; the same answer in every process."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return self._signals.signum
        asked = torch.tensor([self._signals.signum], device=self.device)
        gathered = self.accelerator.gather(asked)
        assert isinstance(gathered, torch.Tensor)
        return int(gathered.max())


class SignalGuard:
    """Remembers SIGTERM and SIGINT while open, so that a step can be finished first; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
        self._before = {}

    def _remember(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum == signal.SIGINT == signum:
            raise KeyboardInterrupt
        self.signum = signum


def check_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write `config.json` in a new run folder; refuse a folder that was begun with another configuration.

    Raises:
        ConfigMismatch: naming the keys that differ and how to start afresh.
    """
    path = directory / "config.json"
    content = json.loads(json.dumps(config, default=str))
    if not path.exists():
        files.write_atomic(path, json.dumps(content, indent=1).encode())
        return
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigMismatch(f"{path} is damaged ({error}); delete the folder to start afresh") from error
    if before == content:
        return
    there, now = ({key: repr(value) for key, value in side.items()} for side in (before, content))
    keys = sorted(key for key in {*there, *now} if there.get(key) != now.get(key))
    changes = ", ".join(f"{key}: {there.get(key, 'absent')} there, {now.get(key, 'absent')} now" for key in keys)
    raise ConfigMismatch(
        f"{directory} was begun with another configuration ({changes}). "
        "Give another folder, or delete this one to start afresh"
    )


def truncate_log(path: Path, step: int) -> None:
    """Drop log lines of steps that will be done again (and a last line that was cut off)."""
    if path.exists():
        kept = [json.dumps(entry) + "\n" for entry in read_log(path.parent) if entry["step"] < step]
        files.write_atomic(path, "".join(kept).encode())


def find_nan(state: Any, path: str = "") -> str:
    """Path of the first tensor in nested state that holds a NaN, such as model/head.weight; empty if there is none."""
    if isinstance(state, torch.Tensor):
        return path if bool(torch.isnan(state).any()) else ""
    items = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list | tuple) else ()
    return next(filter(None, (find_nan(value, f"{path}/{key}".lstrip("/")) for key, value in items)), "")


def read_log(directory: Path) -> list[dict[str, float]]:
    """The logged values of a run, one dict a step, in order, up to a line that was cut off; empty without a log."""
    path = directory / "log.jsonl"
    entries = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not isinstance(entry, dict) or "step" not in entry:
            break
        entries.append(entry)
    return entries


def start_progress(title: str | None, total: int, completed: int) -> Progress | None:
    """A running progress bar on a terminal; None without a title or where the output is no terminal."""
    if title is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    )
    progress.add_task(title, total=total, completed=completed)
    progress.start()
    return progress


def warmup_cosine(step: int, *, warmup: int, total: int, floor: float = 0.0) -> float:
    """Learning-rate multiplier in [floor, 1]: linear from 0 over `warmup` steps, then half a cosine down to `floor`.

    Raises:
        ValueError: `total` not above `warmup`.
    """
    if not 0 <= warmup < total:
        raise ValueError(f"warmup: expected 0 <= warmup < total = {total}, got {warmup}")
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / (total - warmup))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def step_decay(position: int, milestones: Mapping[int, float]) -> float:
    """Learning-rate multiplier that changes at given epochs or steps.

    Args:
        position: epoch or step, 0-based.
        milestones: first position -> multiplier from there on; before the first one the multiplier is 1.
    """
    reached = [start for start in milestones if start <= position]
    return milestones[max(reached)] if reached else 1.0
