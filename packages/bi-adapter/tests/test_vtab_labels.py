from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bi_adapter.vtab_labels import (
    CLEVR_DEPTHS,
    KITTI_METRES,
    clevr_count_labels,
    clevr_distance_labels,
    dsprites_location_labels,
    dsprites_orientation_labels,
    kitti_label,
    last_threshold_below,
)


def test_worked_examples():
    assert clevr_count_labels(np.array([3, 10])).tolist() == [0, 7]
    assert clevr_distance_labels(np.array([7.9, 8.1, 9.0, 9.6, 30.0])).tolist() == [0, 1, 2, 4, 5]
    assert kitti_label(np.array([0, 3]), np.array([12.0, 2.0])) == 1  # a pedestrian at 2 m is no vehicle
    assert kitti_label(np.array([], int), np.array([])) == 3
    assert dsprites_location_labels(np.array([0, 1, 2, 31])).tolist() == [0, 0, 1, 15]
    assert np.bincount(dsprites_orientation_labels(np.arange(40))).tolist() == [3, 2] * 8


@pytest.mark.parametrize("threshold", CLEVR_DEPTHS[1:-1])
def test_a_depth_on_a_threshold_belongs_below(threshold):
    for dtype in (np.float32, np.float64):
        on = np.array([threshold], dtype)
        label = clevr_distance_labels(on)[0]
        assert clevr_distance_labels(np.nextafter(on, dtype(np.inf)))[0] == label + 1
        assert clevr_distance_labels(np.nextafter(on, dtype(-np.inf)))[0] == label


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-99, 2000)))
def test_against_a_loop(values):
    expected = [max(i for i, threshold in enumerate(KITTI_METRES) if threshold < value) for value in values]
    assert last_threshold_below(values, KITTI_METRES).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 8), st.floats(-50, 200)), max_size=9), st.randoms())
def test_the_order_of_objects_does_not_matter(objects, random):
    shuffled = random.sample(objects, len(objects))
    label = [
        kitti_label(np.array([kind for kind, _ in part], int), np.array([z for _, z in part]))
        for part in (objects, shuffled)
    ]
    assert label[0] == label[1]


def test_bad_input():
    with pytest.raises(ValueError, match=r"numbers: expected integers in 3\.\.10"):
        clevr_count_labels(np.array([2, 4]))
    with pytest.raises(ValueError, match="positions: expected integers"):
        dsprites_location_labels(np.array([1.0]))
    with pytest.raises(ValueError, match=r"orientations: .*0\.\.39"):
        dsprites_orientation_labels(np.array([40]))
    with pytest.raises(ValueError, match="expected numbers above 0"):
        clevr_distance_labels(np.array([-1.0]))
    with pytest.raises(ValueError, match="expected numbers above"):
        clevr_distance_labels(np.array([np.nan]))
    with pytest.raises(ValueError, match="at most 100"):
        clevr_distance_labels(np.array([101.0]))
    with pytest.raises(ValueError, match="one each an object"):
        kitti_label(np.array([1]), np.array([1.0, 2.0]))
