"""Estimates, intervals and tests. The unit of replication is the seed; with fewer than three, the episodes of it.

Scores come as one array a seed: `[array([s_1 .. s_n]), ...]`, in the table's unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ScoresBySeed = Sequence[NDArray[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """A mean with what is known of its error.

    Attributes:
        mean: mean over the seeds of the means over their units.
        standard_error: of that mean.
        df: degrees of freedom of the t distribution it is judged by.
        basis: what the error was estimated from.
    """

    mean: float
    standard_error: float
    df: int
    n_seeds: int
    basis: str

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence interval at `level`."""
        half = float(stats.t.ppf(0.5 + level / 2, self.df)) * self.standard_error
        return self.mean - half, self.mean + half

    def p_greater(self, threshold: float) -> float:
        """One-sided p-value against "the true mean is at most `threshold`"."""
        if self.standard_error == 0:
            return 0.0 if self.mean > threshold else 1.0
        return float(stats.t.sf((self.mean - threshold) / self.standard_error, self.df))

    def p_less(self, threshold: float) -> float:
        """One-sided p-value against "the true mean is at least `threshold`"."""
        if self.standard_error == 0:
            return 0.0 if self.mean < threshold else 1.0
        return float(stats.t.cdf((self.mean - threshold) / self.standard_error, self.df))

    def p_within(self, low: float, high: float) -> float:
        """Two one-sided tests (Schuirmann 1987): p-value against "the true mean lies outside low..high"."""
        return max(self.p_greater(low), self.p_less(high))


def estimate(scores: ScoresBySeed) -> Estimate:
    """Mean and standard error over seeds; over the pooled units where there are fewer than three seeds.

    Raises:
        ValueError: no seeds, or a single number in all.
    """
    if not scores or sum(len(values) for values in scores) < 2:
        raise ValueError("expected the scores of at least one seed and at least two scores in all")
    means = np.array([np.mean(values) for values in scores])
    seeds = len(means)
    if seeds >= 3:
        error = float(np.std(means, ddof=1)) / math.sqrt(seeds)
        return Estimate(float(means.mean()), error, seeds - 1, seeds, f"{seeds} seeds")
    deviations = np.concatenate([values - values.mean() for values in scores])
    df = len(deviations) - seeds
    if df < 1:
        df, deviations = 1, np.concatenate(list(scores)) - means.mean()
    variance = float(np.sum(deviations**2)) / df
    error = math.sqrt(sum(variance / len(values) for values in scores)) / seeds
    return Estimate(float(means.mean()), error, df, seeds, f"the units of {seeds} seed{'s' if seeds > 1 else ''}")


def paired_difference(left: ScoresBySeed, right: ScoresBySeed) -> Estimate:
    """Estimate of left - right over the same units of the same seeds.

    Raises:
        ValueError: the two do not have the same seeds or units.
    """
    shapes = [len(values) for values in left], [len(values) for values in right]
    if shapes[0] != shapes[1]:
        raise ValueError(f"cannot be paired: units per seed are {shapes[0]} and {shapes[1]}")
    return estimate([one - other for one, other in zip(left, right, strict=True)])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: rejecting those <= a keeps the family-wise error <= a."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def seeds_needed(found: Estimate, threshold: float, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """How many seeds in all would decide on which side of `threshold` the mean lies, were it what was found.

    None where no reasonable number (1,000) would, or where a single seed leaves the spread over seeds unknown.
    """
    gap = abs(found.mean - threshold)
    if found.n_seeds < 3 or gap == 0:
        return None
    spread = found.standard_error * math.sqrt(found.n_seeds)
    for seeds in range(max(3, found.n_seeds + 1), 1001):
        needed = stats.t.ppf(1 - alpha, seeds - 1) + stats.t.ppf(power, seeds - 1)
        if needed * spread / math.sqrt(seeds) <= gap:
            return seeds
    return None
