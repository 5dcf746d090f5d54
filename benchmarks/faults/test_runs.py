"""What happens to long runs, done to every trainer; at the end stands what an undisturbed run leaves, bit by bit."""

from __future__ import annotations

import random
import signal
import subprocess
import time

import pytest
import torch
from benchmarks.faults.endings import ending, leftovers, newest
from benchmarks.faults.every_trainer import TRAINERS
from benchmarks.faults.machine import Plan

from sextet import checkpoint
from sextet.training import find_nan

KILLS = 3
LOG_EVERY = 50  # the longest that a trainer here waits before it looks at its losses
every_trainer = pytest.mark.parametrize("trainer", TRAINERS, ids=repr)
every_one_with_checkpoints = pytest.mark.parametrize("trainer", [t for t in TRAINERS if t.one_checkpoint], ids=repr)
every_one_that_can_be_spoilt = pytest.mark.parametrize("trainer", [t for t in TRAINERS if t.spoilable], ids=repr)


@every_trainer
def test_same_seed_twice_gives_the_same_log_and_the_same_checkpoint(machine, undisturbed, tmp_path, trainer):
    machine.finish(trainer.train, tmp_path / "run")
    assert trainer.saved(tmp_path / "run") == trainer.steps
    assert ending(tmp_path / "run") == ending(undisturbed(trainer))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every_trainer
def test_same_seed_twice_on_a_gpu_gives_the_same_log_and_the_same_checkpoint(machine, tmp_path, trainer):
    for name in ("one", "other"):
        machine.finish(trainer.train, tmp_path / name, Plan(device="cuda"))
    assert ending(tmp_path / "one") == ending(tmp_path / "other")


@every_trainer
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(machine, undisturbed, tmp_path, trainer):
    """Killed up to 20 ms after a random step, which may be in the middle of a save; the first time after a save."""
    folder, chance = tmp_path / "run", random.Random(trainer.name)
    for kill in range(KILLS):
        saved = trainer.saved(folder)
        left = trainer.steps - saved
        if left < 2:
            break
        step = chance.randint(1 if kill else trainer.save_every + 1, left - 1)
        started = machine.start(trainer.train, folder, Plan(wait_after=min(step + 3, left)))
        started.wait_for(step)
        time.sleep(0.02 * chance.random())
        started.send(signal.SIGKILL)
        assert started.exit_code() == -signal.SIGKILL, started.error()
        assert trainer.saved(folder) > saved + started.steps() - trainer.save_every - 2  # one interval and the step
    assert trainer.saved(folder) < trainer.steps
    machine.finish(trainer.train, folder)
    assert ending(folder) == ending(undisturbed(trainer))
    assert leftovers(folder) == []


@every_trainer
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_run_after_its_step_with_the_state_saved(machine, undisturbed, tmp_path, trainer, number, code):
    folder = tmp_path / "run"
    step = random.Random(f"{trainer.name} {number}").randint(1, trainer.steps - 2)
    started = machine.start(trainer.train, folder, Plan(wait_after=step))
    started.wait_for(step)
    started.send(number)
    started.let_go()
    assert started.exit_code() == code, started.error()
    assert started.error().startswith(f"Interrupted: {signal.Signals(number).name}: state saved in ")
    assert started.steps() == step
    assert trainer.saved(folder) == step
    machine.finish(trainer.train, folder)
    assert ending(folder) == ending(undisturbed(trainer))


@every_one_that_can_be_spoilt
def test_nan_stops_a_run_and_leaves_the_last_checkpoint_good(machine, undisturbed, tmp_path, trainer):
    """The step and its rows are told; `Trainer.first_step` finds them with the packages' own functions."""
    folder = tmp_path / "run"
    spoilt = trainer.spoilt()
    step = trainer.first_step(spoilt)
    started = machine.start(trainer.train, folder, Plan(spoilt=spoilt))
    assert started.exit_code() == 1
    if trainer.check:
        assert started.error().startswith(f"ValueError: {trainer.check}")
        assert f" in step {step} of {trainer.steps};" in started.error()
    else:
        assert started.error().startswith("NonFiniteLoss: loss became nan")
        assert f"in step {step};" in started.error()
    rows = started.error().partition(f"The rows of step {step}: ")[2].split(", ")
    assert len(rows) > 1 if trainer.rows is None else str(spoilt) in rows
    assert step <= started.steps() <= step + LOG_EVERY
    ((saved, state),) = newest(folder).values()
    assert trainer.save_every <= saved <= step
    assert find_nan(state) == ""
    machine.finish(trainer.train, folder)
    assert ending(folder) == ending(undisturbed(trainer))


@every_one_with_checkpoints
def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(machine, undisturbed, tmp_path, trainer):
    folder, chance = tmp_path / "run", random.Random(trainer.name)
    started = machine.start(trainer.train, folder, Plan(wait_after=trainer.save_every + 2))
    started.wait_for(trainer.save_every + 2)
    started.send(signal.SIGTERM)
    started.let_go()
    assert started.exit_code() == 143
    before, last = sorted((folder / "checkpoints").glob("step-*"))
    damaged = last / chance.choice(["state.json", "tensors.safetensors"])
    content = damaged.read_bytes()
    damaged.write_bytes(content[: chance.randrange(len(content))])
    assert checkpoint.load(before)[0] == trainer.save_every
    with pytest.raises(checkpoint.CheckpointError, match=last.name):
        checkpoint.load(last)
    again = machine.start(trainer.train, folder)
    assert again.exit_code() == 0, again.error()
    assert again.steps() == trainer.steps - trainer.save_every
    assert ending(folder) == ending(undisturbed(trainer))


@every_trainer
def test_a_full_disk_stops_a_run_with_its_state_intact_and_it_continues_once_there_is_room(
    machine, undisturbed, disk, trainer
):
    folder = disk / "run"
    full = trainer.save_every + 1
    started = machine.start(trainer.train, folder, Plan(fill_after=full))
    assert started.exit_code() == 1
    assert started.error().startswith("OSError: [Errno 28] No space left on device")
    assert full > trainer.saved(folder) >= trainer.save_every
    assert leftovers(folder) == []
    (disk / "filler").unlink()
    machine.finish(trainer.train, folder)
    assert ending(folder) == ending(undisturbed(trainer))


@every_trainer
def test_a_read_only_disk_is_told_at_once_and_nothing_is_lost(machine, undisturbed, disk, trainer):
    folder = disk / "run"
    started = machine.start(trainer.train, folder, Plan(wait_after=2))
    started.wait_for(2)
    started.send(signal.SIGTERM)
    started.let_go()
    assert started.exit_code() == 143
    saved = ending(folder)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused = machine.start(trainer.train, folder)
    assert refused.exit_code() == 1
    assert refused.error().startswith("OSError: [Errno 30] Read-only file system: ")
    assert refused.steps() <= 1
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert ending(folder) == saved
    machine.finish(trainer.train, folder)
    assert ending(folder) == ending(undisturbed(trainer))


@every_trainer
def test_a_file_in_the_place_of_the_run_folder_is_named(machine, tmp_path, trainer):
    (tmp_path / "run").write_text("mine")
    started = machine.start(trainer.train, tmp_path / "run")
    assert started.exit_code() == 1
    assert str(tmp_path / "run") in started.error()
    assert started.steps() == 0
    assert (tmp_path / "run").read_text() == "mine"
