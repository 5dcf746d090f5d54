from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from sextet.errors import Interrupted
from sextet.processes import launch
from sextet.training import Training, read_log

CPU = torch.device("cpu")


def train(accelerator, device, folder, steps, pause):
    """One of two processes; each adds its rank, and both log the sum."""
    processes = accelerator.num_processes if accelerator else 1
    with Training(folder, steps=steps, state={}, device=device, accelerator=accelerator, log_every=1) as training:
        for step in training:
            rank = torch.tensor([float(step)]) if accelerator is None else accelerator.process_index * torch.ones(1)
            total = rank if accelerator is None else accelerator.reduce(rank)
            training.log(total=total, processes=processes)
            time.sleep(pause)


def fail(accelerator, _device):
    if accelerator.process_index == 1:
        raise ValueError("labels: expected 0..9")


def run(folder, **changes):
    launch(train, (folder, *changes.pop("work", (3, 0.0))), folder=folder, device=CPU, **changes)


def test_one_process_is_this_one(tmp_path):
    run(tmp_path)
    assert read_log(tmp_path) == [{"step": step, "total": float(step), "processes": 1.0} for step in range(3)]


@pytest.mark.slow
def test_two_processes_work_as_one_group(tmp_path):
    run(tmp_path, processes=2)
    assert read_log(tmp_path) == [{"step": step, "total": 1.0, "processes": 2.0} for step in range(3)]


@pytest.mark.slow
def test_a_signal_reaches_all_and_the_run_continues(tmp_path):
    def stop():
        while not read_log(tmp_path):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, processes=2, work=(200, 0.1))
    thread.join()
    assert (stopped.value.signum, stopped.value.where) == (signal.SIGTERM, tmp_path)
    done = len(read_log(tmp_path))
    assert 1 <= done < 200
    run(tmp_path, processes=2, work=(200, 0.0))
    assert [entry["step"] for entry in read_log(tmp_path)] == list(range(200))


@pytest.mark.slow
def test_the_error_of_one_process_is_told(tmp_path):
    with pytest.raises(ProcessRaisedException, match=r"labels: expected 0\.\.9"):
        launch(fail, (), folder=tmp_path, device=CPU, processes=2)


def test_more_processes_than_devices(tmp_path):
    with pytest.raises(ValueError, match="devices: 9 were asked for"):
        launch(fail, (), folder=tmp_path, device=torch.device("cuda"), processes=9)
    with pytest.raises(ValueError, match="devices: 0 were asked for"):
        run(tmp_path, processes=0)
