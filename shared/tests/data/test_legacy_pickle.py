import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sextet.data import DataError, load_legacy_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
DTYPES = ["u1", "i8", ">i4", "f2", "f4", ">f8", "?", "S3", "U2", "c8"]
# a python 2 pickle (protocol 2) of {"data": uint8 [[1, 200]], "labels": [3]}
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
    b"\x87Rq\x05(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89U\x02\x01\xc8tbU\x06labelsq\x08]q\tK\x03au."
)


@pytest.fixture
def read(tmp_path):
    def read(body, **options):
        (tmp_path / "f.pickle").write_bytes(body)
        return load_legacy_pickle(tmp_path / "f.pickle", **options)

    return read


def test_a_python_2_pickle(read):
    assert {key: np.asarray(value).tolist() for key, value in read(PYTHON_2).items()} == {
        "data": [[1, 200]],
        "labels": [3],
    }
    assert sorted(read(PYTHON_2, encoding="bytes")) == [b"data", b"labels"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLAIN, st.integers(0, 5))
def test_plain_data_comes_back(read, value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=1, max_side=3))),
    st.integers(0, 4),
    st.booleans(),
)
def test_arrays_come_back(read, array, protocol, fortran):
    array = np.array(array, order="F" if fortran else "C")
    result = read(pickle.dumps({"a": array, "again": [array]}, protocol))
    assert result["a"] is result["again"][0]
    assert result["a"].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(np.asarray(result["a"]), array)


def test_scalars_sets_and_ordered_things(read):
    value = [np.float32(0.5), np.int64(-3), {1, 2}, frozenset("a")]
    assert read(pickle.dumps(value, 2)) == value


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state) if state else (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "touch executed"),
        Call(eval, "open('executed', 'w')"),
        Call(getattr, os, "system"),
        Call(exec, "open('executed', 'w')"),
        Call(open, "executed", "w"),
        Call(np.load, "executed"),
        Call(bytearray, 1 << 60),
        Call(np.fromfile, "executed"),
        Call(type, "X", (), {}),
        Call(pickle.loads, b"N."),
    ],
    ids=lambda call: call.reduced[0].__name__,
)
def test_nothing_is_executed(read, call, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if call.reduced[0] is getattr:
        body = b"c__builtin__\ngetattr\n(cos\nsystem\nVx\ntR."
    else:
        body = pickle.dumps(call, protocol)
    with pytest.raises(DataError, match="not plain data"):
        read(body)
    assert os.listdir(tmp_path) == ["f.pickle"]


@pytest.mark.parametrize(
    "name",
    ["os\nsystem", "builtins\n__import__", "__builtin__\neval", "numpy\nload", "numpy.core.multiarray\nfromfile",
     "builtins\nlist.append", "sextet.data\nfetch", "subprocess\nPopen", "copyreg\n_reconstructor"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["c{0}\n)R.", "(i{0}\n.", "\x80\x04\x8c{2}{1}\x8c{4}{3}\x93)R."])
def test_no_other_name_is_found(read, name, form):
    module, attribute = name.split("\n")
    body = form.format(name, module, chr(len(module)), attribute, chr(len(attribute)))
    with pytest.raises(DataError, match="not plain data"):
        read(body.encode("latin1"))


def reconstruct(shape, dtype=b"cnumpy\ndtype\n(Vu1\nI0\nI1\ntR", data=b"C\x01x", kind=b"cnumpy\nndarray\n"):
    """Write a pickled array by hand."""
    head = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(" + kind + b"(I0\ntC\x01btR"
    return head + b"(I1\n(" + b"".join(b"L%dL\n" % side for side in shape) + b"t" + dtype + b"\x89" + data + b"tb."


def test_the_hand_written_array_is_one(read):
    assert np.asarray(read(reconstruct([1]))).tolist() == [ord("x")]


@pytest.mark.parametrize(
    "body",
    [
        reconstruct([1 << 60]),
        reconstruct([1 << 40, 1 << 40]),
        reconstruct([-1]),
        reconstruct([1], data=b"]"),
        reconstruct([1], dtype=b"V|O\n"),
        *(reconstruct([1], dtype=b"cnumpy\ndtype\n(V%s\nI0\nI1\ntR" % code) for code in (b"O", b"V8", b"M8", b"u1,O")),
        reconstruct([1 << 60], dtype=b"cnumpy\ndtype\n(VS0\nI0\nI1\ntR"),
        b"\x80\x02cnumpy\nndarray\n(L1152921504606846976L\nt\x81.",
        b"\x80\x02cnumpy\ndtype\n(]tR.",
        b"\x80\x02c__builtin__\nbytes\n(L1152921504606846976L\ntR.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\n(K\x01K\x01tR.",
        b"\x80\x02c_codecs\nencode\n(Vx\nVzlib\ntR.",
        pickle.dumps(np.array([{}], object)),
        pickle.dumps(np.zeros(2, [("a", "i4"), ("b", "O")])),
        pickle.dumps(range(3)),
        pickle.dumps({"a": Call(list, state={"x": 1})}),
        b"]r\xff\xff\xff\x7f.",
        b"]p999999999\n.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"x.",
        b"P1\n.",
        b"\x82\x01.",
        b"}]K\x01s.",
        b"",
        b".",
        b"not a pickle",
        pickle.dumps([1, 2, 3])[:-2],
    ],
)
def test_hostile_pickles(read, body):
    with pytest.raises(DataError, match="is not read"):
        read(body)


def test_a_cap_on_the_size(read):
    with pytest.raises(DataError, match="larger than the 10 bytes"):
        read(pickle.dumps("x" * 100), max_bytes=10)


OPCODES = st.sampled_from([op.code.encode("latin1") for op in pickletools.opcodes])
NAMES = st.sampled_from([b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n",
                         b"cnumpy.core.multiarray\nscalar\n", b"c_codecs\nencode\n", b"cbuiltins\nset\n"])  # fmt: skip


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(PYTHON_2[:60], 0, b"")
@given(
    st.lists(OPCODES | NAMES | st.binary(max_size=4) | st.just(b"K\x01"), max_size=20).map(b"".join),
    st.integers(0, len(PYTHON_2)),
    st.binary(max_size=5),
)
def test_whatever_the_bytes_a_data_error_at_most(read, body, cut, noise):
    for attempt in (body + b".", PYTHON_2[:cut] + noise + PYTHON_2[cut + len(noise) :], PYTHON_2[:cut] + body + b"."):
        try:
            read(attempt)
        except DataError:
            continue
