from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from sextet import checkpoint, training
from sextet.checkpoint import CheckpointError
from sextet.errors import Interrupted, NonFiniteLoss
from sextet.training import ConfigMismatch, SignalGuard, Training, read_log

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


def wait_for_checkpoint(folder, step):
    for _ in range(3000):
        if any(int(path.name[5:]) >= step for path in (folder / "checkpoints").glob("step-*")):
            return
        time.sleep(0.01)
    raise AssertionError("no checkpoint in time")


def exit_code(process):
    process.join(timeout=60)
    return process.exitcode


def test_worked_example(tmp_path):
    train(tmp_path)
    log = read_log(tmp_path)
    assert [line["step"] for line in log] == list(range(12))
    assert [line["loss"] for line in log[:3]] == pytest.approx([3.1008, 2.437, 2.4539], abs=1e-4)
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


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    train(tmp_path)
    with (
        pytest.raises(checkpoint.CheckpointError, match="12 steps are done already, expected at most 11"),
        Training(tmp_path, steps=11, state={}, config=json.loads((tmp_path / "config.json").read_text())),
    ):
        pass


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_killed_and_started_again_it_ends_the_same(tmp_path, fork, kind):
    train(tmp_path / "whole", kind, steps=40)
    chance = random.Random(kind)
    for step in (3, 15, 27):
        process = fork(
            SCRIPT + "train(folder, kind, steps=40, pause=0.01)", {"folder": tmp_path / "killed", "kind": kind}
        )
        wait_for_checkpoint(tmp_path / "killed", step)
        time.sleep(0.05 * chance.random())
        process.kill()
        assert exit_code(process) == -signal.SIGKILL
    assert checkpoint.load_latest(tmp_path / "killed/checkpoints")[0] < 40
    train(tmp_path / "killed", kind, steps=40)
    assert equal(final(tmp_path / "whole"), final(tmp_path / "killed"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_leaves(tmp_path, fork, number, code):
    process = fork(SCRIPT + "train(folder, steps=40, pause=0.1)", {"folder": tmp_path / "stopped"})
    wait_for_checkpoint(tmp_path / "stopped", 6)
    os.kill(process.pid, number)
    assert exit_code(process) == code
    step, _, log = final(tmp_path / "stopped")
    assert 6 <= step < 20  # a step or two after the sixth, and slack for a busy machine
    assert log.count(b"\n") == step
    train(tmp_path / "stopped", steps=40)
    train(tmp_path / "whole", steps=40)
    assert equal(final(tmp_path / "whole"), final(tmp_path / "stopped"))


def test_a_signal_in_the_last_step_is_not_swallowed(tmp_path):
    def run():
        with Training(tmp_path, steps=3, state={}) as steps:
            for step in steps:
                if step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        run()
    assert checkpoint.load_latest(tmp_path / "checkpoints")[0] == 3
    assert signal.getsignal(signal.SIGTERM) == before


def test_after_the_loop_signals_are_as_they_were(tmp_path):
    with Training(tmp_path, steps=3, state={}) as steps:
        assert list(steps) == [0, 1, 2]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_a_step_that_does_not_end_can_be_interrupted_twice(tmp_path, fork):
    source = "folder.mkdir()\nwith Training(folder, steps=9, state={}) as run:\n"
    source += "    for step in run:\n        (folder / 'in').touch()\n        time.sleep(60)\n"
    process = fork(SCRIPT + source, {"folder": tmp_path / "run"})
    for _ in range(3000):
        if (tmp_path / "run/in").exists():
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=0.2)
    assert process.exitcode is None
    os.kill(process.pid, signal.SIGINT)
    assert exit_code(process) == 1  # what multiprocessing makes of KeyboardInterrupt
    assert checkpoint.load_latest(tmp_path / "run/checkpoints") is None


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


def test_a_handler_that_python_did_not_set_is_no_obstacle(monkeypatch):
    guard = SignalGuard().__enter__()
    guard._before[signal.SIGTERM] = None  # what signal.signal returns for a handler written in C
    guard.__exit__()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path, bad):
    parameter = torch.nn.Parameter(torch.zeros(2))
    state = {"optimizer": torch.optim.SGD([parameter], lr=0.1)}

    def run():
        def rows(step):
            return torch.tensor([[step, 30], [40, 50]])

        with Training(tmp_path, steps=20, state=state, save_every=4, log_every=3, rows=rows) as steps:
            for step in steps:
                steps.log(loss=torch.tensor(bad if step == 7 else 1.0))

    with pytest.raises(
        NonFiniteLoss, match=f"loss became {bad} in step 7; the .* are from before.* of step 7: 7, 30, 40, 50$"
    ):
        run()
    assert checkpoint.load_latest(tmp_path / "checkpoints")[0] == 4
    assert [line["step"] for line in read_log(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_a_check_of_the_method_itself_that_fails_is_told_with_the_step(tmp_path):
    def run():
        with Training(tmp_path, steps=20, state={}, save_every=4, rows=lambda step: [step, 9]) as steps:
            for step in steps:
                if step == 6:
                    raise ValueError("images: expected finite pixels")

    with pytest.raises(ValueError, match="finite pixels") as caught:
        run()
    (note,) = caught.value.__notes__
    assert note.startswith("This was in step 6 of 20; the checkpoints in ")
    assert note.endswith("The rows of step 6: 6, 9")
    assert checkpoint.load_latest(tmp_path / "checkpoints")[0] == 4


def test_a_check_that_fails_since_an_earlier_loss_was_no_number_is_told_with_that_step(tmp_path):
    def run():
        with Training(tmp_path, steps=20, state={}, rows=lambda step: [step, 9]) as steps:
            for step in steps:
                steps.log(loss=float("nan") if step == 4 else 1.0)
                if step == 6:
                    raise ValueError("weights: expected finite numbers")

    with pytest.raises(ValueError, match="weights") as caught:
        run()
    assert caught.value.__notes__[0].startswith("loss became nan in step 4 of 20; the checkpoints in ")
    assert caught.value.__notes__[0].endswith("The rows of step 4: 4, 9")


def test_a_check_that_fails_after_the_last_step_has_no_rows(tmp_path):
    def run():
        with Training(tmp_path, steps=2, state={}, rows=lambda step: [step]) as steps:
            list(steps)
            raise ValueError("scores: expected one a class")

    with pytest.raises(ValueError, match="scores") as caught:
        run()
    assert caught.value.__notes__[0].endswith("are from before.")


def test_a_signal_during_the_last_save_is_not_lost(tmp_path):
    def state_dict():
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    late = SimpleNamespace(state_dict=state_dict, load_state_dict=lambda _: None)

    def run():
        with Training(tmp_path, steps=2, state={"late": late}) as steps:
            list(steps)

    with pytest.raises(Interrupted):
        run()
    assert checkpoint.load_latest(tmp_path / "checkpoints")[0] == 2


def test_progress_is_shown_on_a_terminal(tmp_path, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Training(tmp_path, steps=3, state={}, progress="fitting") as steps:
        for _ in steps:
            pass
    assert "fitting" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / ".tmp-999999999-abcd-log.jsonl").write_text("{")
    with Training(tmp_path, steps=1, state={}):
        assert not list(tmp_path.glob(".tmp-*"))


def test_weights_that_became_nan_are_not_saved_though_the_loss_is_finite_still(tmp_path):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def run():
        with Training(tmp_path, steps=9, state={"model": model}, save_every=2, rows=lambda step: [step]) as steps:
            for step in steps:
                loss = (model(torch.ones(1, 1)) * (0 if step == 3 else 1)).abs().sqrt().sum()  # d sqrt(0) = inf * 0
                steps.log(loss=loss)
                steps.backward(loss)
                steps.optimizer_step(optimizer)

    with pytest.raises(NonFiniteLoss, match=r"model/weight became nan in step 3; .* are from before.* of step 3: 3$"):
        run()
    step, state = checkpoint.load_latest(tmp_path / "checkpoints")
    assert step == 2
    assert training.find_nan(state) == ""


def test_where_the_nan_is():
    nan = torch.tensor([1.0, float("nan")])
    assert training.find_nan({"a": [torch.ones(1), {"b": (3, nan)}], "c": nan}) == "a/1/b/1"
    odd = [torch.full((2,), -float("inf")), torch.arange(2), torch.empty(0), torch.tensor(True), None, "nan"]
    odd += [torch.ones(2, dtype=torch.bfloat16), torch.ones(2).to(torch.float8_e4m3fn), torch.ones(2) * 1j]
    assert training.find_nan(odd) == ""
    assert training.find_nan(nan * 1j, "x") == "x"


def test_another_config_is_refused_with_the_difference(tmp_path):
    train(tmp_path, config={"lr": 0.1, "sizes": (1, 2)})
    train(tmp_path, config={"sizes": [1, 2], "lr": 0.1})
    with pytest.raises(ConfigMismatch, match=r"\(lr: 0.1 there, 0.2 now\).*delete this one to start afresh"):
        train(tmp_path, config={"lr": 0.2, "sizes": (1, 2)})
    with pytest.raises(ConfigMismatch, match=r"\(extra: absent there, None now\)"):
        train(tmp_path, config={"lr": 0.1, "sizes": (1, 2), "extra": None})
    (tmp_path / "config.json").write_bytes(b"{")
    with pytest.raises(ConfigMismatch, match=r"config.json is damaged"):
        train(tmp_path)


def test_a_checkpoint_of_other_parts_or_processes_is_refused(tmp_path):
    train(tmp_path, steps=3)
    with pytest.raises(CheckpointError, match="expected the state of head, found model, optimizer, schedule"):
        Training(tmp_path, steps=3, state={"head": torch.nn.Linear(1, 1)}).__enter__()
    four = SimpleNamespace(device=torch.device("cpu"), num_processes=4, process_index=3, is_main_process=False)
    state = dict.fromkeys(("model", "optimizer", "schedule"))
    with pytest.raises(CheckpointError, match="saved by 1 processes; continue with as many, not 4"):
        Training(tmp_path, steps=3, state=state, accelerator=four).__enter__()
    with pytest.raises(CheckpointError, match="saved without loss scaling"):
        Training(tmp_path, steps=3, state=state, precision="fp16").__enter__()


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b"\0\0\0", b"\xff\xfe", b"3\n", b"{}\n", b"[1]\n"])
def test_a_torn_log_line_is_dropped(tmp_path, torn):
    train(tmp_path, steps=6)
    whole = (tmp_path / "log.jsonl").read_bytes()
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(torn)
    assert [entry["step"] for entry in read_log(tmp_path)] == list(range(6))
    train(tmp_path, steps=6)
    assert (tmp_path / "log.jsonl").read_bytes() == whole
    assert read_log(tmp_path / "nowhere") == []


