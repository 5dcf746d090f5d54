"""Images and labels of one split out of the files that circulate; only `DataError` leaves these functions."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from sextet.data import DataError, DataMissing, load_legacy_pickle
from sextet.data.errors import naming_image
from sextet.data.photographs import MAX_PIXELS

"""A file that declares more pixels is not opened; Pillow itself warns from about there on."""

Part = tuple[np.ndarray, np.ndarray, "dict[str, int] | None"]
"""Images uint8 `[n, side, side, 3]`, labels int64 `[n]` of any values, and the label of each class name if known."""


def read_category_pickle(path: Path, side: int) -> Part:
    """A pickled dict with `data` uint8 `[n, side, side, 3]`, `labels` (n integers) and possibly `catname2label`."""
    content = _mapping(load_legacy_pickle(path), path, "data", "labels")
    images = _images(content["data"], side, path)
    labels = _integers(content["labels"], path, "labels")
    if len(labels) != len(images):
        raise DataError(f"{path}: {len(images)} images with {len(labels)} labels")
    names = content.get("catname2label")
    if names is None:
        return images, labels, None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: catname2label must be a dict from names to labels")
    values = _integers(list(names.values()), path, "catname2label")
    return images, labels, dict(zip(names, values.tolist(), strict=True))


def read_cache_pickle(path: Path, side: int) -> Part:
    """A pickled dict with `image_data` uint8 `[n, side, side, 3]` and `class_dict`: name -> rows of that class."""
    content = _mapping(load_legacy_pickle(path), path, "image_data", "class_dict")
    images = _images(content["image_data"], side, path)
    rows_of = content["class_dict"]
    if not isinstance(rows_of, dict) or not rows_of or not all(isinstance(name, str) for name in rows_of):
        raise DataError(f"{path}: class_dict must be a dict from class names to rows")
    labels = np.full(len(images), -1, np.int64)
    for label, name in enumerate(rows_of):
        rows = _integers(rows_of[name], path, f"class_dict[{name!r}]")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(images):
            raise DataError(f"{path}: class {name!r} has rows outside 0..{len(images) - 1}")
        if (labels[rows] != -1).any() or len(np.unique(rows)) != len(rows):
            raise DataError(f"{path}: rows of class {name!r} belong to a class already")
        labels[rows] = label
    if (labels == -1).any():
        raise DataError(f"{path}: {(labels == -1).sum()} images belong to no class")
    return images, labels, {name: label for label, name in enumerate(rows_of)}


def read_listed_images(folder: Path, path: Path, side: int, sha256: str | None = None) -> Part:
    """Images of a csv list (`class_name,image_name`) from class folders in `folder`, `folder/train` or `folder/images`.

    Each photograph is resized as a whole to `side` x `side` (Lanczos).

    Args:
        folder: where the class folders lie.
        path: the list.
        side: of the images returned.
        sha256: what the list must hash to; None not to check.
    """
    try:
        content = path.read_bytes()
        rows = list(csv.DictReader(content.decode("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not read ({error})") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is not the published list: expected SHA-256 {sha256}")
    entries = [(row.get("class_name"), row.get("image_name")) for row in rows]
    if not entries or not all(_is_bare(name) and _is_bare(image) for name, image in entries):
        raise DataError(f"{path}: expected columns class_name and image_name with bare names")
    names = sorted({str(name) for name, _ in entries})
    found = (folder / place for place in ("", "train", "images") if (folder / place / names[0]).is_dir())
    root = next(found, None)
    if root is None:
        raise DataMissing(f"{folder} has {path.name} but no folder {names[0]} (nor train/{names[0]})")
    files = [root / str(name) / str(image) for name, image in entries]
    labels = {name: label for label, name in enumerate(names)}
    return read_images(files, side), np.array([labels[str(name)] for name, _ in entries], np.int64), labels


def read_class_folders(root: Path, names: tuple[str, ...], side: int) -> Part:
    """All PNG and JPEG files of some class folders, each of `side` x `side` pixels already."""
    try:
        files = {name: sorted(p for p in (root / name).iterdir() if p.suffix.lower() in _SUFFIXES) for name in names}
    except OSError as error:
        raise DataError(f"{root} is not read ({error})") from error
    images = read_images([file for name in names for file in files[name]], side, resize=False)
    labels = np.arange(len(names)).repeat([len(files[name]) for name in names])
    return images, labels, {name: label for label, name in enumerate(names)}


_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_images(files: list[Path], side: int, *, resize: bool = True) -> np.ndarray:
    """Photographs as uint8 `[n, side, side, 3]`."""
    from PIL import Image

    images = np.empty((len(files), side, side, 3), np.uint8)
    for row, file in enumerate(files):
        with naming_image(file), Image.open(file, formats=["PNG", "JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS or (not resize and image.size != (side, side)):
                raise DataError(f"{file}: {image.width}x{image.height} pixels")
            colour = image.convert("RGB")
            images[row] = np.asarray(colour.resize((side, side), Image.Resampling.LANCZOS) if resize else colour)
    return images


def _is_bare(name: str | None) -> bool:
    """Whether a name from a list names something inside a folder, and not that folder or something elsewhere."""
    return bool(name) and name not in (".", "..") and not set(str(name)) & set("/\\\0") and len(str(name)) < 200


def _mapping(content: Any, path: Path, *keys: str) -> dict[str, Any]:
    if not isinstance(content, dict) or not set(keys) <= set(content):
        raise DataError(f"{path} must hold a dict with {' and '.join(keys)}")
    return content


def _images(content: Any, side: int, path: Path) -> np.ndarray:
    if not isinstance(content, np.ndarray) or content.dtype != np.uint8 or content.shape[1:] != (side, side, 3):
        found = f"{content.dtype} {content.shape}" if isinstance(content, np.ndarray) else type(content).__name__
        raise DataError(f"{path}: images must be uint8 [n, {side}, {side}, 3], found {found}")
    return np.asarray(content)


def _integers(content: Any, path: Path, what: str) -> np.ndarray:
    """A list (or array) of integers from a file, int64 `[n]`."""
    if isinstance(content, np.ndarray):
        content = np.asarray(content)
        fits = content.ndim == 1 and content.dtype.kind in "iu"
        values = content.tolist() if fits else [None]
    else:
        values = content if isinstance(content, list | tuple) else [None]
    plain = [int(value) if isinstance(value, np.integer) else value for value in values]
    if not all(type(value) is int and -(2**62) < value < 2**62 for value in plain):
        raise DataError(f"{path}: {what} must be a list of integers")
    return np.array(plain, np.int64)
