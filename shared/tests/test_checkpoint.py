from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import random
import signal
import time
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextet import checkpoint, files
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


def test_numbers_and_arrays_of_numpy(tmp_path):
    reversed_view, read_only = np.arange(4)[::-1], np.broadcast_to(np.ones(1), (3,))
    state = {"flipped": reversed_view, "read_only": read_only, "point": np.array(2.5), "half": np.float16([1, 2])}
    checkpoint.save(tmp_path, {**state, "nan": np.float64("nan"), "inf": -np.float64("inf")}, step=1)
    found = checkpoint.load_latest(tmp_path)[1]
    assert same(state, {name: found[name] for name in state})
    assert math.isnan(found["nan"])
    assert found["inf"] == -math.inf
    checkpoint.save(tmp_path, {"big_endian": np.arange(3, dtype=">i4")}, step=2)
    assert checkpoint.load_latest(tmp_path)[1]["big_endian"].tolist() == [0, 1, 2]


def test_views_are_kept_as_they_look(tmp_path):
    base = torch.arange(6.0) * (1 + 2j)
    state = {
        "expanded": torch.ones(1).expand(4), "strided": torch.arange(9)[::2], "conjugate": base.conj(),
        "negative": base.conj().imag, "float8": torch.ones(3).to(torch.float8_e4m3fn), "empty": torch.empty(0, 2),
        "parameter": torch.nn.Parameter(torch.ones(2)), "\ud800": torch.ones(1), "a\0b": torch.zeros(1),
    }  # fmt: skip
    checkpoint.save(tmp_path, state, step=1)
    found = checkpoint.load_latest(tmp_path)[1]
    assert list(found) == list(state)
    assert all(torch.equal(found[name].to(torch.complex64), state[name].to(torch.complex64)) for name in state)
    assert not found["parameter"].requires_grad


def test_what_was_saved_is_a_copy(tmp_path):
    tensor, array = torch.zeros(2), np.zeros(2)
    checkpoint.save(tmp_path, {"tensor": tensor, "array": array}, step=1)
    found = checkpoint.load_latest(tmp_path)[1]
    found["tensor"] += 1
    found["array"] += 1
    assert checkpoint.load_latest(tmp_path)[1]["array"].tolist() == tensor.tolist() == array.tolist() == [0, 0]


@pytest.mark.parametrize(("step", "keep"), [(-1, 2), (10**9, 2), (1, 0), (1, -1)])
def test_steps_and_counts_out_of_range(tmp_path, step, keep):
    with pytest.raises(ValueError, match=r"0 <= step < 10\*\*9 and keep >= 1"):
        checkpoint.save(tmp_path, {}, step, keep=keep)


def test_what_was_just_saved_is_never_removed(tmp_path):
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, {}, step, keep=5)
    assert checkpoint.save(tmp_path, {}, 25).is_dir()  # a run that went back behind a damaged checkpoint
    assert sorted(folder.name[-2:] for folder in tmp_path.iterdir()) == ["25", "30"]
    assert checkpoint.save(tmp_path, {}, 5, keep=1).is_dir()
    assert [folder.name[-2:] for folder in tmp_path.iterdir()] == ["05"]


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


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
def test_no_flipped_bit_goes_unnoticed(tmp_path, name):
    state = {"x": torch.arange(3), "lr": 0.125, "name": "caf\u00e9"}
    path = checkpoint.save(tmp_path, state, step=1) / name
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in (0, 3, 5):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :])
            try:
                step, found = checkpoint.load(path.parent)
            except CheckpointError:
                continue
            assert (step, same(state, found)) == (1, True)  # \u00E9 is \u00e9


@settings(max_examples=150, deadline=None)
@given(value=MADE_UP)
def test_a_made_up_tree_never_does_more_than_raise(tmp_path_factory, value):
    folder = checkpoint.save(tmp_path_factory.mktemp("fuzz"), {"x": torch.arange(3)}, step=1)
    disguise(folder, tree=value)
    with contextlib.suppress(CheckpointError):
        checkpoint.load(folder)


def disguise(folder, **changes):
    """Change fields of state.json and put the fitting hash, as somebody hostile would."""
    header = {**json.loads((folder / "state.json").read_text()), **changes}
    blob = (folder / "tensors.safetensors").read_bytes()
    header["sha256"] = checkpoint._digest(header["step"], header["tree"], blob)
    (folder / "state.json").write_text(json.dumps(header))


