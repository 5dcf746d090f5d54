import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sextet.data import OPEN, content_hash, data_root


def test_content_hash_worked_example():
    array = np.array([[1, 2]], np.int64)
    expected = hashlib.sha256(b"x|<i8|(1, 2)\n" + bytes([1, *[0] * 7, 2, *[0] * 7])).hexdigest()
    assert content_hash({"x": array}) == expected


def test_content_hash_depends_on_names_dtypes_shapes_and_bytes_only():
    x, y = np.arange(6, dtype=np.uint8), np.arange(3)
    reference = content_hash({"x": x, "y": y})
    assert content_hash({"y": y, "x": x}) == reference
    assert content_hash({"x": np.repeat(x, 2)[::2], "y": y}) == reference
    others = [{"x": x}, {"x": x, "z": y}, {"x": x.astype(np.int8), "y": y}, {"x": x.reshape(2, 3), "y": y}]
    assert reference not in [content_hash(other) for other in [*others, {"x": x[::-1], "y": y}]]


@given(arrays(st.sampled_from([np.uint8, np.int64, np.float32, "<U3"]), array_shapes(min_dims=0, min_side=0)))
def test_content_hash_of_any_layout(array):
    assert content_hash({"a": array}) == content_hash({"a": np.array(array, order="F")}) != content_hash({})


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("SEXTET_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.setenv("SEXTET_DATA", "")
    assert data_root() == Path.home() / ".cache" / "sextet"


@pytest.mark.parametrize("passport", OPEN.values(), ids=list(OPEN))
def test_open_passports_are_filled_in(passport):
    assert passport.homepage.startswith("http")
    assert all((passport.title, passport.licence, passport.size, passport.instructions, passport.sources))
    assert len(set(passport.class_names)) == len(passport.class_names) >= 10
    assert passport.content_sha256 is None or len(passport.content_sha256) == 64
    assert [source.describe() for source in passport.sources]
