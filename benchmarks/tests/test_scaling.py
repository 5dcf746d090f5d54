"""The exponents of `benchmarks/speed/scaling.py`: the fit, its verdict, the record."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sextet_bench.speed_report import read_speeds

ROOT = Path(__file__).parents[2]


def load_scaling() -> ModuleType:
    # The benchmarks run from the root of the checkout, which tests need not do
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("benchmarks.speed.scaling")
    finally:
        sys.path.remove(str(ROOT))


scaling = load_scaling()
SIZES = (16, 32, 64, 128, 256)


def made(exponent, *, factor=1e-3, noise=0.0, repeats=7, seed=0):
    """Costs [sizes, repeats] of a power law with log-normal noise."""
    noises = np.random.default_rng(seed).normal(0, noise, (len(SIZES), repeats))
    return factor * np.array(SIZES)[:, None] ** float(exponent) * np.exp(noises)


def test_worked_example():
    """By hand: ln cost 0, 1, 5 at ln size 0, 1, 2 has the slope (5 - 0) / 2."""
    found = scaling.fit_exponent((1, np.e, np.e**2), np.exp([[0.0], [1.0], [5.0]]))
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5, 2.5))


@settings(max_examples=30, deadline=None)
@given(st.floats(-1, 3), st.floats(1e-6, 1e3))
def test_a_power_law_without_noise_is_found_exactly(exponent, factor):
    found = scaling.fit_exponent(SIZES, made(exponent, factor=factor))
    assert (found.value, found.low, found.high) == pytest.approx((exponent,) * 3, abs=1e-9)


def test_interval_covers_the_exponent():
    """Medians of seven give a percentile interval that is too short, not one that is off: 200 laws at 10 % of noise."""
    covered = 0
    for seed in range(200):
        found = scaling.fit_exponent(SIZES, made(2, noise=0.1, repeats=15, seed=seed))
        assert found.value == pytest.approx(2, abs=0.1)
        covered += found.low <= 2 <= found.high
    # Four standard errors of a rate of 95 % over 200 laws are 6 points; the bootstrap of a median is a bit off
    assert covered / 200 >= 0.87


def test_an_offset_is_subtracted_where_it_is_known_and_hides_growth_where_it_is_not():
    growing, offset = made(1, noise=0.02), np.full(7, 0.5)
    assert scaling.fit_exponent(SIZES, growing + offset, offset).value == pytest.approx(1, abs=0.05)
    assert scaling.fit_exponent(SIZES, growing + offset).value < 0.2


def test_an_outlier_among_repetitions_does_not_move_the_exponent():
    costs = made(1)
    costs[-1, 0] *= 100
    assert scaling.fit_exponent(SIZES, costs).value == pytest.approx(1)


def test_the_fit_is_seeded():
    costs = made(1, noise=0.1)
    assert scaling.fit_exponent(SIZES, costs) == scaling.fit_exponent(SIZES, costs)
    assert scaling.fit_exponent(SIZES, costs) != scaling.fit_exponent(SIZES, costs, seed=1)


@pytest.mark.parametrize(
    ("found", "expected", "words"),
    [
        ((1.0, 0.9, 1.1), (1, 1), "met (1 +- 0.15)"),
        ((1.1, 1.0, 1.2), (1, 1), "met (1 +- 0.15), not sure"),
        ((0.8, 0.7, 0.84), (1, 1), "NOT MET (1 +- 0.15)"),
        ((0.8, 0.7, 0.9), (1, 1), "NOT MET (1 +- 0.15), not sure"),
        ((2.6, 2.5, 2.7), (2, 3), "met (2 to 3 +- 0.15)"),
        ((-0.3, -0.4, -0.2), (0, 1), "NOT MET (0 to 1 +- 0.15)"),
    ],
)
def test_verdict(found, expected, words):
    assert scaling.judge(scaling.Exponent(*found), expected, 0.15) == words


def test_sizes_take_turns(monkeypatch):
    now, order = [0.0], []

    def running(name, seconds):
        def call():
            now[0] += seconds
            order.append(name)

        return call

    monkeypatch.setattr(scaling.time, "process_time", lambda: now[0])
    costs = scaling.sample_seconds([running("small", 0.004), running("large", 0.02)], 3, 0.008)
    assert costs == pytest.approx(np.array([[0.004] * 3, [0.02] * 3]))
    # Each once to warm up and once to see how long it takes; then in turn, the short one twice
    assert order == ["small"] * 2 + ["large"] * 2 + ["small", "small", "large"] * 3


def test_the_increment_is_fitted():
    """A case with an offset is measured there as well, and that cost is subtracted."""
    ran = []
    case = scaling.Case("a", "T", (1, 2, 4), lambda size: lambda: ran.append(size), "made", (1, 1), offset=0)
    costs, offset = np.array([[11.0, 11.0], [12.0, 12.0], [14.0, 14.0]]), np.array([10.0, 10.0])
    row = scaling.row(case, "CPU time", case.sizes, costs, offset)
    assert (row["ours"], row["offset"], row["verdict"]) == (pytest.approx(1), 10.0, "met (1 +- 0.15)")
    with pytest.raises(ValueError, match="costs: expected finite medians above the offset"):
        scaling.row(case, "CPU time", case.sizes, costs, offset + 5)
    assert ran == []


@pytest.mark.slow
def test_a_quick_run_writes_a_record_that_the_report_reads(tmp_path):
    path = tmp_path / "scaling.json"
    words = [sys.executable, "-m", "benchmarks.speed.scaling", "--quick", "--only", "sextet.episodes, batch"]
    subprocess.run([*words, "--out", str(path)], cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    rows = json.loads(path.read_text())["results"]
    assert len(rows) == 2
    wanted = {"name", "setting", "ours", "unit", "low", "high", "upper_half", "expected", "tolerance", "sizes"}
    assert all(set(row) == wanted | {"medians", "offset", "costs_in", "verdict"} for row in rows)
    assert all(len(row["sizes"]) == len(row["medians"]) == 2 and min(row["medians"]) > 0 for row in rows)
    assert [(item.name, item.verdict, item.ours) for item in read_speeds(tmp_path)] == [
        (row["name"], row["verdict"], row["ours"]) for row in rows
    ]


@pytest.mark.slow
def test_every_ladder_is_geometric_and_has_four_sizes_or_more():
    cases = importlib.import_module("benchmarks.speed.scaling_cases").cases
    for case in cases():
        ratios = np.array(case.sizes[1:]) / case.sizes[:-1]
        assert len(case.sizes) >= 4
        assert (ratios >= 1.3).all(), case
        assert case.time or case.memory


@pytest.mark.parametrize(
    ("sizes", "costs", "words"),
    [
        ((1,), [[1.0]], "expected n >= 2 sizes"),
        ((1, 2), [[1.0]], "expected n >= 2 sizes"),
        ((0, 2), [[1.0], [1.0]], "expected n >= 2 sizes"),
        ((1, 2), [1.0, 1.0], "expected n >= 2 sizes"),
        ((1, 2), [[0.0], [1.0]], "expected finite medians"),
        ((1, 2), [[1.0], [np.nan]], "expected finite medians"),
    ],
)
def test_bad_input(sizes, costs, words):
    with pytest.raises(ValueError, match=words):
        scaling.fit_exponent(sizes, np.array(costs))


def test_unknown_cases_are_named():
    with pytest.raises(ValueError, match=r"only: no case has 'nothing' in its name; \["):
        scaling.main(scaling.Arguments(only="nothing"))
    with pytest.raises(ValueError, match="repeats: expected at least 2, got 1"):
        scaling.main(scaling.Arguments(repeats=1))
