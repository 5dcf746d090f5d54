"""Source and target images of the paper's experiments, and of the same experiments on open data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdfsl_ata import domains
from cdfsl_ata.datasets import DOMAINS, PASSPORTS
from cdfsl_ata.images import Ids
from sextet.data import CIFAR10, Arrays, Passport, load

ROTATIONS = "cifar10-rotations"
SOURCES = ("mini-imagenet", ROTATIONS)
OPEN_TARGETS = ("fashion-mnist", "mnist", "digits", "glyphs")
VALIDATION = "source-validation"
TARGETS = (*DOMAINS, *OPEN_TARGETS, VALIDATION)
Part = tuple[np.ndarray, Ids]
"""Images uint8 [n, side, side, channels] and labels int64 [n]."""


def source_images(name: str, split: str, root: Path | None) -> Part:
    """Images of a source's `base` or `val` classes.

    `cifar10-rotations` turns every image of CIFAR-10 by 0, 90, 180 and 270 degrees into 4 of 40 classes; its base
    images are the training images, its validation images the test images.

    Raises:
        DataMissing: the dataset is not there and cannot be fetched.
    """
    if name == ROTATIONS:
        arrays = load(CIFAR10, root)
        prefix = {"base": "train", "val": "test"}[split]
        return with_rotations(arrays[f"{prefix}_images"], arrays[f"{prefix}_labels"])
    return _part(load(PASSPORTS[name], root), split)


def target_images(name: str, source: str, root: Path | None) -> Part:
    """Images of a target's novel classes; of open targets, their test images at 32 pixels; or the source's validation.

    Raises:
        DataMissing: the dataset is not there and cannot be fetched.
    """
    if name == VALIDATION:
        return source_images(source, "val", root)
    if name in OPEN_TARGETS:
        images, labels = domains.domain_images(name, root)
        return images.permute(0, 2, 3, 1).numpy(), labels
    return _part(load(PASSPORTS[name], root), "novel")


def with_rotations(images: np.ndarray, labels: Ids) -> Part:
    """Every image four times, turned by 0, 90, 180, 270 degrees, with label 4 * class + quarter turns.

    Args:
        images: [n, side, side, channels].
        labels: [n] counted from 0.
    """
    turned = np.stack([np.rot90(images, turns, axes=(1, 2)) for turns in range(4)], axis=1)
    return turned.reshape(-1, *images.shape[1:]), (4 * labels[:, None] + np.arange(4)).reshape(-1)


def passports(source: str, target: str) -> Sequence[Passport]:
    """The datasets of a source and a target."""
    needed = [CIFAR10 if source == ROTATIONS else PASSPORTS[source]]
    if target != VALIDATION:
        needed.append(domains.PASSPORTS[target] if target in OPEN_TARGETS else PASSPORTS[target])
    return tuple({passport.name: passport for passport in needed}.values())


def _part(arrays: Arrays, split: str) -> Part:
    return arrays[f"{split}_images"], np.array(arrays[f"{split}_labels"])
