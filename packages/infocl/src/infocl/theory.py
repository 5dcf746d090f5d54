"""Information of small discrete distributions, exactly, in nats (section 8).

A joint distribution is a table p[v1, v2, T]; a representation is a partition of the values of v1, one label each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def entropy(table: np.ndarray) -> float:
    """H of a table of probabilities."""
    positive = table[table > 0]
    return float(-(positive * np.log(positive)).sum())


def joint_entropy(table: np.ndarray, axes: Sequence[int]) -> float:
    """H of some variables of a joint table."""
    others = tuple(axis for axis in range(table.ndim) if axis not in axes)
    return entropy(table.sum(axis=others))


def mutual_information(table: np.ndarray, a: int, b: int, given: int | None = None) -> float:
    """I(a; b), or I(a; b | given), of variables named by their axes."""
    c = [] if given is None else [given]
    h = [joint_entropy(table, axes) for axes in ([a, *c], [b, *c], [a, b, *c])]
    return h[0] + h[1] - h[2] - (joint_entropy(table, c) if c else 0.0)


def co_information(table: np.ndarray, a: int, b: int, c: int) -> float:
    """I(a; b; c) = I(a; b) - I(a; b | c); may be negative."""
    return mutual_information(table, a, b) - mutual_information(table, a, b, given=c)


def with_representation(table: np.ndarray, partition: Sequence[int]) -> np.ndarray:
    """p[z, v1, v2, T] for z = partition[v1].

    Raises:
        ValueError: another number of labels than v1 has values, or no distribution.
    """
    labels = np.asarray(partition)
    if table.ndim != 3 or labels.shape != (table.shape[0],):
        raise ValueError(f"partition: expected a label for each of {table.shape[0]} values, got {labels.shape}")
    if table.min() < 0 or abs(table.sum() - 1) > 1e-9:
        raise ValueError("table: expected probabilities that add up to 1")
    indicator = (labels[None] == np.unique(labels)[:, None]).astype(table.dtype)
    return indicator[:, :, None, None] * table


def minimal_sufficient(table: np.ndarray, tolerance: float = 1e-9) -> list[int]:
    """The partition of v1 by equal p(v2 | v1)."""
    joint = table.sum(axis=2)
    conditional = joint / joint.sum(axis=1, keepdims=True)
    labels: list[int] = []
    kinds: list[np.ndarray] = []
    for row in conditional:
        same = next((number for number, kind in enumerate(kinds) if np.abs(kind - row).max() <= tolerance), len(kinds))
        if same == len(kinds):
            kinds.append(row)
        labels.append(same)
    return labels


def bayes_error(table: np.ndarray) -> float:
    """The least error in guessing T from z: 1 - sum_z max_t p(z, t), for a table p[z, v1, v2, T]."""
    return float(1 - table.sum(axis=(1, 2)).max(axis=1).sum())


def error_bound(conditional_entropy: float, classes: int | None = None) -> float:
    """1 - exp(-H(T | z)), at most 1 - 1 / classes where they are told (Theorem 2)."""
    bound = 1 - float(np.exp(-conditional_entropy))
    return bound if classes is None else min(max(bound, 0.0), 1 - 1 / classes)
