from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from toy_checkout import TABLE, write_table

from sextet_bench.record import Identity
from sextet_bench.tables import read_table
from sextet_bench.verdict import judge

RUNS = 1500
# the errors that a rate of 5% gives in so many tables, but for one time in 10,000
ALLOWED = stats.binom.ppf(1 - 1e-4, RUNS, 0.05)


def record(cell, seed, scores, **changes):
    values = np.asarray(scores, dtype=float)
    base = {"cell": cell, "seed": seed, "n": len(values), "values": values, "config": {}, "config_hash": "c",
            "data": {}, "sources": {}}  # fmt: skip
    return SimpleNamespace(**{**base, **changes})


def records(table, good, bad, units=30, spread=0.1):
    """Paired records of both cells: the same noise a seed, so that the difference is exact."""
    found = {}
    for seed in table.profile("laptop").seeds:
        noise = np.random.default_rng(seed).normal(size=units)
        noise = spread * (noise - noise.mean()) + 0.01 * seed
        for cell, mean in (("good/a", good), ("bad/a", bad)):
            found[cell, seed] = record(cell, seed, mean + noise)
    return found


@pytest.fixture
def table(tmp_path):
    return read_table(write_table(tmp_path, TABLE))


def words(result):
    return [cell.verdict.word for cell in result.cells], [claim.verdict.word for claim in result.claims]


def test_worked_example(table):
    result = judge(table, "laptop", records(table, good=3.5, bad=5.0), {}, {})
    assert words(result) == (["reproduced", "below"], ["does not hold"])
    assert result.claims[0].verdict.estimate.mean == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("mean", "word"),
    [(3.0, "reproduced"), (4.5, "reproduced"), (9.0, "above"), (-3.0, "below"), (4.98, "inconclusive")],
)
def test_three_regions_of_a_number(table, mean, word):
    result = judge(table, "laptop", records(table, good=mean, bad=0.0), {}, {})
    assert result.cells[0].verdict.word == word


@pytest.mark.parametrize(("effect", "word"), [(3.0, "holds"), (-3.0, "does not hold"), (1.0, "inconclusive")])
def test_a_claim_is_judged_at_its_threshold(table, effect, word):
    found = records(table, good=3.0, bad=3.0 - effect)
    jittered = {key: record(*key, r.values + (0.02 * key[1] - 0.04) * (key[0] == "good/a")) for key, r in found.items()}
    assert judge(table, "laptop", jittered, {}, {}).claims[0].verdict.word == word


def test_lower_is_better_turns_the_sign(table):
    table = replace(table, higher_is_better=False)
    result = judge(table, "laptop", records(table, good=0.0, bad=3.0), {}, {})
    assert result.claims[0].verdict.word == "holds"
    assert result.claims[0].verdict.estimate.mean == pytest.approx(3.0)


def test_equality_claims(table):
    claim = replace(table.claims[0], kind="equal", by=0.5)
    table = replace(table, claims=(claim,))
    for effect, word in ((0.1, "holds"), (-0.1, "holds"), (2.0, "does not hold"), (-2.0, "does not hold")):
        result = judge(table, "laptop", records(table, good=3.0 + effect, bad=3.0), {}, {})
        assert result.claims[0].verdict.word == word


def test_numbers_of_another_profile_or_none_are_only_measured(table):
    numbers = replace(table.numbers, profiles=("paper",))
    result = judge(replace(table, numbers=numbers), "laptop", records(table, 3.0, 0.0), {}, {})
    assert [cell.verdict.word for cell in result.cells] == ["measured", "measured"]


def test_missing_runs_say_why_and_what_they_would_cost(table):
    result = judge(table, "laptop", {}, {}, {"good/a": "data missing: cifar"})
    assert words(result) == (["not run", "not run"], ["not run"])
    assert "data missing: cifar; about 0.00083 h for 3 seeds" in result.cells[0].verdict.note


def test_one_seed_is_judged_by_its_units(table):
    found = {key: value for key, value in records(table, 3.0, 0.0).items() if key[1] == 1}
    verdict = judge(table, "laptop", found, {}, {}).cells[0].verdict
    assert verdict.word == "reproduced"
    assert verdict.estimate.basis == "the units of 1 seed"


def test_claims_pair_only_seeds_that_both_cells_have(table):
    found = records(table, 3.0, 0.0)
    del found["bad/a", 2]
    assert judge(table, "laptop", found, {}, {}).claims[0].verdict.estimate.n_seeds == 2


