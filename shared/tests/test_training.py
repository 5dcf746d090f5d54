from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from sextet import checkpoint, training
from sextet.training import ConfigMismatch, Interrupted, NonFiniteLoss, SignalGuard, Training, read_log

SCRIPT = """
import sys, time
from pathlib import Path
import torch
from sextet.cuda import seed_everything
from sextet.training import Training

def make(kind):
    seed_everything(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    options = {"SGD": {"lr": 0.05, "momentum": 0.9}, "Adam": {"lr": 0.01}}[kind]
    optimizer = getattr(torch.optim, kind)(model.parameters(), **options)
    return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)

def batch(step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(16, 3, generator=generator)
    return inputs, inputs.sum(1, keepdim=True)

def train(folder, kind="SGD", steps=12, pause=0.0, **options):
    model, optimizer, schedule = make(kind)
    state = {"model": model, "optimizer": optimizer, "schedule": schedule}
    with Training(Path(folder), steps=steps, state=state, **{"save_every": 3, "log_every": 2, **options}) as run:
        for step in run:
            inputs, targets = batch(step)
            loss = (model(inputs) - targets).square().mean()
            run.backward(loss)
            run.optimizer_step(optimizer)
            schedule.step()
            run.log(loss=loss)
            time.sleep(pause)
    return model, optimizer

if __name__ == "__main__":
    print("ready", flush=True)
    train(sys.argv[1], sys.argv[2], steps=int(sys.argv[3]), pause=float(sys.argv[4]))
"""
NAMES: dict = {"__name__": "loop"}
exec(SCRIPT, NAMES)
train, make = NAMES["train"], NAMES["make"]


