"""The machine that starts processes, undisturbed runs to compare with, and a disk that can be full or read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benchmarks.faults.machine import Machine
from benchmarks.faults.trainer import Trainer


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Starts processes."""
    return Machine(tmp_path_factory.mktemp("notes"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, machine: Machine) -> Callable[[Trainer], Path]:
    """Trainer -> folder of a run that nothing happened to, done once."""
    done: dict[str, Path] = {}

    def run(trainer: Trainer) -> Path:
        if trainer.name not in done:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            machine.finish(trainer.train, folder)
            done[trainer.name] = folder
        return done[trainer.name]

    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB; skipped where this process may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)