def test_a_running_sum_is_logged_as_it_was_at_its_step(tmp_path):
    total = torch.zeros(1, dtype=torch.float64)
    with Training(tmp_path, steps=4, state={}) as run:
        for step in run:
            run.log(total=total.add_(step), share=0.1, count=step)
    assert read_log(tmp_path)[-1] == {"step": 3, "total": 6.0, "share": 0.1, "count": 3.0}
    assert [entry["total"] for entry in read_log(tmp_path)] == [0, 1, 3, 6]


@pytest.mark.parametrize("values", [{"loss": torch.zeros(2)}, {"loss": torch.zeros(0)}, {"step": 1.0}])
def test_only_scalars_are_logged(tmp_path, values):
    with Training(tmp_path, steps=1, state={}) as run, pytest.raises(ValueError, match=f"got {next(iter(values))} ="):
        run.log(**values)


@pytest.mark.parametrize("change", [{"steps": -1}, {"save_every": 0}, {"log_every": 0}])
def test_counts_that_make_no_sense(tmp_path, change):
    with pytest.raises(ValueError, match="expected steps >= 0, save_every >= 1, log_every >= 1"):
        Training(tmp_path, **{"steps": 1, "state": {}, **change})
    assert not (tmp_path / "config.json").exists()


def test_fp16_scales_the_loss_skips_what_overflows_and_continues(tmp_path):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)

    def run(steps, gradient):
        with Training(tmp_path, steps=steps, state={"optimizer": optimizer}, precision="fp16") as training_run:
            for _ in training_run:
                training_run.backward((weight * gradient).sum())
                training_run.optimizer_step(optimizer)
            return training_run._scaler.get_scale()

    first = run(1, 1.0)
    assert weight.item() == 0.5
    assert run(2, float("inf")) == first / 2
    assert weight.item() == 0.5
    assert run(2, 1.0) == first / 2


def test_without_fp16_backward_and_step_are_the_plain_ones(tmp_path):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    with Training(tmp_path, steps=1, state={}) as run:
        for _ in run:
            run.backward(weight.sum())
            assert torch.equal(weight.grad, torch.ones(1))
            run.optimizer_step(optimizer)
    assert weight.item() == 0.5
    assert weight.grad is None


def test_precision_reaches_the_forward_pass(tmp_path):
    seen = []
    with Training(tmp_path, steps=1, state={}, precision="bf16") as run:
        for _ in run:
            with run.autocast():
                seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    assert seen == [torch.bfloat16]


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
