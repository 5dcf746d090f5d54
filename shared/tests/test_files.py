"""Files that are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sextet import files


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for owner in (dead.pid, os.getppid(), os.getpid()):
        (tmp_path / f".tmp-{owner}-x").mkdir()
    (tmp_path / f".tmp-{dead.pid}-x-file.json").touch()
    for odd in (".tmp-", ".tmp-x-y", ".tmp-\u00b2-x", f".tmp-{10**30}-x"):
        (tmp_path / odd).mkdir()
    files.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".tmp-{os.getppid()}-x"]


def test_an_atomic_write_replaces_or_leaves(tmp_path, monkeypatch):
    path = tmp_path / "new/file.txt"
    files.write_atomic(path, b"one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        files.write_atomic(path, b"three")
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    assert path.read_bytes() == b"two"
