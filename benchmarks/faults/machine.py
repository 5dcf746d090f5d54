"""Training in a process of its own that can be killed, stopped or starved at a chosen step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from sextet import checkpoint, cuda

PATIENCE = 240.0
"""Seconds after which a process that should have done something is given up."""
Train = Callable[[Path, torch.device, int | None], dict[str, Tensor]]
"""(run folder, device, what to spoil with NaN) -> weights that the run ends with; a second call continues."""


@dataclass(frozen=True)
class Plan:
    """What happens in the process besides training; steps are counted from 1 in each process.

    Attributes:
        wait_after: the step that does not end before `Started.let_go`; 0 for none.
        fill_after: the step in which the disk is filled to the last byte; 0 for none.
        spoilt: what the trainer spoils with NaN, see `Trainer.first_step`.
        device: where to compute; on `cuda` with deterministic kernels.
        rank: of this process in a group of two; None for a process alone.
        port: where the group meets.
    """

    wait_after: int = 0
    fill_after: int = 0
    spoilt: int | None = None
    device: str = "cpu"
    rank: int | None = None
    port: int = 0


@dataclass(frozen=True)
class Started:
    """A process that trains, and the folder of notes in which it tells how far it is."""

    process: ForkServerProcess
    notes: Path

    def steps(self) -> int:
        """Steps done in this process."""
        beats = self.notes / "beats"
        return beats.stat().st_size if beats.exists() else 0

    def wait_for(self, steps: int) -> None:
        """Return when so many steps are done; fails where the process ends before."""
        limit = time.monotonic() + PATIENCE
        while self.steps() < steps:
            assert self.process.is_alive(), f"ended after {self.steps()} steps, {steps} expected: {self.error()}"
            assert time.monotonic() < limit, f"{self.steps()} steps in {PATIENCE} s, expected {steps}"
            time.sleep(0.001)

    def send(self, number: int) -> None:
        """A signal from outside."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def let_go(self) -> None:
        """End the waiting of `Plan.wait_after`."""
        (self.notes / "go").touch()

    def exit_code(self) -> int | None:
        """Of the process, once it has ended; -n where signal n killed it, None where it does not end."""
        self.process.join(PATIENCE)
        return self.process.exitcode

    def error(self) -> str:
        """What the process raised, as `Type: message`; empty for nothing."""
        path = self.notes / "error"
        return path.read_text() if path.exists() else ""


class Machine:
    """Starts processes that have everything imported already, and none of this process's threads or handlers.

    Args:
        notes: folder for what the processes tell.
    """

    def __init__(self, notes: Path) -> None:
        self.notes, self.count = notes, 0
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(["torch._dynamo", "benchmarks.faults.every_trainer"])

    def start(self, train: Train, folder: Path, plan: Plan = Plan()) -> Started:
        """Train in a new process."""
        self.count += 1
        notes = self.notes / f"{self.count:04d}"
        notes.mkdir(parents=True)
        process = self.server.Process(target=child, args=(train, folder, notes, plan), daemon=True)
        process.start()
        return Started(process, notes)

    def finish(self, train: Train, folder: Path, plan: Plan = Plan()) -> None:
        """Train to the end, which must be reached."""
        started = self.start(train, folder, plan)
        assert started.exit_code() == 0, started.error()


def child(train: Train, folder: Path, notes: Path, plan: Plan) -> None:
    """What the process runs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a program has it
    torch.set_num_threads(1)
    cuda.seed_everything(0)  # as programs do: each checkpoint holds all generators, the unused ones too
    if plan.rank is not None:
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": plan.port, "WORLD_SIZE": 2, "ACCELERATE_USE_CPU": 1}
        os.environ.update(
            {key: str(value) for key, value in {**group, "RANK": plan.rank, "LOCAL_RANK": plan.rank}.items()}
        )
    with beating(folder, notes, plan), cuda.deterministic(plan.device != "cpu"):
        try:
            weights = train(folder, torch.device(plan.device), plan.spoilt)
            if not plan.rank:
                checkpoint.save(folder / "result", weights, step=0)
        except BaseException as error:
            told = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
            (notes / "error").write_text("\n".join(told))
            raise SystemExit(error.code if isinstance(error, SystemExit) else 1) from None


@contextmanager
def beating(folder: Path, notes: Path, plan: Plan) -> Iterator[None]:
    """Note every step of every optimiser, and do there what the plan says."""

    def step_done(*_: object) -> None:
        with (notes / "beats").open("ab") as file:
            file.write(b".")
        done = (notes / "beats").stat().st_size
        if done == plan.fill_after:
            fill_disk(folder.parent / "filler")
        while done == plan.wait_after and not (notes / "go").exists():
            time.sleep(0.001)

    _listeners.append(step_done)
    hook = register_optimizer_step_post_hook(beat)
    try:
        yield
    finally:
        hook.remove()
        _listeners.remove(step_done)


_listeners: list[Callable[[], None]] = []


def beat(*_: object) -> None:
    """Tell that a step is done; trainers without an optimiser call it themselves."""
    for listener in _listeners:
        listener()


def fill_disk(path: Path) -> None:
    """Write until there is no space left, in smaller and smaller pieces."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