@pytest.mark.parametrize("changes", [
    {"step": float("inf")}, {"step": None}, {"step": "x"}, {"format": 2}, {"tree": []}, {"tree": "x"},
    {"tree": {"$dict": [["a", {"$float": 10**400}]]}}, {"tree": {"$dict": [[["a"], 1]]}},
    {"tree": {"$dict": [["a", {"$array": {"$tensor": "0:/x"}}]]}}, {"tree": {"$dict": [["a", {"$tensor": "9:/x"}]]}},
    {"tree": {"$dict": [["a", {"$new": 1}]]}}, {"tree": {"$dict": [["a", {}]]}},
])  # fmt: skip
def test_a_well_hashed_lie_is_refused(tmp_path, changes):
    folder = checkpoint.save(tmp_path, {"x": torch.ones(2, dtype=torch.bfloat16)}, step=1)
    disguise(folder)
    assert checkpoint.load(folder)[0] == 1
    disguise(folder, **changes)
    with pytest.raises(CheckpointError, match="step-000000001"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}', b"1e999"]
)
def test_another_state_file_is_refused(tmp_path, content):
    folder = checkpoint.save(tmp_path, {"x": 1}, step=1)
    (folder / "state.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="step-000000001"):
        checkpoint.load(folder)


def test_what_cannot_be_kept_is_named_and_leaves_no_trace(tmp_path):
    checkpoint.save(tmp_path, {"x": 1}, step=1)
    with pytest.raises(CheckpointError, match="state/model/hook: expected tensors and plain values, found function"):
        checkpoint.save(tmp_path, {"model": {"hook": lambda: 0}}, step=2)
    for value, message in (
        ({(1, 2): 3}, r"state/model: expected strings or numbers as keys, found \(1, 2\)"),
        ({np.int64(1): 3}, "state/model: expected strings or numbers as keys, found"),
        (torch.eye(2).to_sparse(), "state/model: expected a dense tensor, found torch.sparse_coo on cpu"),
        (torch.empty(2, device="meta"), "state/model: expected a dense tensor, found torch.strided on meta"),
        (torch.ones(2, dtype=torch.complex128), "cannot hold a tensor of this type .*complex128"),
        (np.array(["a"]), "state/model: expected an array of numbers, found dtype <U1"),
        (np.array([{}]), "state/model: expected an array of numbers, found dtype object"),
        (b"bytes", "found bytes"),
        ({1, 2}, "found set"),
    ):
        with pytest.raises(CheckpointError, match=message):
            checkpoint.save(tmp_path, {"model": value}, step=2)
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


SAVER = """
from sextet import checkpoint
step = 0 if found is None else found[0]
while True:
    step += 1
    checkpoint.save(folder, {"x": torch.full((200_000,), step)}, step)
"""


def test_killed_at_any_moment_there_is_a_whole_checkpoint(tmp_path, fork):
    chance = random.Random(0)
    found = None
    for _ in range(20):
        process = fork(SAVER, {"folder": tmp_path, "found": found})
        time.sleep(0.05 + 0.05 * chance.random())
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        before = found
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = checkpoint.load_latest(tmp_path)
        if found is not None:
            assert torch.equal(found[1]["x"], torch.full((200_000,), found[0]))
        assert before is None or found[0] >= before[0]
    assert found is not None
    files.remove_leftovers(tmp_path)
    assert all(folder.name.startswith("step-") for folder in tmp_path.iterdir())


def test_foreign_weights(tmp_path):
    weights = {"w": torch.arange(3.0)}
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", w=np.arange(3.0, dtype=np.float32))
    torch.save(weights, tmp_path / "plain.pt")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "nested.pth")
    torch.save({"model": weights, "args": {"lr": 0.1}}, tmp_path / "nested.ckpt")
    torch.save(weights, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "a.npz", "plain.pt", "nested.pth", "nested.ckpt", "old.bin"):
        assert same(weights, checkpoint.load_foreign(tmp_path / name))


def test_a_module_s_own_state_dict_is_a_foreign_file_too(tmp_path):
    model, _ = trained(torch.optim.SGD, lr=0.1)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert same(dict(model.state_dict()), dict(checkpoint.load_foreign(tmp_path / "model.pt")))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_foreign_files_never_do_more_than_raise(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("foreign")
    name = data.draw(st.sampled_from(["a.safetensors", "a.npz", "a.pt", "old.pt"]))
    weights = {"w": torch.arange(3.0)}
    if name == "a.npz":
        np.savez(folder / name, w=weights["w"].numpy())
    elif name == "a.safetensors":
        safetensors.torch.save_file(weights, folder / name)
    else:
        torch.save(weights, folder / name, _use_new_zipfile_serialization=name == "a.pt")
    content = bytearray((folder / name).read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with warnings.catch_warnings(), contextlib.suppress(CheckpointError):
        warnings.simplefilter("ignore")
        checkpoint.load_foreign(folder / name)


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
    torch.save({0: torch.ones(1)}, tmp_path / "g.pt")
    torch.save({"w": torch.ones(1), "lr": 0.1}, tmp_path / "h.pt")
    np.save(tmp_path / "i.npy", np.ones(3))
    (tmp_path / "i.npy").rename(tmp_path / "i.npz")
    (tmp_path / "j.pt").mkdir()
    for name in (
        "a.pt", "b.pth", "c.npz", "d.bin", "e.safetensors", "f.pt", "g.pt", "h.pt", "i.npz", "j.pt", "missing.pt"
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            checkpoint.load_foreign(tmp_path / name)
    assert not (tmp_path / "attacked").exists()
