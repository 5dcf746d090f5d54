from __future__ import annotations

import socket

from sextet import checkpoint

PARALLEL = """
import os, signal
import torch
from accelerate import Accelerator
from sextet.training import Training

accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
torch.manual_seed(rank)
weight = torch.nn.Parameter(torch.zeros(1))
state = {"optimizer": torch.optim.SGD([weight], lr=0.1)}
with Training(folder, steps=30, state=state, save_every=5, accelerator=accelerator) as run:
    for step in run:
        drawn = torch.rand(1).item()
        run.log(drawn=drawn)
        with open(f"{folder}/rank{rank}", "a") as file:
            file.write(f"{step} {drawn}\\n")
        if rank == 1 and step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
"""


def run_two(fork, folder, stop):
    """PARALLEL in two gloo processes; their exit codes."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "1"}
    names = {"folder": folder, "stop": stop}
    ranks = [fork(PARALLEL, names, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    for process in ranks:
        process.join(timeout=60)
    return [process.exitcode for process in ranks]


def test_two_processes_stop_at_the_same_step_and_continue_alike(tmp_path, fork):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    assert run_two(fork, stopped, stop=17) == [143, 143]
    assert checkpoint.load_latest(stopped / "checkpoints")[0] == 18
    assert run_two(fork, stopped, stop=-1) == [0, 0]
    assert run_two(fork, whole, stop=-1) == [0, 0]
    for rank in ("rank0", "rank1"):
        assert (stopped / rank).read_text() == (whole / rank).read_text()
    assert (whole / "rank0").read_text() != (whole / "rank1").read_text()
    assert (stopped / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