def test_changed_foundations_make_numbers_and_claims_stale(table):
    found = records(table, good=3.0, bad=0.0)
    identity = Identity("toy", {}, {"mnist": "new"}, {"toy": "2"})
    result = judge(table, "laptop", found, {"good/a": identity}, {})
    assert result.cells[0].verdict.word == "stale"
    assert "was: reproduced" in result.cells[0].verdict.note
    assert "source: toy" in result.cells[0].verdict.note
    assert "data: mnist" in result.cells[0].verdict.note
    assert (result.cells[1].verdict.word, result.claims[0].verdict.word) == ("below", "stale")


def test_holm_over_the_claims_of_a_table(table):
    found = records(table, good=3.0, bad=0.0)
    single = judge(table, "laptop", found, {}, {}).claims[0].verdict.p
    many = replace(table, claims=tuple(replace(table.claims[0], id=str(number)) for number in range(10)))
    assert judge(many, "laptop", found, {}, {}).claims[0].verdict.p == pytest.approx(min(1.0, 10 * single))


def simulated(rng, seeds, means, *, shared=1.0, between=0.3, within=0.5, units=6):
    """Records of a cell for each mean: `shared` noise of the units, then what seeds and units have of their own."""
    found = {}
    for seed in seeds:
        noise = shared * rng.normal(size=units)
        for cell, mean in means.items():
            own = between * rng.normal() + within * rng.normal(size=units)
            found[cell, seed] = record(cell, seed, mean + noise + own)
    return found


def test_a_table_rarely_says_that_a_claim_holds_at_its_threshold_or_fails_there(table, monkeypatch):
    """Three claims whose effects are as large as their thresholds: in at most 5% of tables does any of them hold, after
    Holm, and in at most 5% is any denied."""
    # How many seeds would settle a claim takes most of the time and does not matter here
    monkeypatch.setattr("sextet_bench.verdict.seeds_needed", lambda *_, **__: None)
    pairs = {"more": ("greater", 1.0, 1.0), "same": ("equal", 0.5, 0.5), "same-below": ("equal", 0.5, -0.5)}
    claims = [
        replace(table.claims[0], id=name, left=f"{name}-left/a", right=f"{name}-right/a", kind=kind, by=by)
        for name, (kind, by, _) in pairs.items()
    ]
    rows = [replace(table.rows[0], id=f"{name}-{side}") for name in pairs for side in ("left", "right")]
    table = replace(table, rows=tuple(rows), claims=tuple(claims), numbers=None)
    means = {cell.id: 0.0 for cell in table.cells} | {
        f"{name}-left/a": effect for name, (_, _, effect) in pairs.items()
    }
    rng, seeds = np.random.default_rng(0), table.profile("laptop").seeds
    said = [words(judge(table, "laptop", simulated(rng, seeds, means), {}, {}))[1] for _ in range(RUNS)]
    for word in ("holds", "does not hold"):
        wrong = sum(word in each for each in said)
        assert 0 < wrong <= ALLOWED, (word, wrong)


def test_numbers_at_the_edge_of_their_margin_are_rarely_told_to_be_inside_or_outside(table):
    reference, margin = table.cells[0].reference, table.numbers.margin
    edges = {"high/a": reference + margin, "low/a": reference - margin}
    table = replace(table, rows=tuple(replace(table.rows[0], id=name) for name in ("high", "low")), claims=())
    rng, seeds = np.random.default_rng(1), table.profile("laptop").seeds
    said = [words(judge(table, "laptop", simulated(rng, seeds, edges), {}, {}))[0] for _ in range(RUNS)]
    inside = sum("reproduced" in each for each in said)
    outside = sum(each[0] == "above" or each[1] == "below" for each in said)
    assert 0 < inside <= ALLOWED, inside
    assert 0 < outside <= ALLOWED, outside
    assert not any(each[0] == "below" or each[1] == "above" for each in said)


def test_clear_effects_are_found_in_most_tables(table):
    """Simulations in which nothing was ever decided would keep every error rate."""
    rng, seeds = np.random.default_rng(2), table.profile("laptop").seeds
    means = {"good/a": 9.0, "bad/a": 0.0}
    said = [words(judge(table, "laptop", simulated(rng, seeds, means), {}, {}))[1] for _ in range(RUNS // 5)]
    assert said.count(["holds"]) > 0.9 * len(said)
