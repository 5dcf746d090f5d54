"""Fuzz parsers for a while and say what escaped; exit code 1 where anything did."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import tyro
from benchmarks.fuzz import package_targets, sextet_targets
from benchmarks.fuzz.engine import run

TARGETS = (*sextet_targets.TARGETS, *package_targets.TARGETS)


def main(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    /,
    seconds: Annotated[float, tyro.conf.arg(help="for each target")] = 30.0,
    executions: Annotated[int, tyro.conf.arg(help="stop a target after so many; 0: only by time")] = 0,
    seed: int = 0,
    out: Path = Path("runs/fuzz"),
) -> int:
    """Fuzz the named targets (all by default)."""
    unknown = sorted(set(names) - {target.name for target in TARGETS})
    if unknown:
        print(f"no target {', '.join(unknown)}; there are {', '.join(target.name for target in TARGETS)}")
        return 2
    failed = 0
    for target in TARGETS:
        if names and target.name not in names:
            continue
        folder = out / target.name
        shutil.rmtree(folder, ignore_errors=True)
        found = run(target, folder, seconds, seed, executions)
        shutil.rmtree(folder / "work", ignore_errors=True)
        failed += bool(found.escaped)
        print(
            f"{target.name:24} {found.executions:9,} executions, {found.refused:9,} refused, corpus {found.corpus:4}, "
            f"{len(found.escaped)} escaped",
            flush=True,
        )
        for what in found.escaped:
            print(f"    {what} (kept in {folder / 'escaped'})", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
