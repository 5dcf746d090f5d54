"""How VTAB-1K derives the labels of its structured tasks from what the source datasets annotate (pure functions)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CLEVR_DEPTHS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
"""Depth thresholds of CLEVR's closest object; six classes between them."""
KITTI_METRES = (-100.0, 8.0, 20.0, 999.0)
"""Distance thresholds of KITTI's closest vehicle; the last class says that there is none."""
KITTI_VEHICLES = (0, 1, 2)
"""KITTI's object types car, van and truck."""
_NO_VEHICLE = 1000.0
CLEVR_FEWEST = 3
"""Fewest objects in a CLEVR scene."""


def last_threshold_below(values: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Index of the last threshold strictly below each value, int64 like `values`.

    Args:
        values: float, any shape; compared in their own precision.
        thresholds: ascending; the first lies below all values.

    Raises:
        ValueError: a value is not above the first threshold, or not a number.
    """
    values = np.asarray(values)
    found = np.searchsorted(np.asarray(thresholds, values.dtype), values, side="left") - 1
    if not (values > thresholds[0]).all():
        raise ValueError(
            f"values: expected numbers above {thresholds[0]:g}, got {values[~(values > thresholds[0])][0]}"
        )
    return found.astype(np.int64)


def clevr_count_labels(numbers: np.ndarray) -> np.ndarray:
    """Labels 0..7 of CLEVR count: the number of objects, 3..10, minus 3.

    Args:
        numbers: int [n].

    Raises:
        ValueError: a number outside 3..10.
    """
    numbers = _within(numbers, CLEVR_FEWEST, 10, "numbers")
    return numbers - CLEVR_FEWEST


def clevr_distance_labels(depths: np.ndarray) -> np.ndarray:
    """Labels 0..5 of CLEVR distance: the depth of the closest object between 0, 8, 8.5, 9, 9.5, 10 and 100.

    Args:
        depths: float [n], the least third pixel coordinate of each scene's objects, within 0..100.

    Raises:
        ValueError: a depth outside those bounds.
    """
    labels = last_threshold_below(depths, CLEVR_DEPTHS)
    if (labels == len(CLEVR_DEPTHS) - 1).any():
        raise ValueError(f"depths: expected at most {CLEVR_DEPTHS[-1]:g}, got {np.max(depths)}")
    return labels


def kitti_label(types: np.ndarray, depths: np.ndarray) -> int:
    """Label 0..3 of one KITTI image: the closest vehicle is nearer than 8 m, 20 m, 999 m, or there is none.

    Args:
        types: int [objects], KITTI's type of each object; cars, vans and trucks (0, 1, 2) count.
        depths: float [objects], the third coordinate of each object's location in metres.

    Raises:
        ValueError: different lengths, or a vehicle 100 m behind the camera or more.
    """
    types, depths = np.asarray(types), np.asarray(depths)
    if types.shape != depths.shape or types.ndim != 1:
        raise ValueError(f"types and depths: expected one each an object, got shapes {types.shape} and {depths.shape}")
    vehicles = depths[np.isin(types, KITTI_VEHICLES)]
    closest = np.append(vehicles, np.asarray(_NO_VEHICLE, depths.dtype)).min()
    return int(last_threshold_below(closest, KITTI_METRES))


def dsprites_location_labels(positions: np.ndarray) -> np.ndarray:
    """Labels 0..15 of dSprites location: the horizontal position 0..31, two to a class.

    Args:
        positions: int [n].

    Raises:
        ValueError: a position outside 0..31.
    """
    return _within(positions, 0, 31, "positions") // 2


def dsprites_orientation_labels(orientations: np.ndarray) -> np.ndarray:
    """Labels 0..15 of dSprites orientation: the orientation 0..39 over 2.5, so three and two to a class in turn.

    Args:
        orientations: int [n].

    Raises:
        ValueError: an orientation outside 0..39.
    """
    return _within(orientations, 0, 39, "orientations") * 2 // 5


def _within(values: np.ndarray, low: int, high: int, name: str) -> np.ndarray:
    """`values` as int64 if all lie in low..high."""
    values = np.asarray(values)
    if values.dtype.kind not in "iu" or (values.size and not low <= values.min() <= values.max() <= high):
        found = f"{values.min()}..{values.max()}" if values.size else "nothing"
        raise ValueError(f"{name}: expected integers in {low}..{high}, got {values.dtype} in {found}")
    return values.astype(np.int64)
