"""TensorBoard reads what is written, with its own reader."""

from __future__ import annotations

import json
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sextet_bench.tensorboard import write_events


def write_log(folder, losses):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "loss": loss, "lr": 0.1}) for step, loss in enumerate(losses, start=1)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")


def scalars(folder, name):
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_every_log_becomes_a_run(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "events"
    cell = "work/toy/main/laptop/good/a/seed-1/train"
    write_log(runs / cell, [2.0, 1.0, 0.5])
    write_log(runs / "stages/pretraining-12ab", [3.0])
    assert write_events(runs, out) == [out / cell, out / "stages/pretraining-12ab"]
    assert scalars(out / cell, "loss") == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert scalars(out / cell, "lr") == [(step, pytest.approx(0.1)) for step in (1, 2, 3)]
    assert scalars(out / "stages/pretraining-12ab", "loss") == [(1, 3.0)]


def test_only_what_has_grown_is_written_again(tmp_path):

    runs, out = tmp_path / "runs", tmp_path / "events"
    write_log(runs / "work/a", [1.0])
    write_log(runs / "work/b", [1.0])
    write_events(runs, out)
    assert write_events(runs, out) == []
    write_log(runs / "work/b", [1.0, 0.5])
    later = (out / "work/b").stat().st_mtime + 10
    os.utime(runs / "work/b/log.jsonl", (later, later))
    assert write_events(runs, out) == [out / "work/b"]
    assert scalars(out / "work/b", "loss") == [(1, 1.0), (2, 0.5)]
