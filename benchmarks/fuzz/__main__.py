"""Fuzz parsers for a while and say what escaped; exit code 1 where anything did."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import tyro
from benchmarks.fuzz import package_targets, sextet_targets
from benchmarks.fuzz.engine import run

from sextet_bench.evidence import Evidence, write_evidence

TARGETS = (*sextet_targets.TARGETS, *package_targets.TARGETS)


def main(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    /,
    seconds: Annotated[float, tyro.conf.arg(help="for each target")] = 30.0,
    executions: Annotated[int, tyro.conf.arg(help="stop a target after so many; 0: only by time")] = 0,
    seed: int = 0,
    out: Path = Path("runs/fuzz"),
    record: Annotated[Path | None, tyro.conf.arg(help="where to write the figures, for the page on trust")] = None,
) -> int:
    """Fuzz the named targets (all by default)."""
    unknown = sorted(set(names) - {target.name for target in TARGETS})
    if unknown:
        print(f"no target {', '.join(unknown)}; there are {', '.join(target.name for target in TARGETS)}")
        return 2
    rows = []
    for target in TARGETS:
        if names and target.name not in names:
            continue
        folder = out / target.name
        shutil.rmtree(folder, ignore_errors=True)
        found = run(target, folder, seconds, seed, executions)
        shutil.rmtree(folder / "work", ignore_errors=True)
        rows.append((target.name, found.executions, found.refused, found.corpus, len(found.escaped)))
        print(
            f"{target.name:24} {found.executions:9,} executions, {found.refused:9,} refused, corpus {found.corpus:4}, "
            f"{len(found.escaped)} escaped",
            flush=True,
        )
        for what in found.escaped:
            print(f"    {what} (kept in {folder / 'escaped'})", flush=True)
    if record is not None:
        write_evidence(record, evidence(rows, seconds, seed))
    return int(any(row[-1] for row in rows))


def evidence(rows: list[tuple[str, int, int, int, int]], seconds: float, seed: int) -> Evidence:
    """The figures of a whole run."""
    return Evidence(
        title="Hostile files",
        command=f"python -m benchmarks.fuzz --seconds {seconds:g} --seed {seed}",
        text=(
            "Every parser of foreign files on valid files that were damaged: "
            f"{sum(row[1] for row in rows):,} executions. A file is refused by a ValueError of ours, or read; anything "
            "else that leaves counts as escaped and fails the run. Inputs that reach new lines of code are kept and "
            "damaged further (corpus)."
        ),
        columns=("parser", "executions", "refused", "corpus", "escaped"),
        rows=tuple(rows),
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
