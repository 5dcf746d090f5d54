"""Image files packed one after another into one array, so that a dataset is one thing with one content hash."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sextet.data import DataError
from sextet.data.errors import naming_image
from sextet.data.photographs import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

"""A file that declares more pixels is not opened; Pillow itself warns from about there on."""
MAX_FILE_BYTES = 1 << 26


def pack_files(folder: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of some files, uint8 [total], and where each begins and ends, int64 [n + 1].

    Args:
        folder: what the names are relative to.
        names: as `read_list` checked them.

    Raises:
        DataError: a file is missing, empty or larger than 64 MiB.
    """
    try:
        sizes = [(folder / name).stat().st_size for name in names]
        for name, size in zip(names, sizes, strict=True):
            if not 0 < size <= MAX_FILE_BYTES:
                raise DataError(f"{folder / name}: expected an image file of 1 to {MAX_FILE_BYTES} bytes, found {size}")
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        packed = np.empty(int(offsets[-1]), np.uint8)
        for row, name in enumerate(names):
            content = (folder / name).read_bytes()
            if len(content) != sizes[row]:
                raise DataError(f"{folder / name} changed while it was read")
            packed[offsets[row] : offsets[row + 1]] = np.frombuffer(content, np.uint8)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder} is not read ({error})") from error
    return packed, offsets


def open_packed(packed: np.ndarray, offsets: np.ndarray, row: int) -> Image:
    """One packed image in RGB.

    Raises:
        DataError: it is no whole JPEG or PNG file, or too large.
    """
    from PIL import Image as pillow

    content = packed[offsets[row] : offsets[row + 1]].tobytes()
    with naming_image(f"image {row}"), pillow.open(io.BytesIO(content), formats=["JPEG", "PNG"]) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"image {row}: {image.width}x{image.height} pixels are too many")
        return image.convert("RGB")


def file_digests(packed: np.ndarray, offsets: np.ndarray) -> list[str]:
    """SHA-256 of each packed file."""
    return [hashlib.sha256(packed[low:high].tobytes()).hexdigest() for low, high in pairwise(offsets)]


def read_list(path: Path, n_classes: int) -> tuple[list[str], np.ndarray, str]:
    """File names, labels int64 [n] and the SHA-256 of a list with one `name label` a line (split at the last space).

    Raises:
        DataError: it is not such a list, or a label lies outside 0..n_classes-1.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not read ({error})") from error
    names, labels = [], []
    for number, line in enumerate(lines, 1):
        name, space, label = line.rpartition(" ")
        if not space or not _is_inside(name) or not (label.isascii() and label.isdecimal() and len(label) < 7):
            raise DataError(f"{path}, line {number}: expected 'folder/name.jpg label', found {line[:80]!r}")
        if int(label) >= n_classes:
            raise DataError(f"{path}, line {number}: label {label} is outside 0..{n_classes - 1}")
        names.append(name)
        labels.append(int(label))
    if not names:
        raise DataError(f"{path} is empty")
    return names, np.array(labels, np.int64), hashlib.sha256(content).hexdigest()


def _is_inside(name: str) -> bool:
    """Whether a name from a list leads to something below the folder it is relative to."""
    parts = name.split("/")
    return bool(name) and len(name) < 300 and not set(name) & set("\\\0") and not {"", ".", ".."} & set(parts)
