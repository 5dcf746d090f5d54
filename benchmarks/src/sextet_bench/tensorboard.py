"""The logs of runs and stages as TensorBoard's event files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from sextet.training import read_log


def write_events(runs: Path, folder: Path) -> list[Path]:
    """Turn every `log.jsonl` below `runs/work` and `runs/stages` into an event file; return the folders written.

    A run's folder below `folder` has the name that it has below `runs`, so TensorBoard lists runs by table, cell and
    seed. One whose log has not grown since is left alone, so that this may be called while runs go on.
    """
    written = []
    for log in _logs(runs):
        target = folder / log.parent.relative_to(runs)
        events = list(target.glob("events.out.*"))
        if events and events[0].stat().st_mtime >= log.stat().st_mtime:
            continue
        shutil.rmtree(target, ignore_errors=True)
        with SummaryWriter(str(target)) as writer:
            for entry in read_log(log.parent):
                for name in sorted(entry.keys() - {"step"}):
                    writer.add_scalar(name, entry[name], int(entry["step"]))
        written.append(target)
    return written


def _logs(runs: Path) -> Iterator[Path]:
    for part in ("work", "stages"):
        yield from sorted((runs / part).rglob("log.jsonl"))
