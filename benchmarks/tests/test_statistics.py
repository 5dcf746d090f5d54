from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sextet_bench.statistics import Estimate, estimate, holm, paired_difference, seeds_needed

RUNS = 4000
# how often a rate of 5%, and one of 95%, is seen in so many simulations, but for one time in 10,000
ALLOWED = stats.binom.ppf(1 - 1e-4, RUNS, 0.05) / RUNS
COVERED = [rate / RUNS for rate in stats.binom.ppf([0.5e-4, 1 - 0.5e-4], RUNS, 0.95)]


def simulated(rng, seeds, units, mean=0.0, between=1.0, within=2.0):
    return [mean + between * rng.normal() + within * rng.normal(size=units) for _ in range(seeds)]


def test_worked_example():
    found = estimate([np.array([1.0, 3.0]), np.array([3.0, 5.0]), np.array([5.0, 7.0])])
    assert (found.mean, found.df, found.n_seeds) == (4.0, 2, 3)
    assert found.standard_error == pytest.approx(2 / math.sqrt(3))
    assert found.interval() == pytest.approx((4 - 4.302652 * 2 / math.sqrt(3), 4 + 4.302652 * 2 / math.sqrt(3)))


def test_agrees_with_scipy_on_one_seed_and_on_pairs():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=200), rng.normal(size=200)
    reference = stats.ttest_rel(one, other)
    found = paired_difference([one], [other])
    assert found.df == 199
    assert 2 * min(found.p_greater(0), found.p_less(0)) == pytest.approx(reference.pvalue)
    assert found.interval() == pytest.approx(tuple(reference.confidence_interval(0.95)))


@pytest.mark.parametrize("seeds", [3, 5])
def test_interval_covers_95_percent_over_seeds(seeds):
    rng = np.random.default_rng(seeds)
    covered = 0
    for _ in range(RUNS):
        low, high = estimate(simulated(rng, seeds, units=20, mean=7.0)).interval()
        covered += low <= 7.0 <= high
    assert COVERED[0] <= covered / RUNS <= COVERED[1]


@pytest.mark.parametrize("seeds", [1, 2])
def test_interval_covers_95_percent_over_units(seeds):
    rng = np.random.default_rng(10 + seeds)
    covered = 0
    for _ in range(RUNS):
        low, high = estimate(simulated(rng, seeds, units=40, mean=7.0, between=0.0)).interval()
        covered += low <= 7.0 <= high
    assert COVERED[0] <= covered / RUNS <= COVERED[1]


@pytest.mark.parametrize("truth", [-1.0, 1.0, 1.5])
def test_equivalence_is_wrongly_found_in_at_most_5_percent(truth):
    rng = np.random.default_rng(3)
    found = sum(estimate(simulated(rng, 5, 10, mean=truth, between=0.3)).p_within(-1, 1) <= 0.05 for _ in range(RUNS))
    assert found / RUNS <= ALLOWED


def test_equivalence_has_power_inside_the_margin():
    rng = np.random.default_rng(4)
    found = sum(estimate(simulated(rng, 5, 10, between=0.3)).p_within(-1, 1) <= 0.05 for _ in range(RUNS))
    assert found / RUNS > 0.5


def test_holm_keeps_the_family_wise_error():
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(RUNS):
        p_values = [estimate(simulated(rng, 5, 5)).p_greater(0.0) for _ in range(4)]
        wrong += min(holm(p_values)) <= 0.05
    assert wrong / RUNS <= ALLOWED


def test_holm_worked_example():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_equals_its_definition(p_values):
    ordered = sorted(p_values)
    count = len(p_values)
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        rank = ordered.index(p)
        terms = [min(1.0, (count - earlier) * ordered[earlier]) for earlier in range(rank + 1)]
        ties = [min(1.0, (count - other) * ordered[other]) for other in range(count) if ordered[other] == p]
        assert max(terms) <= adjusted <= max(terms + ties)


def test_seeds_needed_is_enough_and_one_less_is_not():
    found = Estimate(mean=1.0, standard_error=1.0, df=3, n_seeds=4, basis="")
    needed = seeds_needed(found, threshold=0.0)
    spread = found.standard_error * math.sqrt(found.n_seeds)

    def power(seeds):
        critical = stats.t.ppf(0.95, seeds - 1)
        return stats.nct.sf(critical, seeds - 1, 1.0 / (spread / math.sqrt(seeds)))

    assert needed is not None
    assert power(needed) > 0.77
    assert power(needed - 3) < 0.8


def test_two_seeds_of_one_number_each_have_one_degree_of_freedom():
    found = estimate([np.array([0.5]), np.array([0.7])])
    assert (found.mean, found.df, found.n_seeds) == (pytest.approx(0.6), 1, 2)
    assert found.standard_error == pytest.approx(0.1)  # variance 0.02 of each, that of the mean of two 0.01


def test_one_degree_of_freedom_within_seeds_is_used():
    found = estimate([np.array([0.0, 1.0]), np.array([2.0])])
    assert (found.mean, found.df) == (1.25, 1)
    assert found.standard_error == pytest.approx(math.sqrt(0.5 / 2 + 0.5) / 2)  # the variance within is 0.5


@pytest.mark.parametrize("seeds", [3, 7])
def test_seeds_needed_by_the_tables_of_t(seeds):
    """Gap and spread of 1: sqrt(n) must reach t(0.95, n - 1) + t(0.8, n - 1), which is 2.85 for n = 7, 2.79 for 8."""
    found = Estimate(mean=1.0, standard_error=1 / math.sqrt(seeds), df=seeds - 1, n_seeds=seeds, basis="")
    assert seeds_needed(found, threshold=0.0) == 8


def test_seeds_needed_at_the_very_gap_that_so_many_decide():
    for seeds in (4, 9, 30):
        gap = (stats.t.ppf(0.95, seeds - 1) + stats.t.ppf(0.8, seeds - 1)) / math.sqrt(seeds)
        found = Estimate(mean=0.0, standard_error=1 / math.sqrt(3), df=2, n_seeds=3, basis="")
        assert seeds_needed(found, threshold=gap + 1e-9) == seeds
        assert seeds_needed(found, threshold=1e-9 - gap) == seeds + 1


def test_seeds_needed_where_nothing_helps():
    assert seeds_needed(Estimate(0.0, 1.0, 4, 5, ""), 0.0) is None
    assert seeds_needed(Estimate(1e-6, 1.0, 4, 5, ""), 0.0) is None
    assert seeds_needed(Estimate(1.0, 1.0, 99, 1, ""), 0.0) is None


def test_without_spread_the_mean_decides():
    found = estimate([np.array([2.0, 2.0])] * 3)
    assert (found.p_greater(1.0), found.p_greater(2.0), found.p_within(1, 3)) == (0.0, 1.0, 0.0)


def test_bad_input():
    with pytest.raises(ValueError, match="at least one seed"):
        estimate([])
    with pytest.raises(ValueError, match="two scores"):
        estimate([np.array([1.0])])
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([np.zeros(3)], [np.zeros(4)])
