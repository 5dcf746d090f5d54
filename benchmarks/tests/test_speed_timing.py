"""The statistics and meters of the side-by-side benchmarks."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def load_timing() -> ModuleType:
    path = Path(__file__).parents[1] / "speed" / "timing.py"
    spec = importlib.util.spec_from_file_location("speed_timing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


timing = load_timing()
MIB = 2**20


def test_worked_example():
    times = timing.PairedTimes(ours=(1.0, 2.0, 1.0), theirs=(3.0, 4.0, 10.0))
    assert times.ratios == (3.0, 2.0, 10.0)
    found = timing.median_ratio(times.ratios)
    # Of 27 resamples 7 have the median 2 and 7 the median 10: both far above 2.5%
    assert (found.median, found.low, found.high) == (3.0, 2.0, 10.0)


def test_equal_ratios_leave_no_doubt():
    found = timing.median_ratio([1.5] * 10)
    assert (found.median, found.low, found.high) == (1.5, 1.5, 1.5)


def test_interval_covers_the_median_95_percent_of_the_time():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        found = timing.median_ratio(np.exp(rng.normal(np.log(5), 0.2, size=21)))
        covered += found.low <= 5 <= found.high
    # Three standard errors of a rate of 95% over 300 simulations are 3.8 points; the bootstrap of a median is a bit off
    assert covered / 300 == pytest.approx(0.95, abs=0.045)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=15), st.floats(0.1, 10))
def test_interval_holds_the_median_and_scales(ratios, factor):
    found = timing.median_ratio(ratios)
    assert min(ratios) <= found.low <= found.median <= found.high <= max(ratios)
    scaled = timing.median_ratio([factor * ratio for ratio in ratios])
    assert scaled.low == pytest.approx(factor * found.low)
    assert scaled.high == pytest.approx(factor * found.high)
    assert found == timing.median_ratio(ratios)


def test_pairs_take_turns(monkeypatch):
    """With a clock that only the functions move, ratios are exact and each side goes first in every other pair."""
    now, order = [0.0], []

    def running(name, seconds):
        def call():
            now[0] += seconds
            order.append(name)

        return call

    monkeypatch.setattr(timing.time, "process_time", lambda: now[0])
    times = timing.interleaved(running("ours", 1.0), running("theirs", 3.0), pairs=10, warm_up=1)
    assert times.ratios == pytest.approx([3.0] * 10)
    # Before the pairs: one call each to warm up, one to see how long it takes
    assert order[:4] == ["ours", "ours", "theirs", "theirs"]
    assert order[4:] == ["ours", "theirs", "theirs", "ours"] * 5


def test_short_functions_are_repeated(monkeypatch):
    now, calls = [0.0], [0]

    def call():
        now[0] += 0.001
        calls[0] += 1

    monkeypatch.setattr(timing.time, "process_time", lambda: now[0])
    times = timing.interleaved(call, call, pairs=10, least_seconds=0.02, warm_up=0)
    assert calls[0] == 2 + 2 * 10 * 20
    assert times.ours == pytest.approx([0.001] * 10)


def test_wall_clock_counts_waiting_and_the_other_does_not():
    def wait():
        time.sleep(0.002)

    wall, cpu = (timing.interleaved(wait, wait, pairs=10, clock=clock, least_seconds=0) for clock in ("wall", "cpu"))
    assert min(wall.ours) >= 0.002
    assert np.median(cpu.ours) < 0.001


def test_peak_memory_is_the_most_at_once():
    def together_then_less():
        one, other = torch.zeros(MIB), torch.zeros(MIB)  # 4 MiB each
        del one, other
        return torch.zeros(MIB // 2)

    assert timing.peak_memory(together_then_less) == 8 * MIB
    kept = torch.zeros(MIB)
    assert timing.peak_memory(lambda: kept + kept) == 4 * MIB
    assert timing.peak_memory(lambda: kept.add_(kept)) == 0


def test_relative_error_is_the_worst_over_tensors():
    expected = [torch.tensor([1.0, 10.0]), torch.tensor([100.0])]
    assert timing.relative_error(expected, expected) == 0
    found = [torch.tensor([2.0, 10.0]), torch.tensor([101.0])]
    assert timing.relative_error(found, expected) == pytest.approx(0.1)
    assert timing.relative_error([torch.tensor([torch.nan, 1.0])], [torch.ones(2)]) == float("inf")


def test_result_file(tmp_path):
    surroundings = timing.environment(clock="cpu")
    timing.write_json(tmp_path / "new" / "out.json", {"environment": surroundings})
    assert json.loads((tmp_path / "new" / "out.json").read_text())["environment"]["threads"] == torch.get_num_threads()


def test_bad_input():
    with pytest.raises(ValueError, match="pairs: expected at least 10, got 9"):
        timing.interleaved(lambda: None, lambda: None, pairs=9)
    for ratios in ([], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="ratios: expected positive finite numbers"):
            timing.median_ratio(ratios)


@pytest.mark.parametrize(
    ("ratio", "target", "words"),
    [
        ((1.9, 2.0, 2.1), 1.5, "met (>= 1.5x)"),
        ((1.4, 2.0, 2.1), 1.5, "met (>= 1.5x), not sure"),
        ((1.1, 1.2, 1.3), 1.5, "NOT MET (>= 1.5x)"),
        ((1.1, 1.2, 1.6), 1.5, "NOT MET (>= 1.5x), not sure"),
        ((1.5, 1.5, 1.5), 1.5, "met (>= 1.5x)"),
        ((1.0, 1.1, 1.2), 1 / 0.9, "NOT MET (>= 1.11x), not sure"),
    ],
)
def test_a_target_is_judged_by_the_median_and_its_interval(ratio, target, words):
    low, median, high = ratio
    assert timing.judge(timing.Ratio(median, low, high), target) == words


def test_results_are_written_with_paths_as_text(tmp_path):
    timing.write_results(None, {"out": None}, {}, [])
    path = tmp_path / "new" / "a.json"
    timing.write_results(path, {"out": path, "pairs": 10}, {"torch": "2"}, [{"name": "a"}])
    assert json.loads(path.read_text()) == {
        "arguments": {"out": str(path), "pairs": 10}, "environment": {"torch": "2"}, "results": [{"name": "a"}],
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [path.parent]


def test_beginning_fixes_the_threads_and_says_where_it_runs(capsys):
    before = torch.get_num_threads()
    try:
        surroundings = timing.begin(threads=1, clock="cpu")
        assert (torch.get_num_threads(), surroundings["threads"], surroundings["clock"]) == (1, 1, "cpu")
        assert "threads: 1" in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)
