"""Splits that are drawn because the official ones are not used (6.2): VGG Flower and Traffic Signs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Rows = tuple[np.ndarray, np.ndarray]
"""Rows to train on and rows to test on, int64, in the order of the published datasets."""


def class_splits(counts: Sequence[int], seed: int = 42) -> list[Rows]:
    """For each class, which of its `count` items train (80 %) and which test; one generator for all, in order."""
    generator = np.random.RandomState(seed)
    splits = []
    for count in counts:
        order = np.arange(count)
        generator.shuffle(order)
        cut = int(0.8 * count)
        splits.append((order[:cut], order[cut:]))
    return splits


def first_seen(labels: Sequence[int]) -> list[int]:
    """The classes in order of their first appearance."""
    return list(dict.fromkeys(labels))


def split_by_class(labels: np.ndarray, classes: Sequence[int]) -> Rows:
    """80 % of each class's rows to train, the rest to test; classes draw from one generator, in the order given.

    Traffic Signs goes by number, `range(43)`, its files sorted by name; VGG Flower by `first_seen`.

    Args:
        labels: [n], int64.
        classes: those that occur.
    """
    members = [np.flatnonzero(labels == label) for label in classes]
    parts = [
        (rows[train], rows[test])
        for rows, (train, test) in zip(members, class_splits([len(rows) for rows in members]), strict=True)
    ]
    train, test = (np.concatenate(part) for part in zip(*parts, strict=True))
    return train, test
