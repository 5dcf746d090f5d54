"""What a run would do: how many runs, how long, which data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sextet.data import Passport, state
from sextet_bench.house import House, find_recipe
from sextet_bench.record import read_records
from sextet_bench.run import Task, plan_tasks
from sextet_bench.tables import Table


@dataclass(frozen=True)
class Plan:
    """The plan of one table at one profile.

    Attributes:
        tasks: what is still to run.
        done: how many runs have a current record.
        hours: expected time of the tasks, one after the other.
        measured: whether that rests on runs of this table (else on what the table file expects).
        data: (dataset, its state here).
        needs: what the table file says somebody must have.
    """

    table: Table
    tasks: tuple[Task, ...]
    done: int
    hours: float
    measured: bool
    data: tuple[tuple[Passport, str], ...]
    needs: str


def plan(house: House, table: Table, profile_name: str, only: Sequence[str] = ()) -> Plan:
    """Plan a table; runs nothing and downloads nothing.

    Raises:
        TableError: unknown profile or cell.
    """
    profile = table.profile(profile_name)
    tasks, done = plan_tasks(house, table, profile_name, only)
    seconds: dict[str, list[float]] = {}
    for folder in (house.published, house.records):
        for record in read_records(folder, table.id, profile_name):
            seconds.setdefault(record.cell, []).append(record.wall_s)
    means = {cell: sum(values) / len(values) for cell, values in seconds.items()}
    expected = sum(means.get(task.cell_id, profile.seconds) for task in tasks)
    recipe = find_recipe(profile.recipe)
    passports = {
        p.name: p for task in tasks for p in recipe.data(recipe.configure(table.cell(task.cell_id).config(profile)))
    }
    states = tuple((passport, state(passport, house.data_root)) for passport in passports.values())
    measured = all(task.cell_id in means for task in tasks)
    return Plan(table, tuple(tasks), len(done), expected / 3600, measured, states, profile.needs)


def describe(plan: Plan) -> str:
    """The plan in a few lines for a terminal."""
    basis = "measured" if plan.measured else "as the table file expects"
    lines = [
        f"{plan.table.id}: {plan.table.title}",
        f"  {len(plan.tasks)} runs to do, {plan.done} done",
        f"  about {_duration(plan.hours)} one after the other ({basis})",
    ]
    lines += [f"  data {passport.name}: {kind} ({passport.size}, {passport.licence})" for passport, kind in plan.data]
    if plan.needs:
        lines.append(f"  needs {plan.needs}")
    return "\n".join(lines)


def _duration(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.1f} h"
