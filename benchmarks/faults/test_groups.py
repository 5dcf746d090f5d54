"""Two processes that train together, of which one is told to stop."""

from __future__ import annotations

import random
import signal
import socket

import pytest
from benchmarks.faults.endings import ending
from benchmarks.faults.every_trainer import TRAINERS
from benchmarks.faults.machine import Plan


def start_two(machine, trainer, folder, wait_after=0):
    """A gloo group; the second process waits after a step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        machine.start(trainer.train, folder, Plan(rank=rank, port=port, wait_after=wait_after * rank))
        for rank in range(2)
    ]


def finish_two(machine, trainer, folder):
    ranks = start_two(machine, trainer, folder)
    assert [rank.exit_code() for rank in ranks] == [0, 0], [rank.error() for rank in ranks]


@pytest.mark.parametrize("trainer", [t for t in TRAINERS if t.parallel], ids=repr)
def test_two_processes_of_which_one_gets_a_signal_stop_after_the_same_step_and_end_the_same(machine, tmp_path, trainer):
    folder = tmp_path / "run"
    step = random.Random(trainer.name).randint(2, trainer.steps - 2)
    ranks = start_two(machine, trainer, folder, wait_after=step)
    ranks[1].wait_for(step)
    ranks[1].send(signal.SIGTERM)
    ranks[1].let_go()
    assert [rank.exit_code() for rank in ranks] == [143, 143], [rank.error() for rank in ranks]
    assert [rank.steps() for rank in ranks] == [step, step]
    assert trainer.saved(folder) == step
    finish_two(machine, trainer, folder)
    finish_two(machine, trainer, tmp_path / "undisturbed")
    assert ending(folder) == ending(tmp_path / "undisturbed")
