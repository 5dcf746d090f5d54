from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextet import checkpoint
from sextet.checkpoint import CheckpointError


def same(one, other):
    """Deep equality that knows tensors, arrays and nan."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and one == other


def trained(kind, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    optimizer = kind(model.parameters(), **options)
    for _ in range(3):
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.AdamW, {"lr": 0.1})]
)
def test_worked_example(tmp_path, kind, options):
    model, optimizer = trained(kind, **options)
    checkpoint.save(tmp_path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, step=3)
    step, state = checkpoint.load_latest(tmp_path)
    assert step == 3
    assert same(dict(model.state_dict()), state["model"])
    assert same(optimizer.state_dict(), state["optimizer"])


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.sampled_from([torch.tensor(1.5), torch.zeros(0, 3), torch.ones(2, 3).mT, torch.ones(2, dtype=torch.bfloat16),
                       torch.tensor([True, False]), np.arange(3), np.ones((2, 2), dtype=np.float32)])
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(state=st.dictionaries(st.text(max_size=3), TREES, max_size=3))
def test_anything_plain_comes_back_as_it_was(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("state")
    checkpoint.save(folder, state, step=0)
    assert same(state, checkpoint.load_latest(folder)[1])


def test_shared_and_clashing_tensors(tmp_path):
    tensor = torch.arange(3.0)
    state = {"a": {"b": tensor}, "a/b": tensor + 1, "view": tensor[1:], "tied": tensor}
    checkpoint.save(tmp_path, state, step=1)
    assert same(state, checkpoint.load_latest(tmp_path)[1])


def test_the_last_two_are_kept(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, {"x": step}, step)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-000000002", "step-000000010"]
    checkpoint.save(tmp_path, {"x": "again"}, 10)
    assert checkpoint.load_latest(tmp_path) == (10, {"x": "again"})


def test_a_damaged_newest_one_is_told_and_the_one_before_it_used(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, {"x": torch.full((3,), step)}, step)
    (tmp_path / "step-000000002/tensors.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="step-000000002.*trying the one before it"):
        step, state = checkpoint.load_latest(tmp_path)
    assert step == 1
    assert torch.equal(state["x"], torch.full((3,), 1))
    (tmp_path / "step-000000001/state.json").unlink()
    with pytest.warns(UserWarning, match="step-"), pytest.raises(CheckpointError, match="step-000000002"):
        checkpoint.load_latest(tmp_path)


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
def test_truncated_at_every_length(tmp_path, name):
    path = checkpoint.save(tmp_path, {"x": torch.arange(3), "y": [1, "two"]}, step=1) / name
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="step-000000001"):
            checkpoint.load(path.parent)


KINDS = st.sampled_from(["$tensor", "$array", "$float", "$tuple", "$dict", "other"])
MADE_UP = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KINDS, inner, max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(value=MADE_UP)
def test_a_made_up_tree_never_does_more_than_raise(tmp_path_factory, value):
    folder = checkpoint.save(tmp_path_factory.mktemp("fuzz"), {"x": torch.arange(3)}, step=1)
    header = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**header, "tree": value}))
    with contextlib.suppress(CheckpointError):
        checkpoint.load(folder)


def test_what_cannot_be_kept_is_named_and_leaves_no_trace(tmp_path):
    checkpoint.save(tmp_path, {"x": 1}, step=1)
    with pytest.raises(CheckpointError, match="state/model/hook: expected tensors and plain values, found function"):
        checkpoint.save(tmp_path, {"model": {"hook": lambda: 0}}, step=2)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-000000001"]


def test_a_failed_write_leaves_the_old_state(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"x": 1}, step=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, {"x": 2}, step=2)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-000000001"]
    assert checkpoint.load_latest(tmp_path) == (1, {"x": 1})


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for owner in (dead.pid, os.getppid(), os.getpid()):
        (tmp_path / f".tmp-{owner}-x").mkdir()
    checkpoint.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".tmp-{os.getppid()}-x"]


SAVER = """
import sys, torch
from pathlib import Path
from sextet import checkpoint
step = 0
print("ready", flush=True)
while True:
    step += 1
    checkpoint.save(Path(sys.argv[1]), {"x": torch.full((200_000,), step)}, step)
"""


def test_killed_at_any_moment_there_is_a_whole_checkpoint(tmp_path):
    chance = random.Random(0)
    for _ in range(6):
        words = [sys.executable, "-c", SAVER, str(tmp_path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(0.02 + 0.2 * chance.random())
            process.send_signal(signal.SIGKILL)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = checkpoint.load_latest(tmp_path)
        if found is not None:
            assert torch.equal(found[1]["x"], torch.full((200_000,), found[0]))
    assert found is not None
    checkpoint.remove_leftovers(tmp_path)
    assert all(folder.name.startswith("step-") for folder in tmp_path.iterdir())


def test_foreign_weights(tmp_path):
    weights = {"w": torch.arange(3.0)}
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", w=np.arange(3.0, dtype=np.float32))
    torch.save(weights, tmp_path / "plain.pt")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "nested.pth")
    for name in ("a.safetensors", "a.npz", "plain.pt", "nested.pth"):
        assert same(weights, checkpoint.load_foreign(tmp_path / name))


class Attack:
    def __reduce__(self):
        return os.mkdir, (os.environ["ATTACK"],)


def test_hostile_weights_are_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTACK", str(tmp_path / "attacked"))
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"w": Attack()}))
    torch.save({"w": Attack()}, tmp_path / "b.pth")
    np.savez(tmp_path / "c.npz", w=np.array([{"x": 1}], dtype=object))
    (tmp_path / "d.bin").write_bytes(b"garbage")
    (tmp_path / "e.safetensors").write_bytes(b"\xff" * 100)
    torch.save([1, 2], tmp_path / "f.pt")
    for name in ("a.pt", "b.pth", "c.npz", "d.bin", "e.safetensors", "f.pt", "missing.pt"):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            checkpoint.load_foreign(tmp_path / name)
    assert not (tmp_path / "attacked").exists()


def test_an_atomic_write_replaces_or_leaves(tmp_path, monkeypatch):
    path = tmp_path / "new/file.txt"
    checkpoint.write_atomic(path, b"one")
    checkpoint.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        checkpoint.write_atomic(path, b"three")
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    assert path.read_bytes() == b"two"
