from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from sextet.data import DataError
from sextet.data import matlab as module
from sextet.data.matlab import plain, read_matlab


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers, a list of structures and text."""
    path = tmp_path_factory.mktemp("matlab") / "a.mat"
    rows = np.array([("00001.jpg", 1), ("00002.jpg", 2)], dtype=[("fname", object), ("class", object)])
    savemat(path, {"labels": np.arange(3)[None], "annotations": rows, "one": rows[:1], "words": "text", "x": 2.5})
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("labels", [0, 1, 2]),
        ("annotations", [{"fname": "00001.jpg", "class": 1}, {"fname": "00002.jpg", "class": 2}]),
        ("one", {"fname": "00001.jpg", "class": 1}),
        ("words", "text"),
        ("x", 2.5),
    ],
)
def test_variables_become_plain_values(file: Path, name: str, expected: object) -> None:
    assert read_matlab(file, name) == expected


def test_plain_values_stay() -> None:
    assert plain(np.zeros((2, 2))) == [[0.0, 0.0], [0.0, 0.0]]
    assert plain(np.array("text")) == "text"
    assert plain(np.array(None, dtype=object)) is None


def test_a_variable_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(DataError, match="it has no variable 'label'"):
        read_matlab(file, "label")


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + b" " * 200, b"\x89HDF\r\n\x1a\n" + bytes(600)])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mat is not read"):
        read_matlab(path, "labels")


def test_a_reader_that_dies_is_an_error_and_not_the_end(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -SEGV $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(dying))
    with pytest.raises(DataError, match="its reader died, exit code -11"):
        read_matlab(file, "labels")


def test_missing_and_too_large(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_matlab(tmp_path / "absent.mat", "x")
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="more than the 10 allowed"):
        read_matlab(file, "x")
