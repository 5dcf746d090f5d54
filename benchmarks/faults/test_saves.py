"""Saving that is killed, and checkpoints that are cut."""

from __future__ import annotations

import random
import signal
import time
import warnings
from functools import partial

import pytest
import torch
from benchmarks.faults.endings import digest, ending, leftovers, newest
from benchmarks.faults.machine import Plan
from benchmarks.faults.savers import limited, save_for_ever
from benchmarks.faults.translation_trainers import dynamic_crf

from sextet import checkpoint

KILLS = 200


@pytest.mark.parametrize("again", [False, True], ids=["each step once", "each step twice"])
def test_killed_200_times_while_saving_there_is_always_a_whole_checkpoint(machine, tmp_path, again):
    """At most one interval is lost, and the first save of the next process leaves nothing temporary behind."""
    chance, last = random.Random(again), 0
    folder, train = tmp_path / "run", partial(save_for_ever, again=again)
    for _ in range(KILLS):
        started = machine.start(train, folder)
        started.wait_for(1 + again)
        assert all(str(started.process.pid) in name for name in leftovers(folder))
        time.sleep(0.02 * chance.random())
        started.send(signal.SIGKILL)
        assert started.exit_code() == -signal.SIGKILL
        saved = last + started.steps() // (1 + again)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a damaged checkpoint would be told
            found = checkpoint.load_latest(folder)
        assert found is not None
        assert found[0] in (saved, saved + 1)  # the last one may have returned unnoticed
        assert torch.equal(found[1]["x"], torch.full((100_000,), found[0]))
        last = found[0]


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
def test_a_newest_checkpoint_cut_at_any_length_is_told_and_the_one_before_it_is_used(tmp_path, name):
    for step in (1, 2):
        path = checkpoint.save(tmp_path, {"x": torch.arange(step), "y": [1, "two"]}, step) / name
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.warns(UserWarning, match=r"step-000000002: .*; trying the one before it"):
            step, state = checkpoint.load_latest(tmp_path)
        assert step == 1
        assert torch.equal(state["x"], torch.arange(1))


def test_a_file_too_large_for_the_system_is_refused_and_the_state_before_it_stays(machine, tmp_path):
    folder = tmp_path / "run"
    started = machine.start(dynamic_crf, folder, Plan(wait_after=7))
    started.wait_for(7)
    started.send(signal.SIGTERM)
    started.let_go()
    assert started.exit_code() == 143
    saved = newest(folder)["checkpoints"]
    refused = machine.start(limited, folder)
    assert refused.exit_code() == 1
    assert refused.error().startswith("OSError: [Errno 27] File too large")
    assert leftovers(folder) == []
    assert digest(newest(folder)["checkpoints"]) == digest(saved)
    machine.finish(dynamic_crf, folder)
    machine.finish(dynamic_crf, tmp_path / "undisturbed")
    assert ending(folder) == ending(tmp_path / "undisturbed")


def test_a_file_in_the_place_of_the_checkpoints_is_named_and_kept(machine, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoints").write_text("mine")
    started = machine.start(dynamic_crf, folder)
    assert started.exit_code() == 1
    assert str(folder / "checkpoints") in started.error()
    assert (folder / "checkpoints").read_text() == "mine"
