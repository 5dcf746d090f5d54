"""The command line `sextet`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sextet import cli
from sextet_bench.house import House

ProfileName = Annotated[str, tyro.conf.arg(help="laptop, overnight, gpu or paper")]
Names = tyro.conf.Positional[tuple[str, ...]]
Only = Annotated[tuple[str, ...], tyro.conf.arg(help="cells, or parts of cell ids")]


def plan(
    tables: Names = (),
    /,
    profile: ProfileName = "laptop",
    only: Only = (),
    on: Annotated[str, tyro.conf.arg(help="kind of GPU to work the hours out for: v100, a100, h100, ...")] = "",
    measure: Annotated[int, tyro.conf.arg(help="time so many steps of a cell a row here; 0: run nothing")] = 0,
    device: str = "auto",
) -> None:
    """What a run would do: runs, hours, disk, data. `tables` are `paper/table`, `paper` or `all`."""
    from sextet_bench.plan import describe, describe_all
    from sextet_bench.plan import plan as make_plan
    from sextet_bench.probe import measure_rows
    from sextet_bench.tables import tables_with

    house = House.of_checkout()
    plans = []
    for table in tables_with(house.tables, tables, profile):
        costs = measure_rows(house, table, profile, only, measure, device) if measure else {}
        plans.append(make_plan(house, table, profile, only, on=on, costs=costs))
        print(describe(plans[-1]), flush=True)
    if len(plans) > 1:
        print(describe_all(plans))


def run(
    tables: Names = (),
    /,
    profile: ProfileName = "laptop",
    only: Only = (),
    stale_only: Annotated[bool, tyro.conf.arg(help="only what has a record that is no longer current")] = False,
    workers: Annotated[int, tyro.conf.arg(help="how many runs at a time, by Ray; 0: one, in this process")] = 0,
    ray: Annotated[str, tyro.conf.arg(help="address of a Ray cluster")] = "",
    device: str = "auto",
    budget_hours: Annotated[float, tyro.conf.arg(help="ask for --yes above this")] = 2.0,
    yes: bool = False,
) -> int:
    """Run tables, continue where a run was stopped, and write the report."""
    from sextet_bench.fan_out import run_on_ray
    from sextet_bench.plan import describe
    from sextet_bench.plan import plan as make_plan
    from sextet_bench.run import Reporter, run_here
    from sextet_bench.tables import TableError, tables_with

    house = House.of_checkout()
    plans = [
        make_plan(house, table, profile, only, stale_only=stale_only)
        for table in tables_with(house.tables, tables, profile)
    ]
    print("\n".join(describe(item) for item in plans), flush=True)
    hours = sum(item.hours for item in plans)
    if hours > budget_hours and not yes:
        raise TableError(f"this would take about {hours:.1f} h, more than --budget-hours {budget_hours:g}; add --yes")
    tasks = [task for item in plans for task in item.tasks]
    fetch_missing(house, [passport for item in plans for passport, kind in item.data if kind != "present"])
    reporter = Reporter(len(tasks))
    fan_out = (workers or ray) and tasks
    for outcome in run_on_ray(house, tasks, workers, ray, device) if fan_out else run_here(house, tasks, device):
        reporter.tell(outcome)
    report(tables, profile=profile)
    return reporter.exit_code


def fetch_missing(house: House, passports: list) -> None:
    """Fetch what the runs need before they start; what cannot be had is told by the runs that need it."""
    from sextet.data import DataError, fetch

    for passport in {passport.name: passport for passport in passports}.values():
        print(f"fetching {passport.name} ({passport.size}) ...", flush=True)
        try:
            fetch(passport, house.data_root)
        except DataError as error:
            print(error, file=sys.stderr)


def report(
    tables: Names = (),
    /,
    profile: ProfileName = "laptop",
    out: Path | None = None,
    stale: Annotated[bool, tyro.conf.arg(help="only list what is no longer current, and why")] = False,
) -> None:
    """Write report.md, report.html and pictures from all records that are here."""
    from sextet_bench.report import write_report
    from sextet_bench.tables import tables_with
    from sextet_bench.verdict import describe_stale

    house = House.of_checkout()
    results = [house.results(table, profile) for table in tables_with(house.tables, tables, profile)]
    if stale:
        print("\n".join(describe_stale(results)))
        return
    folder = out or house.runs / "report"
    write_report(folder, results, house)
    print(f"report: {folder / 'report.html'} and {folder / 'report.md'}")


def tensorboard(out: Path | None = None) -> None:
    """Write the logs of all runs that are here as TensorBoard's event files; again, those that have grown."""
    from sextet_bench.tensorboard import write_events

    house = House.of_checkout()
    folder = out or house.runs / "tensorboard"
    written = write_events(house.runs, folder)
    print(f"{len(written)} logs written: tensorboard --logdir {folder}")


