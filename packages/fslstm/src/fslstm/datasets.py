"""CIFAR-FS and mini-ImageNet out of the layouts that circulate (passports for `sextet.data`).

Both decode to `train_images`, `val_images`, `test_images` uint8 `[n, side, side, 3]` with `..._labels` int64 `[n]`.
Labels are 0..63 (train), 64..79 (val) and 80..99 (test); rows lie class by class, within a class as in the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fslstm.image_files import (
    Part,
    read_cache_pickle,
    read_category_pickle,
    read_class_folders,
    read_listed_images,
)
from fslstm.splits import CIFAR_FS_CLASSES, MINI_IMAGENET_CLASSES, SPLITS, names_in_order
from sextet.data import CIFAR100, Arrays, DataError, DataMissing, Passport
from sextet.data.cifar import decode_cifar100

IMAGES_PER_CLASS = 600
Classes = Mapping[str, tuple[str, ...]]
LIST_SHA256: Mapping[str, str] = {
    "train": "efa122100e0bae0da1817e86b7086b97aaa5e8a03760663459d7a084a860810c",
    "val": "60cfd5c646766e63039e38421fa70b0d80cc43fb92f7a9a917a23b5e60780e26",
    "test": "e02a75fdc4310f5f2ffbe296a609bb4fdb4c361df076a57f80fe8ee6b1ffa48d",
}
"""SHA-256 of the public lists `train.csv`, `val.csv`, `test.csv` of easy-few-shot-learning."""


def decode_cifar_fs(folder: Path, images_per_class: int = IMAGES_PER_CLASS) -> Arrays:
    """CIFAR-FS from the three pickles, the official CIFAR-100 files, or folders of classes, whichever `folder` holds.

    Raises:
        DataMissing: it holds none of them.
        DataError: what it holds is damaged or not that split.
    """
    pickles = [folder / f"CIFAR_FS_{split}.pickle" for split in SPLITS]
    if all(path.is_file() for path in pickles):
        parts = {split: read_category_pickle(path, 32) for split, path in zip(SPLITS, pickles, strict=True)}
    elif (images := _cifar_class_folders(folder)) is not None:
        parts = {split: read_class_folders(images, CIFAR_FS_CLASSES[split], 32) for split in SPLITS}
    else:
        arrays = decode_cifar100(folder)
        # Training images first, as merged by the authors of the split
        merged = (np.concatenate([arrays[f"train_{kind}"], arrays[f"test_{kind}"]]) for kind in ("images", "labels"))
        parts = _select(*merged, names=CIFAR100.class_names, classes=CIFAR_FS_CLASSES)
    return _assemble(parts, CIFAR_FS_CLASSES, images_per_class, folder)


def decode_mini_imagenet(
    folder: Path, images_per_class: int = IMAGES_PER_CLASS, list_sha256: Mapping[str, str] = LIST_SHA256
) -> Arrays:
    """mini-ImageNet from MetaOptNet's pickles, the `mini-imagenet-cache` pickles, or ILSVRC2012 with the csv lists.

    Raises:
        DataMissing: `folder` holds none of them.
        DataError: what it holds is damaged or not that split.
    """
    prefix = "miniImageNet_category_split_"
    category = [folder / f"{prefix}{name}.pickle" for name in ("train_phase_train", "val", "test")]
    cache = [_first_file(folder, names) for names in _CACHE_NAMES]
    lists = [folder / f"{split}.csv" for split in SPLITS]
    if all(path.is_file() for path in category):
        parts = {split: read_category_pickle(path, 84) for split, path in zip(SPLITS, category, strict=True)}
    elif all(path is not None for path in cache):
        parts = {split: read_cache_pickle(path, 84) for split, path in zip(SPLITS, cache, strict=True) if path}
    elif all(path.is_file() for path in lists):
        parts = {
            split: read_listed_images(folder, path, 84, list_sha256.get(split))
            for split, path in zip(SPLITS, lists, strict=True)
        }
    else:
        raise DataMissing(f"{folder} has no pickles of mini-ImageNet and no csv lists beside folders of ILSVRC2012")
    return _assemble(parts, MINI_IMAGENET_CLASSES, images_per_class, folder)


_CACHE_NAMES = tuple(
    tuple(f"mini-imagenet-cache-{name}.pkl" for name in names)
    for names in (("train",), ("val", "validation"), ("test",))
)


def _first_file(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _cifar_class_folders(folder: Path) -> Path | None:
    """Where all 100 class folders lie: `folder` or `folder/data`; None where they are not."""
    names = names_in_order(CIFAR_FS_CLASSES)
    return next((place for place in (folder, folder / "data") if all((place / name).is_dir() for name in names)), None)


def _check_names(found: set[str], expected: tuple[str, ...], where: Path | str) -> None:
    if found != set(expected):
        more, less = sorted(found - set(expected)), sorted(set(expected) - found)
        raise DataError(f"{where}: not the published split; unexpected classes {more[:5]}, missing {less[:5]}")


def _select(images: np.ndarray, labels: np.ndarray, *, names: tuple[str, ...], classes: Classes) -> dict[str, Part]:
    """Divide images of all classes, labelled by position in `names`, into the three splits."""
    parts: dict[str, Part] = {}
    for split in SPLITS:
        positions = {name: names.index(name) for name in classes[split]}
        rows = np.flatnonzero(np.isin(labels, list(positions.values())))
        parts[split] = images[rows], labels[rows], positions
    return parts


def _assemble(parts: Mapping[str, Part], classes: Classes, images_per_class: int, folder: Path) -> Arrays:
    """Relabel the splits (see the module), sort them by class, and check classes and counts."""
    arrays: Arrays = {}
    first = 0
    for split in SPLITS:
        images, labels, names = parts[split]
        expected = classes[split]
        found, counts = np.unique(labels, return_counts=True)
        if len(found) != len(expected) or set(counts.tolist()) != {images_per_class}:
            numbers = f"{len(found)} classes of {counts.min() if len(counts) else 0}..{counts.max(initial=0)} images"
            raise DataError(f"{folder}: {split} has {numbers} instead of {len(expected)} classes of {images_per_class}")
        if names is not None:
            _check_names(set(names), expected, f"{folder} ({split})")
            if sorted(names.values()) != found.tolist():
                raise DataError(f"{folder}: {split} has labels without a name")
            found = np.array([names[name] for name in expected])
        rows = np.concatenate([np.flatnonzero(labels == label) for label in found])
        arrays[f"{split}_images"] = images[rows]
        arrays[f"{split}_labels"] = np.arange(first, first + len(expected), dtype=np.int64).repeat(images_per_class)
        first += len(expected)
    return arrays


_COUNTS = {"train_labels": 38_400, "val_labels": 9_600, "test_labels": 12_000}

# No content hash: no copy of either set was at hand to compute it from, and row order differs between the layouts
CIFAR_FS = Passport(
    name="cifar-fs",
    title="CIFAR-FS: the 100 fine classes of CIFAR-100, 64 to train, 16 to validate, 20 to test",
    homepage="https://github.com/bertinetto/r2d2",
    licence="none stated; research use customary",
    size="169 MB",
    sources=CIFAR100.sources,
    decode=decode_cifar_fs,
    content_sha256=None,
    instructions=(
        "Get cifar-100-binary.tar.gz or cifar-100-python.tar.gz, or CIFAR_FS_train.pickle, CIFAR_FS_val.pickle and "
        "CIFAR_FS_test.pickle in one folder, or cifar100.zip with a folder a class."
    ),
    class_names=names_in_order(CIFAR_FS_CLASSES),
    counts=_COUNTS,
)

MINI_IMAGENET = Passport(
    name="mini-imagenet",
    title="mini-ImageNet: 100 classes of ILSVRC2012, 84x84, 64 to train, 16 to validate, 20 to test",
    homepage="https://image-net.org",
    licence="ImageNet terms: non-commercial research only",
    size="1.3 GB (from ILSVRC2012: 140 GB)",
    sources=(),
    decode=decode_mini_imagenet,
    content_sha256=None,
    instructions=(
        "Put one of these in a folder: miniImageNet_category_split_train_phase_train.pickle with ..._val.pickle and "
        "..._test.pickle; mini-imagenet-cache-train.pkl with -val.pkl and -test.pkl; or the class folders of the "
        "training images of ILSVRC2012 with train.csv, val.csv and test.csv of easy-few-shot-learning."
    ),
    class_names=names_in_order(MINI_IMAGENET_CLASSES),
    counts=_COUNTS,
)
