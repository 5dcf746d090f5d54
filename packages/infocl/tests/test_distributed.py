"""Two processes train as one does on the same batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from infocl.distributed import gather, world_size
from sextet.training import read_log

SCRIPT = Path(__file__).parent / "infocl_testing" / "one_of_several.py"


def run(folder, task, processes):
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    group["PYTHONPATH"] = str(SCRIPT.parents[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), task],
            env={**os.environ, **group, "WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(processes)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()


def test_one_process_gathers_its_own_rows():
    rows = torch.randn(3, 2)
    assert gather(rows) is rows
    assert world_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("regulariser", ["lbe", "rc"])
def test_two_processes_train_as_one(tmp_path, regulariser):
    for processes in (1, 2):
        run(tmp_path / str(processes), regulariser, processes)
    one, two = (safetensors.torch.load_file(tmp_path / name / "weights.safetensors") for name in "12")
    torch.manual_seed(0)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    losses = [[entry["base"] for entry in read_log(tmp_path / name / "run")] for name in "12"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert abs(losses[0][-1] - losses[0][0]) > 1e-3


@pytest.mark.slow
def test_uneven_rows_are_refused_in_every_process(tmp_path):
    run(tmp_path / "uneven", "uneven", 2)
    for rank in range(2):
        message = (tmp_path / "uneven" / f"error-{rank}").read_text()
        assert "got [3, 4]; choose a batch size that the number of processes divides" in message