def check(tables: Names = (), /, quick: bool = False, device: str = "auto") -> int:
    """Fail when a gating claim no longer holds or a number moved outside its published interval.

    `--quick` runs the small part that each table names again; without it, what `sextet run` measured here is checked.
    """
    from sextet_bench.check import check_again, check_published, quick_tasks, run_quick
    from sextet_bench.run import Outcome, plan_tasks
    from sextet_bench.tables import tables_with

    house = House.of_checkout()
    findings = []
    for table in tables_with(house.tables, tables, "laptop"):
        findings += check_published(house, table)
        if quick and quick_tasks(table):
            findings += check_again(house, table, run_quick(house, table, device))
        elif not quick:
            _, done = plan_tasks(house, table, "laptop")
            records = {(r.cell, r.seed): r for r in house.results(table, "laptop", where=house.records).records}
            outcomes = [Outcome(task, "done", records[task.cell_id, task.seed]) for task in done]
            findings += check_again(house, table, outcomes)
    for finding in findings:
        print(("ok    " if finding.ok else "FAIL  ") + finding.text)
    failed = sum(not finding.ok for finding in findings)
    print(f"{len(findings) - failed} passed, {failed} failed")
    return cli.CHECK_FAILED if failed else 0


def explain(cell: tyro.conf.Positional[str], /, profile: ProfileName = "laptop") -> None:
    """Everything behind one number: `paper/table/row/column`."""
    from sextet_bench.explain import explain as tell
    from sextet_bench.tables import TableError

    words = cell.split("/")
    if len(words) != 4:
        raise TableError(f"expected paper/table/row/column, got {cell!r}")
    print(tell(House.of_checkout(), "/".join(words[:2]), "/".join(words[2:]), profile))


def accept(tables: Names = (), /, profile: ProfileName = "laptop") -> None:
    """Publish what was measured here: copy current records to benchmarks/results and renew the README's status."""
    from sextet_bench.readme import update_readme
    from sextet_bench.record import write_record
    from sextet_bench.run import plan_tasks
    from sextet_bench.tables import TableError, tables_with

    house = House.of_checkout()
    for table in tables_with(house.tables, tables, profile):
        to_do, _ = plan_tasks(house, table, profile)
        if to_do:
            raise TableError(f"{table.id}: {len(to_do)} runs have no current record; `sextet run {table.id}` first")
        shutil.rmtree(house.published / table.id / profile, ignore_errors=True)
        for record in house.results(table, profile, where=house.records).records:
            write_record(house.published, record)
    update_readme(house)


def readme(check: bool = False) -> int:
    """Write the README's generated parts from the published records; `--check` only says if they are current."""
    from sextet_bench.readme import update_readme

    changed = update_readme(House.of_checkout(), write=not check)
    if check and changed:
        print("README.md is not what the published records say; run `sextet readme`", file=sys.stderr)
        return cli.CHECK_FAILED
    return 0


def data(
    action: tyro.conf.Positional[Literal["list", "verify", "fetch", "adopt"]],
    name: tyro.conf.Positional[str] = "",
    folder: tyro.conf.Positional[Path | None] = None,
    /,
) -> None:
    """List datasets and their state; verify, fetch or adopt one."""
    from sextet_bench.datasets import act

    act(House.of_checkout(), action, name, folder)


def main() -> None:
    """Entry point."""
    commands = {f.__name__: f for f in (plan, run, report, tensorboard, check, explain, accept, readme, data)}
    sys.exit(cli.main(commands, prog="sextet", description="Reproduce the tables of six papers and judge the numbers."))


if __name__ == "__main__":
    main()
