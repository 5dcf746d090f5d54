"""Splits that are drawn (6.2)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from infocl.splits import class_splits, first_seen, split_by_class


def test_eighty_per_cent_of_each_class():
    splits = class_splits([10, 7, 1])
    assert [len(train) for train, _ in splits] == [8, 5, 0]
    for count, (train, test) in zip((10, 7, 1), splits, strict=True):
        assert sorted([*train, *test]) == list(range(count))


def test_classes_draw_from_one_generator_in_the_order_given():
    labels = np.array([3, 1, 1, 3, 3, 1, 3, 1, 3, 1])
    assert first_seen(labels.tolist()) == [3, 1]
    generator = np.random.RandomState(42)
    threes, ones = (generator.permutation(5) for _ in range(2))
    train, test = split_by_class(labels, [3, 1])
    assert train.tolist() == [*np.flatnonzero(labels == 3)[threes[:4]], *np.flatnonzero(labels == 1)[ones[:4]]]
    assert test.tolist() == [np.flatnonzero(labels == 3)[threes[4]], np.flatnonzero(labels == 1)[ones[4]]]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_every_row_is_on_one_side(values):
    labels = np.array(values)
    train, test = split_by_class(labels, first_seen(values))
    assert sorted([*train, *test]) == list(range(len(labels)))
    for label in set(values):
        assert (labels[train] == label).sum() == int(0.8 * (labels == label).sum())


def test_totals_of_traffic_signs():
    """39,209 training images of 43 classes divide into 31,367 and 7,842."""
    counts = [
        210, 2220, 2250, 1410, 1980, 1860, 420, 1440, 1410, 1470, 2010, 1320, 2100, 2160, 780, 630, 420, 1110, 1200,
        210, 360, 330, 390, 510, 270, 1500, 600, 240, 540, 270, 450, 780, 240, 689, 420, 1200, 390, 210, 2070, 300,
        360, 240, 240,
    ]  # fmt: skip
    train, test = split_by_class(np.arange(43).repeat(counts), range(43))
    assert (len(train), len(test)) == (31_367, 7_842)
