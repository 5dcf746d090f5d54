"""What a run costs, measured: every training loop does a few steps, its time for all of them is worked out."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from sextet.training import Training
from sextet_bench.house import House
from sextet_bench.run import Task, compute, plan_tasks
from sextet_bench.tables import Table

WARM_UP = 2


@dataclass(frozen=True)
class Loop:
    """One training loop of a run.

    Attributes:
        directory: of its checkpoints; loops below the stages' folder are shared between runs.
        steps: how many steps it really has.
        seconds_per_step: as measured here.
        spent: seconds that the measurement itself took.
    """

    directory: Path
    steps: int
    seconds_per_step: float
    spent: float

    @property
    def seconds(self) -> float:
        """Of the whole loop."""
        return self.steps * self.seconds_per_step


@dataclass(frozen=True)
class Cost:
    """Seconds of one run: `own` for every run anew, `shared` for loops of stages, once a seed."""

    own: float
    shared: float


def measure(house: House, task: Task, steps: int = 5, device: str = "auto") -> Cost:
    """Run a task in a scratch folder with loops cut short, and work out what the whole run would take.

    Whatever is no training loop, evaluation for instance, is run as it is. No record is written.

    Raises:
        DataMissing, ValueError, whatever the recipe raises on a network that has hardly learnt.
    """
    apart = replace(house, runs=house.runs / "probe")
    shutil.rmtree(apart.runs, ignore_errors=True)
    loops: list[Loop] = []
    start = time.perf_counter()
    try:
        with fast_forward(steps, loops.append):
            compute(apart, task, device)
        rest = time.perf_counter() - start - sum(loop.spent for loop in loops)
        stages = apart.runs / "stages"
        shared = sum(loop.seconds for loop in loops if loop.directory.is_relative_to(stages))
        return Cost(own=rest + sum(loop.seconds for loop in loops) - shared, shared=shared)
    finally:
        shutil.rmtree(apart.runs, ignore_errors=True)


def measure_rows(
    house: House, table: Table, profile_name: str, only: Sequence[str], steps: int, device: str = "auto"
) -> dict[str, Cost]:
    """`measure` for the first cell still to run of every row; what cannot run here is told and left out.

    Returns:
        cell -> its cost.
    """
    first: dict[str, Task] = {}
    for task in plan_tasks(house, table, profile_name, only)[0]:
        first.setdefault(table.cell(task.cell_id).row.id, task)
    costs = {}
    for task in first.values():
        try:
            costs[task.cell_id] = measure(house, task, steps, device)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else ""
            print(f"{task.label}: not measured ({type(error).__name__}: {reason})", file=sys.stderr, flush=True)
    return costs


@contextmanager
def fast_forward(steps: int, found: Callable[[Loop], None]) -> Iterator[None]:
    """Inside, a loop over `Training` does `WARM_UP + steps` steps at the most, is saved as done, told to `found`."""

    def few_steps(training: Training) -> Iterator[int]:
        from sextet.cuda import synchronize

        left, begun = training.total - training.step, time.perf_counter()
        start, total, count = begun, training.total, min(left, WARM_UP + steps)
        for done in range(count):
            if done == WARM_UP:
                synchronize(training.device)
                start = time.perf_counter()
            yield training.step
            training.step += 1
        synchronize(training.device)
        now = time.perf_counter()
        timed = count - WARM_UP if count > WARM_UP else max(count, 1)
        training.step = total
        if left:
            training.save()
        found(Loop(training.directory, left, (now - start) / timed if count else 0.0, time.perf_counter() - begun))

    with patch.object(Training, "__iter__", few_steps):
        yield
