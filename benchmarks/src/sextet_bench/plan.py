"""What a run would do: how many runs, how long on which device, how much disk, which data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sextet.data import Passport, state
from sextet.recipe import suggestion
from sextet_bench.house import House, find_recipe
from sextet_bench.probe import Cost
from sextet_bench.record import read_records
from sextet_bench.run import Task, plan_tasks
from sextet_bench.tables import Profile, Table, TableError


@dataclass(frozen=True)
class Plan:
    """The plan of one table at one profile.

    Attributes:
        tasks: what is still to run.
        done: how many runs have a current record.
        hours: expected time of the tasks, one after the other.
        basis: what that rests on.
        data: (dataset, its state here).
    """

    table: Table
    profile: Profile
    tasks: tuple[Task, ...]
    done: int
    hours: float
    basis: str
    data: tuple[tuple[Passport, str], ...]

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs; 0 where the profile needs none."""
        return self.hours * self.profile.gpus


def plan(
    house: House,
    table: Table,
    profile_name: str,
    only: Sequence[str] = (),
    *,
    stale_only: bool = False,
    on: str = "",
    costs: Mapping[str, Cost] | None = None,
) -> Plan:
    """Plan a table; runs nothing and downloads nothing.

    Args:
        house: the folders.
        table: a table file.
        profile_name: one of its profiles.
        only: cells or parts of cell ids; empty for all.
        stale_only: as `plan_tasks` takes it.
        on: kind of device to work the hours out for, of `benchmarks/devices.yaml`; empty for the table file's own.
        costs: cell -> what `probe.measure` found; other cells are taken to cost the mean of these.

    Raises:
        TableError: unknown profile, cell or device.
    """
    profile = table.profile(profile_name)
    tasks, done = plan_tasks(house, table, profile_name, only, stale_only=stale_only)
    factor = speed_factor(house.tables.parent / "devices.yaml", profile.seconds_on, on)
    recorded: dict[str, list[float]] = {}
    for folder in (house.published, house.records):
        for record in read_records(folder, table.id, profile_name):
            recorded.setdefault(record.cell, []).append(record.wall_s)
    means = {cell: sum(values) / len(values) for cell, values in recorded.items()}
    if costs:
        own = {cell: cost.own for cell, cost in costs.items()}
        shared = sum(cost.shared for cost in costs.values()) * len({task.seed for task in tasks})
        seconds = shared + sum(own.get(task.cell_id, sum(own.values()) / len(own)) for task in tasks)
        basis = f"from the time of some steps of {len(costs)} cells here"
    else:
        seconds = sum(means.get(task.cell_id, profile.seconds * factor) for task in tasks)
        basis = "measured" if all(task.cell_id in means for task in tasks) else _declared(profile, on)
    recipe = find_recipe(profile.recipe)
    passports = {
        p.name: p for task in tasks for p in recipe.data(recipe.configure(table.cell(task.cell_id).config(profile)))
    }
    states = tuple((passport, state(passport, house.data_root)) for passport in passports.values())
    return Plan(table, profile, tuple(tasks), len(done), seconds / 3600, basis, states)


def speed_factor(path: Path, declared_on: str, wanted: str) -> float:
    """What seconds on one kind of device are to be multiplied with for another; 1 where either is not said.

    Raises:
        TableError: a kind that the file does not know.
    """
    if not declared_on or not wanted:
        return 1.0
    speeds = yaml.safe_load(path.read_text(encoding="utf-8"))
    for kind in (declared_on, wanted):
        if kind not in speeds:
            raise TableError(f"{path.name} has no device {kind!r}{suggestion(kind, speeds)}")
    return speeds[declared_on] / speeds[wanted]


def _declared(profile: Profile, on: str) -> str:
    device = f" for {profile.seconds_on}" if profile.seconds_on else ""
    scaled = f", scaled to {on}" if profile.seconds_on and on else ""
    return f"as the table file expects{device}{scaled}"


def describe(plan: Plan) -> str:
    """The plan in a few lines for a terminal."""
    lines = [
        f"{plan.table.id}: {plan.table.title}",
        f"  {len(plan.tasks)} runs to do, {plan.done} done",
        f"  about {_duration(plan.hours)} one after the other ({plan.basis})",
    ]
    sizes = {"memory a run": plan.profile.memory_gb, "disk": plan.profile.disk_gb}
    lines += [f"  {what}: {size:g} GB" for what, size in sizes.items() if size]
    lines += [f"  data {passport.name}: {kind} ({passport.size}, {passport.licence})" for passport, kind in plan.data]
    if plan.profile.needs:
        lines.append(f"  needs {plan.profile.needs.strip()}")
    return "\n".join(lines)


def describe_all(plans: Sequence[Plan]) -> str:
    """What several plans need together: hours, disk, and each dataset that is missing with where to get it."""
    gpu = sum(plan.gpu_hours for plan in plans)
    cpu = sum(plan.hours for plan in plans if not plan.profile.gpus)
    runs, disk = sum(len(plan.tasks) for plan in plans), sum(plan.profile.disk_gb for plan in plans)
    lines = [f"{len(plans)} tables, {runs} runs to do: {_duration(cpu)} on CPUs, {_duration(gpu)} on GPUs"]
    if disk:
        lines.append(f"disk, datasets apart: {disk:g} GB")
    needed: dict[str, list[str]] = {}
    passports = {}
    for plan in plans:
        for passport, kind in plan.data:
            if kind != "present":
                passports[passport.name] = passport
                needed.setdefault(passport.name, []).append(plan.table.id)
    for name, passport in sorted(passports.items()):
        how = "fetched when it is run" if passport.sources else f"by hand: {passport.homepage}"
        lines.append(f"missing {name}: {passport.size}, {passport.licence}; {how}; for {', '.join(needed[name])}")
    return "\n".join(lines)


def _duration(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.1f} h"
