from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sextet.recipe import Scores
from sextet_bench.record import Identity, RecordError, make_record, newest, read_record, read_records, write_record

TASK = {"table": "toy/main", "cell": "good/a", "profile": "laptop", "seed": 1, "metric": "accuracy"}
IDENTITY = Identity("toy", {"x": 1}, {"mnist": "abc"}, {"toy": "123"})


def example(tmp_path, identity=IDENTITY, **task):
    scores = Scores((0.5, 1.0, 0.75))
    return make_record(
        {**TASK, **task}, identity, scores, wall_s=1.0, own_s=0.25, stages={"net-0123": 3.0}, device_s=0.0,
        peak_bytes=7, device="CPU", root=tmp_path,
    )  # fmt: skip


def test_round_trip(tmp_path):
    record = example(tmp_path)
    path = write_record(tmp_path, record)
    assert read_record(path) == record
    assert read_records(tmp_path, "toy/main", "laptop") == [record]
    assert (record.value, record.n) == (0.75, 3)
    assert path.parent == tmp_path / "toy/main/laptop"


def test_the_schema_is_frozen(tmp_path):
    """Records are kept for years: a change here needs a new schema number and a reader for the old one."""
    content = json.loads(write_record(tmp_path, example(tmp_path)).read_text())
    assert content["schema"] == 2
    assert list(content) == [
        "table", "cell", "profile", "seed", "metric", "value", "n", "standard_error", "unit", "scores", "wall_s",
        "own_s", "stages", "device_s", "peak_bytes", "recipe", "config", "config_hash", "data", "sources", "commit",
        "dirty", "versions", "device", "finished", "schema",
    ]  # fmt: skip


def test_records_of_the_first_schema_are_read(tmp_path):
    path = write_record(tmp_path, example(tmp_path))
    content = json.loads(path.read_text())
    del content["own_s"], content["stages"]
    path.write_text(json.dumps(content | {"schema": 1}))
    assert read_record(path) == replace(example(tmp_path), own_s=1.0, stages={}, finished=content["finished"])


def test_another_foundation_is_another_file_and_the_current_one_is_used(tmp_path):
    now = example(tmp_path)
    old = replace(example(tmp_path, replace(IDENTITY, sources={"toy": "old"})), finished="2999-01-01T00:00:00+00:00")
    assert write_record(tmp_path, now) != write_record(tmp_path, old)
    records = read_records(tmp_path, "toy/main", "laptop")
    assert records == [now, old]
    assert newest(records, {"good/a": IDENTITY})["good/a", 1] == now
    assert newest(records, {})["good/a", 1] == old


def test_changes_are_named(tmp_path):
    record = example(tmp_path)
    assert IDENTITY.changes_since(record) == []
    assert replace(IDENTITY, config={"x": 2}).changes_since(record) == ["config: x"]
    assert replace(IDENTITY, recipe="other").changes_since(record) == ["config: recipe"]
    assert replace(IDENTITY, data={"mnist": "def"}).changes_since(record) == ["data: mnist"]
    assert replace(IDENTITY, data={}).changes_since(record) == []
    assert replace(IDENTITY, sources={"toy": "123", "new": "1"}).changes_since(record) == ["source: new"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", 3, "schema 1 or 2"),
        ("scores", [], "finite numbers"),
        ("scores", [1, "x"], "finite numbers"),
        ("scores", [True], "finite numbers"),
        ("scores", [float("nan")], "finite numbers"),
        ("n", 4, "do not fit"),
        ("value", 0.8, "do not fit"),
        ("extra", 1, "keys missing or unknown: extra"),
    ],
)
def test_bad_records_are_refused(tmp_path, key, value, message):
    path = write_record(tmp_path, example(tmp_path))
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(RecordError, match=message):
        read_record(path)


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 700), flip=st.integers(0, 255))
def test_only_record_errors_leave_the_reader(tmp_path_factory, cut, flip):
    folder = tmp_path_factory.mktemp("records")
    path = write_record(folder, example(folder))
    content = bytearray(path.read_bytes())
    damaged = bytes(content[:cut]) + bytes([flip]) + bytes(content[cut + 1 :])
    for wrong in (damaged, bytes(content[:cut])):
        path.write_bytes(wrong)
        with contextlib.suppress(RecordError):
            read_record(path)