def final(folder):
    """Everything of the last checkpoint but the order of keys, and the log's bytes."""
    step, state = checkpoint.load_latest(folder / "checkpoints")
    return step, state, (folder / "log.jsonl").read_bytes()


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def start(tmp_path, kind="SGD", steps=40, pause=0.02):
    path = tmp_path.parent / f"{tmp_path.name}-loop.py"
    path.write_text(SCRIPT)
    words = [sys.executable, str(path), str(tmp_path), kind, str(steps), str(pause)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def wait_for_checkpoint(folder, step):
    for _ in range(600):
        if any(int(path.name[5:]) >= step for path in (folder / "checkpoints").glob("step-*")):
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint in time")


def test_worked_example(tmp_path):
    train(tmp_path)
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == list(range(12))
    assert [round(line["loss"], 4) for line in log[:3]] == [3.1008, 2.437, 2.4539]
    assert log[-1]["loss"] < log[0]["loss"]


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_half_and_resumed_equals_whole(tmp_path, kind):
    train(tmp_path / "whole", kind)
    with pytest.raises(RuntimeError, match="power cut"):
        interrupted(tmp_path / "halves", kind, at=7)
    train(tmp_path / "halves", kind)
    assert equal(final(tmp_path / "whole"), final(tmp_path / "halves"))


def interrupted(folder, kind, at):
    """The loop of SCRIPT, broken off in step `at` without any goodbye."""
    original = NAMES["batch"]

    def batch(step):
        if step == at:
            raise RuntimeError("power cut")
        return original(step)

    NAMES["batch"] = batch
    try:
        train(folder, kind)
    finally:
        NAMES["batch"] = original


def test_a_finished_run_does_nothing_more(tmp_path):
    train(tmp_path)
    before = final(tmp_path)
    model, _ = train(tmp_path)
    assert equal(before, final(tmp_path))
    assert equal(dict(model.state_dict()), before[1]["parts"]["model"])


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_killed_and_started_again_it_ends_the_same(tmp_path, kind):
    train(tmp_path / "whole", kind, steps=40)
    for step in (6, 24):
        with start(tmp_path / "killed", kind) as process:
            wait_for_checkpoint(tmp_path / "killed", step)
            process.kill()
    train(tmp_path / "killed", kind, steps=40)
    assert equal(final(tmp_path / "whole"), final(tmp_path / "killed"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_leaves(tmp_path, number, code):
    with start(tmp_path / "stopped", pause=0.05) as process:
        wait_for_checkpoint(tmp_path / "stopped", 6)
        process.send_signal(number)
        assert process.wait(timeout=20) == code
    step, _, log = final(tmp_path / "stopped")
    assert 6 <= step < 40
    assert log.count(b"\n") == step
    train(tmp_path / "stopped", steps=40)
    train(tmp_path / "whole", steps=40)
    assert equal(final(tmp_path / "whole"), final(tmp_path / "stopped"))


def test_the_second_interrupt_stops_at_once():
    with SignalGuard() as guard:
        os.kill(os.getpid(), signal.SIGINT)
        assert guard.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_message_of_an_interruption_says_what_to_do(tmp_path):
    stop = Interrupted(signal.SIGTERM, tmp_path)
    assert stop.code == 143
    assert str(stop) == f"SIGTERM: state saved in {tmp_path}; the same command continues from there"


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    worker = threading.Thread(target=train, args=(tmp_path,))
    worker.start()
    worker.join()
    assert len(read_log(tmp_path)) == 12


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path, bad):
    parameter = torch.nn.Parameter(torch.zeros(2))
    state = {"optimizer": torch.optim.SGD([parameter], lr=0.1)}

    def run():
        with Training(tmp_path, steps=20, state=state, save_every=4, log_every=3) as steps:
            for step in steps:
                steps.log(loss=torch.tensor(bad if step == 7 else 1.0))

    with pytest.raises(NonFiniteLoss, match=f"loss became {bad} at step 7"):
        run()
    assert checkpoint.load_latest(tmp_path / "checkpoints")[0] == 4
    assert [line["step"] for line in read_log(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_another_config_is_refused_with_the_difference(tmp_path):
    train(tmp_path, config={"lr": 0.1, "sizes": (1, 2)})
    train(tmp_path, config={"sizes": [1, 2], "lr": 0.1})
    with pytest.raises(ConfigMismatch, match=r"lr: 0.1 there, 0.2 now.*delete this one to start afresh"):
        train(tmp_path, config={"lr": 0.2, "sizes": (1, 2)})


def test_a_torn_log_line_is_dropped(tmp_path):
    train(tmp_path, steps=6)
    whole = (tmp_path / "log.jsonl").read_bytes()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    train(tmp_path, steps=6)
    assert (tmp_path / "log.jsonl").read_bytes() == whole
    assert read_log(tmp_path / "nowhere") == []


def test_precision_reaches_the_forward_pass(tmp_path):
    seen = []
    with Training(tmp_path, steps=1, state={}, precision="bf16") as run:
        for _ in run:
            with run.autocast():
                seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    assert seen == [torch.bfloat16]


PARALLEL = """
import os, signal, sys, time
from pathlib import Path
import torch
from accelerate import Accelerator
from sextet.training import Training

accelerator = Accelerator(cpu=True)
torch.manual_seed(accelerator.process_index)
weight = torch.nn.Parameter(torch.zeros(1))
state = {"optimizer": torch.optim.SGD([weight], lr=0.1)}
with Training(Path(sys.argv[1]), steps=60, state=state, save_every=5, accelerator=accelerator) as run:
    for step in run:
        drawn = torch.rand(1).item()
        run.log(drawn=drawn)
        with open(f"{sys.argv[1]}/rank{accelerator.process_index}", "a") as file:
            file.write(f"{step} {drawn}\\n")
        if accelerator.process_index == 1 and step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGTERM)
"""


def run_two(tmp_path, name, stop):
    """PARALLEL in two gloo processes; their exit codes."""
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    (tmp_path / name).mkdir(exist_ok=True)
    port = str(29500 + os.getpid() % 1000)
    processes = []
    for rank in range(2):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        env = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "1"}
        words = [sys.executable, str(script), str(tmp_path / name), str(stop)]
        processes.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], errors


def test_two_processes_stop_at_the_same_step_and_continue_alike(tmp_path):
    codes, errors = run_two(tmp_path, "stopped", stop=17)
    assert codes == [143, 143], errors
    assert checkpoint.load_latest(tmp_path / "stopped/checkpoints")[0] == 18
    assert run_two(tmp_path, "stopped", stop=-1)[0] == [0, 0]
    assert run_two(tmp_path, "whole", stop=-1)[0] == [0, 0]
    for rank in ("rank0", "rank1"):
        assert (tmp_path / "stopped" / rank).read_text() == (tmp_path / "whole" / rank).read_text()
    assert (tmp_path / "whole/rank0").read_text() != (tmp_path / "whole/rank1").read_text()


def test_schedules():
    assert [training.warmup_cosine(step, warmup=2, total=6) for step in (0, 1, 2, 4, 6, 9)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0, 0]
    )
    assert training.warmup_cosine(6, warmup=0, total=6, floor=0.1) == pytest.approx(0.1)
    milestones = {20: 0.06, 40: 0.012}
    assert [training.step_decay(epoch, milestones) for epoch in (0, 19, 20, 39, 40, 99)] == [
        1,
        1,
        0.06,
        0.06,
        0.012,
        0.012,
    ]
    with pytest.raises(ValueError, match="0 <= warmup < total = 3, got 3"):
        training.warmup_cosine(0, warmup=3, total=3)
