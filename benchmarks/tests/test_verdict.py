from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from toy_checkout import TABLE, write_table

from sextet_bench.record import Identity
from sextet_bench.tables import read_table
from sextet_bench.verdict import judge


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
