"""Run the cells of tables one after the other; a run that was killed continues where it was."""

from __future__ import annotations

import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sextet.cuda import Usage
from sextet.data import DataMissing
from sextet.errors import Interrupted
from sextet.recipe import Ledger, Metrics, RunContext, suggestion
from sextet.training import SignalGuard
from sextet_bench.house import House, cell_identities, find_recipe
from sextet_bench.record import Record, make_record, read_records, write_record
from sextet_bench.tables import Table


@dataclass(frozen=True)
class Task:
    """One run: a cell of a table at a profile with a seed."""

    table: Table
    profile_name: str
    cell_id: str
    seed: int

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.table.id} {self.cell_id} seed {self.seed}"

    def folder(self, house: House) -> Path:
        """The run's own folder, where it continues."""
        return house.runs / "work" / self.table.id / self.profile_name / self.cell_id / f"seed-{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    task: Task
    kind: Literal["done", "data missing", "failed"]
    record: Record | None = None
    message: str = ""


def plan_tasks(
    house: House, table: Table, profile_name: str, only: Sequence[str] = (), *, stale_only: bool = False
) -> tuple[list[Task], list[Task]]:
    """(tasks still to run, tasks whose current record is here), cell by cell so that neighbours differ in their seed.

    Args:
        house: the folders.
        table: a table file.
        profile_name: one of its profiles.
        only: cells or parts of cell ids; empty for all.
        stale_only: leave out what has never been run, here or for publication, and what has a current record.

    Raises:
        TableError: `only` names no cell.
    """
    profile = table.profile(profile_name)
    cells = [cell for cell in table.cells if not only or any(part in cell.id for part in only)]
    if not cells:
        table.cell(only[0])
    identities, _ = cell_identities(table, profile, house.data_root)

    def current_and_stale(folder: Path) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
        found = read_records(folder, table.id, profile_name)
        current = {(r.cell, r.seed) for r in found if r.cell in identities and not identities[r.cell].changes_since(r)}
        return current, {(r.cell, r.seed) for r in found} - current

    tasks = [Task(table, profile_name, cell.id, seed) for cell in cells for seed in profile.seeds]
    current, stale = current_and_stale(house.records)
    done = [task for task in tasks if (task.cell_id, task.seed) in current]
    to_do = [task for task in tasks if task not in done]
    if stale_only:
        current_there, stale_there = current_and_stale(house.published)
        wanted = (stale | stale_there) - current_there
        to_do = [task for task in to_do if (task.cell_id, task.seed) in wanted]
    return to_do, done


def compute(house: House, task: Task, device: str = "auto") -> tuple[Metrics, Usage, Ledger]:
    """Run one task to its end in its folder.

    Raises:
        DataMissing, ValueError, whatever the recipe raises; `Interrupted` when a signal asked to stop.
    """
    import torch

    from sextet.cuda import meter, seed_everything, select_device

    profile = task.table.profile(task.profile_name)
    recipe = find_recipe(profile.recipe)
    config = recipe.configure(task.table.cell(task.cell_id).config(profile))
    torch.set_num_threads(profile.cpus)
    folder = task.folder(house)
    folder.mkdir(parents=True, exist_ok=True)
    context = RunContext(
        directory=folder, stages=house.runs / "stages", seed=task.seed, device=device, data_root=house.data_root
    )
    seed_everything(task.seed)
    with meter(select_device(device)) as usage:
        metrics = recipe.run(config, context)
    if task.table.metric not in metrics:
        raise ValueError(
            f"recipe {profile.recipe} gave no {task.table.metric!r}{suggestion(task.table.metric, metrics)}"
        )
    return metrics, usage, context.ledger


def execute(house: House, task: Task, device: str = "auto") -> Record:
    """`compute`, and write the record. Raises what that raises."""
    import torch

    from sextet.cuda import select_device

    metrics, usage, ledger = compute(house, task, device)
    where, metric = select_device(device), task.table.metric
    profile = task.table.profile(task.profile_name)
    on_gpu = where.type == "cuda"
    record = make_record(
        {
            "table": task.table.id,
            "cell": task.cell_id,
            "profile": task.profile_name,
            "seed": task.seed,
            "metric": metric,
        },
        cell_identities(task.table, profile, house.data_root)[0][task.cell_id],
        metrics[metric],
        wall_s=usage.wall_s,
        own_s=usage.wall_s - ledger.inside_s,
        stages=ledger.costs,
        device_s=usage.wall_s if on_gpu else 0.0,
        peak_bytes=usage.peak_bytes,
        device=torch.cuda.get_device_name(where) if on_gpu else f"CPU {platform.machine()}, {profile.cpus} threads",
        root=house.root,
    )
    write_record(house.records, record)
    return record


def attempt(house: House, task: Task, device: str = "auto") -> Outcome:
    """`execute`, with failures told apart; a failed run's traceback is kept as `error.log` in its folder."""
    try:
        return Outcome(task, "done", execute(house, task, device))
    except DataMissing as error:
        return Outcome(task, "data missing", message=str(error))
    except Exception as error:
        log = task.folder(house) / "error.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        return Outcome(task, "failed", message=f"{type(error).__name__}: {error} (whole story: {log})")


def run_here(house: House, tasks: Sequence[Task], device: str = "auto") -> Iterator[Outcome]:
    """Run tasks one after the other in this process.

    Raises:
        Interrupted: after a signal; what was begun continues at the next start.
    """
    for task in tasks:
        with SignalGuard() as guard:
            outcome = attempt(house, task, device)
        yield outcome
        if guard.signum:
            raise Interrupted(guard.signum, house.runs)


class Reporter:
    """Prints one line for each outcome and remembers what the exit code must be."""

    def __init__(self, total: int) -> None:
        self.total, self.count, self.start = total, 0, time.monotonic()
        self.kinds: dict[str, int] = {}
        self._told: set[str] = set()

    def tell(self, outcome: Outcome) -> None:
        """Print an outcome; a dataset that is missing is explained once."""
        self.count += 1
        self.kinds[outcome.kind] = self.kinds.get(outcome.kind, 0) + 1
        left = (time.monotonic() - self.start) / self.count * (self.total - self.count)
        head = f"[{self.count}/{self.total}, {left / 60:.0f} min left] {outcome.task.label}"
        if outcome.record is not None:
            record, scale = outcome.record, outcome.task.table.scale
            half = 1.96 * record.standard_error * scale
            print(f"{head}: {record.value * scale:.2f} ± {half:.2f} in {record.wall_s:.1f} s", flush=True)
        else:
            text = outcome.message if outcome.message not in self._told else outcome.message.splitlines()[0]
            self._told.add(outcome.message)
            print(f"{head}: {outcome.kind}: {text}", file=sys.stderr, flush=True)

    @property
    def exit_code(self) -> int:
        """1 where a run failed, 3 where data was missing, else 0."""
        return 1 if self.kinds.get("failed") else 3 if self.kinds.get("data missing") else 0
