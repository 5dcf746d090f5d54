"""Golden vectors of data and recipe: label rules of VTAB-1K, the learning-rate schedule, the few-shot lists.

A case is told by the file's name (`vtab_labels*.npz`, `lr_schedule*.npz`, `fewshot_split_hashes*.json`) and by what its
arrays say; arrays that are not documented fail.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from bi_adapter.fewshot import published_lists
from bi_adapter.schedule import learning_rate
from bi_adapter.vtab_labels import (
    clevr_count_labels,
    clevr_distance_labels,
    dsprites_location_labels,
    dsprites_orientation_labels,
    kitti_label,
)

LABELS = {
    "clevr_dist_label": ("clevr_min_depth", clevr_distance_labels),
    "clevr_count_label": ("clevr_num_objects", clevr_count_labels),
    "dsprites_label_x_position_class": ("dsprites_label_x_position", dsprites_location_labels),
    "dsprites_label_orientation_class": ("dsprites_label_orientation", dsprites_orientation_labels),
}
KITTI = {"kitti_type", "kitti_z", "kitti_n", "kitti_label"}
FLOATS = {"clevr_min_depth", "kitti_z"}
FIELDS = {"sha256", "lines", "unique", "classes", "first", "last"}
RATE_TOLERANCE = 1e-12


def knows(path: Path) -> bool:
    """Whether `check` is the one for this file."""
    return re.fullmatch(r"(vtab_labels|lr_schedule)[^/]*\.npz|fewshot_split_hashes[^/]*\.json", path.name) is not None


def check(path: Path) -> None:
    """Fail unless everything in the file is what this package computes."""
    assert knows(path), f"{path.name} is not a golden file of data or recipe"
    if path.suffix == ".json":
        check_lists(json.loads(path.read_text()))
        return
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    assert arrays, f"{path.name} is empty"
    (check_labels if path.name.startswith("vtab_labels") else check_rates)(arrays)


def check_labels(arrays: dict[str, np.ndarray]) -> None:
    """Label rules: exact. A file may hold some of them, each with its input."""
    known = {*LABELS, *(given for given, _ in LABELS.values()), *KITTI}
    assert set(arrays) <= known, f"undocumented: {sorted(set(arrays) - known)}"
    for name, value in arrays.items():
        dtypes = (np.float32, np.float64) if name in FLOATS else (np.int64,)
        assert value.dtype in dtypes, f"{name}: {value.dtype}"
        assert value.ndim == (2 if name in ("kitti_type", "kitti_z") else 1), f"{name}: {value.shape}"
    for label, (given, rule) in LABELS.items():
        assert (label in arrays) == (given in arrays), f"{label} and {given} go together"
        if label in arrays:
            assert np.array_equal(rule(arrays[given]), arrays[label]), label
    if KITTI & set(arrays):
        assert set(arrays) >= KITTI, "the arrays of KITTI go together"
        check_kitti(*(arrays[name] for name in ("kitti_type", "kitti_z", "kitti_n", "kitti_label")))


def check_kitti(types: np.ndarray, depths: np.ndarray, numbers: np.ndarray, labels: np.ndarray) -> None:
    """One row an image, of which the first n entries count; the others are filled with -1 and 0."""
    assert types.shape == depths.shape
    assert len(types) == len(numbers) == len(labels)
    assert 0 <= numbers.min() <= numbers.max() <= types.shape[1]
    assert np.isfinite(depths).all()
    beyond = np.arange(types.shape[1]) >= numbers[:, None]
    assert (types[beyond] == -1).all()
    assert (types[~beyond] >= 0).all()
    assert (depths[beyond] == 0).all()
    for kind, depth, n, label in zip(types, depths, numbers, labels, strict=True):
        assert kitti_label(kind[:n], depth[:n]) == label


def check_rates(arrays: dict[str, np.ndarray]) -> None:
    """Arrays `lr_<base>`: the rate of each epoch."""
    for name, rates in arrays.items():
        match = re.fullmatch(r"lr_([0-9.e+-]+)", name)
        assert match, f"undocumented: {name}"
        assert rates.dtype == np.float64
        assert rates.ndim == 1
        found = [learning_rate(epoch, float(match[1]), len(rates)) for epoch in range(len(rates))]
        assert np.allclose(found, rates, rtol=0, atol=RATE_TOLERANCE), name


def check_lists(lists: dict[str, dict[str, object]]) -> None:
    """What is published about NOAH's lists, by their paths there."""
    assert lists
    for path, facts in lists.items():
        match = re.fullmatch(r"data/few-shot/([^/]+)/annotations/([^/]+)", path)
        assert match, f"undocumented: {path}"
        assert set(facts) == FIELDS
        assert published_lists()[match[1]][match[2]] == facts, path
