"""Training curves from the logs of runs and of the stages that they share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sextet.training import read_log
from sextet_bench.charts import Chart, Curve, Point
from sextet_bench.markup import anchor
from sextet_bench.tables import Table

MOST_POINTS = 60
MOST_CURVES = 8


@dataclass(frozen=True)
class Log:
    """The log of one training loop.

    Attributes:
        label: which run it belongs to, without its seed.
        group: what is drawn together: the table's column, or nothing.
        loop: the loop's folder within the run's.
        entries: `{"step": ..., "loss": ...}` in order.
    """

    label: str
    group: str
    loop: str
    entries: tuple[Mapping[str, float], ...]


def table_charts(runs: Path, table: Table, profile_name: str) -> list[Chart]:
    """One chart for each loop, quantity and column of a table: a curve a row, the mean over its seeds.

    Args:
        runs: the folder that holds `work`.
        table: a table file.
        profile_name: one of its profiles.
    """
    folder = runs / "work" / table.id / profile_name
    logs = [
        Log(cell.row.title, cell.column.title, str(path.parent.relative_to(seed)), tuple(read_log(path.parent)))
        for cell in table.cells
        for seed in sorted((folder / cell.id).glob("seed-*"))
        for path in sorted(seed.rglob("log.jsonl"))
    ]
    return list(_charts(logs, f"curves-{anchor(table.id, profile_name)}"))


def stage_charts(runs: Path) -> dict[str, list[Chart]]:
    """Stage name -> charts of its loops: a curve for each of its configs, the mean over seeds."""
    stages: dict[str, list[Path]] = {}
    for done in sorted(runs.glob("stages/*/complete.json")):
        stages.setdefault(done.parent.name.rpartition("-")[0], []).append(done.parent)
    charts = {}
    for name, folders in stages.items():
        labels = _labels([json.loads((folder / "complete.json").read_text())["config"] for folder in folders])
        logs = [
            Log(label, "", str(path.parent.relative_to(folder)), tuple(read_log(path.parent)))
            for label, folder in sorted(zip(labels, folders, strict=True))
            for path in sorted(folder.rglob("log.jsonl"))
        ]
        charts[name] = list(_charts(logs, f"stage-{name}"))
    return {name: found for name, found in charts.items() if found}


def _charts(logs: Sequence[Log], prefix: str) -> Iterator[Chart]:
    quantities: dict[tuple[str, str, str], dict[str, list[Log]]] = {}
    for log in logs:
        for name in sorted({key for entry in log.entries for key in entry} - {"step"}):
            quantities.setdefault((log.loop, name, log.group), {}).setdefault(log.label, []).append(log)
    for number, ((loop, name, group), by_label) in enumerate(quantities.items()):
        curves = [_curve(label, [_series(log, name) for log in found]) for label, found in by_label.items()]
        title = ": ".join(word for word in (group, name if loop == "." else f"{loop}, {name}") if word)
        for start in range(0, len(curves), MOST_CURVES):
            chosen = curves[start : start + MOST_CURVES]
            drawn = tuple(Curve(label, points, colour, marked=False) for colour, (label, points) in enumerate(chosen))
            yield Chart(f"{prefix}-{number}-{start}", title, "step", name, drawn)


def _series(log: Log, name: str) -> list[tuple[float, float]]:
    return [(entry["step"], entry[name]) for entry in log.entries if name in entry]


def _curve(label: str, runs: Sequence[Sequence[tuple[float, float]]]) -> tuple[str, tuple[Point, ...]]:
    """The mean over the runs, each bin of steps one point."""
    steps = [step for run in runs for step, _ in run]
    first, last = min(steps), max(steps)
    width = max(1.0, (last - first + 1) / MOST_POINTS)
    bins: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        for step, value in run:
            bins.setdefault(int((step - first) // width), []).append((step, value))
    points = tuple(
        Point(sum(step for step, _ in found) / len(found), sum(value for _, value in found) / len(found))
        for _, found in sorted(bins.items())
    )
    return label + (f" ({len(runs)} runs)" if len(runs) > 1 else ""), points


def _labels(configs: Sequence[Any]) -> list[str]:
    """Each config by the values in which it differs from the others, seeds apart."""
    flat = [dict(_flatten(config)) for config in configs]
    known = {key: None for one in flat for key in one if key.rpartition(".")[2] != "seed"}
    keys = [key for key in known if len({repr(one.get(key)) for one in flat}) > 1]
    return [", ".join(f"{key} {one.get(key, 'none')}" for key in keys)[:80] or "all" for one in flat]


def _flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(config, Mapping):
        yield prefix.removesuffix("."), config
        return
    for key, value in config.items():
        yield from _flatten(value, f"{prefix}{key}.")
