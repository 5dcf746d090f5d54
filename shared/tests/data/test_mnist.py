import gzip
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sextet.data import DataError, DataMissing, mnist
from sextet.data.mnist import decode_idx, read_idx

SMALL = {"train_images": (6, 28, 28), "train_labels": (6,), "test_images": (2, 28, 28), "test_labels": (2,)}


def idx(array, code=0x08):
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The layout of the official files, with eight images."""
    monkeypatch.setattr(mnist, "SHAPES", SMALL)
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 10, shape, np.uint8) for name, shape in SMALL.items()}


def test_worked_example(tmp_path):
    (tmp_path / "f").write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9]))
    array = read_idx(tmp_path / "f")
    assert array.tolist() == [[7, 8, 9]]
    assert array.dtype == np.uint8


@pytest.mark.parametrize(("code", "dtype"), [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")])
def test_every_type_comes_in_native_byte_order(tmp_path, code, dtype):
    array = np.array([[1, 2], [3, 100]], dtype)
    (tmp_path / "f").write_bytes(idx(array, code))
    result = read_idx(tmp_path / "f")
    assert result.tolist() == array.tolist()
    assert result.dtype == np.dtype(dtype)
    assert result.flags.writeable


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays(np.uint8, array_shapes(max_dims=4, max_side=4)), st.booleans())
def test_round_trip(tmp_path, array, zipped):
    body = idx(array)
    (tmp_path / "f").write_bytes(gzip.compress(body, mtime=0) if zipped else body)
    assert np.array_equal(read_idx(tmp_path / "f"), array)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x01\0\0",
        b"\0\1\x08\x01\0\0\0\1x",
        b"\0\0\x07\x01\0\0\0\1x",
        b"\0\0\x08\x05" + bytes(20),
        b"\0\0\x08\x01\0\0\0\2x",
        b"\0\0\x08\x01\0\0\0\2xyz",
        b"\0\0\x08\x04" + b"\xff" * 16,
        b"\0\0\x0e\x01\x7f\xff\xff\xff",
        b"\x1f\x8b",
        b"\x1f\x8b\x08\x00 no gzip",
        gzip.compress(b"\0\0\x08\x01\0\0\0\2xy", mtime=0)[:-9],
        gzip.compress(b"\0\0\x08\x01\x10\0\0\0" + bytes(1 << 22), mtime=0),
    ],
)
def test_bad_files(tmp_path, body):
    (tmp_path / "f").write_bytes(body)
    with pytest.raises(DataError, match=r"/f"):
        read_idx(tmp_path / "f", max_bytes=1 << 20)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from([b"", b"\0\0\x08", b"\x1f\x8b\x08\0"]), st.booleans())
def test_hostile_files_raise_a_data_error_at_most(tmp_path, body, start, zipped):
    body = start + body
    (tmp_path / "f").write_bytes(gzip.compress(body, mtime=0) if zipped else body)
    try:
        array = read_idx(tmp_path / "f", max_bytes=1000)
    except DataError:
        return
    assert array.nbytes <= 1000


def test_the_four_files_are_found_by_shape(tmp_path, small):
    for number, (name, array) in enumerate(small.items()):
        body = idx(array)
        (tmp_path / f"any name {number}").write_bytes(gzip.compress(body, mtime=0) if "train" in name else body)
    (tmp_path / "notes.txt").write_text("something else")
    (tmp_path / "another shape").write_bytes(idx(np.zeros((3, 4), np.uint8)))
    (tmp_path / "another type").write_bytes(idx(np.zeros(2, np.float32), 0x0D))
    (tmp_path / "folder").mkdir()
    decoded = decode_idx(tmp_path)
    assert {name: array.shape for name, array in decoded.items()} == {
        "train_images": (6, 28, 28, 1),
        "train_labels": (6,),
        "test_images": (2, 28, 28, 1),
        "test_labels": (2,),
    }
    assert decoded["test_labels"].dtype == np.int64
    assert all(np.array_equal(decoded[name].reshape(array.shape), array) for name, array in small.items())


def test_none_is_missing_and_some_is_an_error(tmp_path, small):
    with pytest.raises(DataMissing, match="train_images"):
        decode_idx(tmp_path)
    (tmp_path / "a").write_bytes(idx(small["test_labels"]))
    (tmp_path / "b").write_bytes(idx(small["test_images"])[:-1])
    with pytest.raises(DataError, match=r"lacks the IDX files of test_images.*needs 1568 bytes, found 1567") as caught:
        decode_idx(tmp_path)
    assert not isinstance(caught.value, DataMissing)
