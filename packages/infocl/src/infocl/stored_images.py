"""Images of a stored dataset, one at a time, as `sextet.data.photographs` decodes them.

Photographs are stored as the bytes of their files, one after another: small, exact, with one content hash, at random
access, and decoded at whatever size a protocol asks for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sextet.data import Arrays, DataError
from sextet.data.photographs import Fit, PhotographList, decode_photographs, open_photograph

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_FILE_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class StoredImages(PhotographList):
    """Photographs whose files lie one after another in one array.

    Attributes:
        packed: bytes of all files of the dataset, uint8 [total].
        spans: where each image begins and ends, int64 [n, 2].
        boxes: part of each image that counts, [n, 4] (left, top, right, bottom), 1-based and inclusive; None for all.
    """

    packed: np.ndarray
    spans: np.ndarray
    boxes: np.ndarray | None = None

    def __getitem__(self, row: int) -> Image:
        """Photograph `row` in RGB; raises `DataError` naming the file."""
        start, end = self.spans[row]
        try:
            image = open_photograph(io.BytesIO(self.packed[start:end].tobytes()))  # pyright: ignore[reportArgumentType]
        except DataError as error:
            raise DataError(f"{self.root}/{self.files[row]} is no whole image ({error})") from error
        if self.boxes is None:
            return image
        left, top, right, bottom = self.boxes[row].tolist()
        return image.crop((left - 1, top - 1, right, bottom))

    def subset(self, rows: Sequence[int] | np.ndarray) -> StoredImages:
        """The photographs at `rows`, in that order."""
        part, rows = super().subset(rows), np.asarray(rows, np.int64)
        boxes = None if self.boxes is None else self.boxes[rows]
        return StoredImages(part.root, part.files, part.labels, part.class_names, self.packed, self.spans[rows], boxes)


@dataclass(frozen=True, eq=False)
class ArrayImages(PhotographList):
    """Images that are pixels already.

    Attributes:
        pixels: uint8 [n, height, width, 1 or 3].
    """

    pixels: np.ndarray

    def __getitem__(self, row: int) -> Image:
        """Image `row` in RGB."""
        from PIL import Image as pillow

        image = self.pixels[row]
        return pillow.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")

    def subset(self, rows: Sequence[int] | np.ndarray) -> ArrayImages:
        """The images at `rows`, in that order."""
        part, rows = super().subset(rows), np.asarray(rows, np.int64)
        return ArrayImages(part.root, part.files, part.labels, part.class_names, self.pixels[rows])


def pack(photographs: PhotographList) -> Arrays:
    """The files of a list as arrays of a dataset: `packed`, `offsets` int64 [n + 1], `files`, `labels`, `class_names`.

    Raises:
        DataError: a file is missing, empty or larger than 64 MiB.
    """
    paths = [photographs.root / name for name in photographs.files]
    try:
        sizes = [path.stat().st_size for path in paths]
        for path, size in zip(paths, sizes, strict=True):
            if not 0 < size <= MAX_FILE_BYTES:
                raise DataError(f"{path}: expected an image file of 1 to {MAX_FILE_BYTES} bytes, found {size}")
        offsets = np.cumsum([0, *sizes], dtype=np.int64)
        packed = np.empty(int(offsets[-1]), np.uint8)
        for path, start, end in zip(paths, offsets, offsets[1:], strict=False):
            packed[start:end] = np.frombuffer(path.read_bytes(), np.uint8)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{photographs.root} is not read ({error})") from error
    return {
        "packed": packed,
        "offsets": offsets,
        "files": np.array(photographs.files, np.str_),
        "labels": photographs.labels,
        "class_names": np.array(photographs.class_names, np.str_),
    }


def images_of(arrays: Arrays, split: str, classes: int) -> PhotographList:
    """The images of one split (`train`, `test`; `unlabeled` of STL-10) of a loaded dataset.

    Raises:
        DataError: it has no such split, or its photographs have gone from the folder they were adopted from.
    """
    names = tuple(str(number) for number in range(classes))
    if f"{split}_rows" in arrays:
        rows, offsets = np.asarray(arrays[f"{split}_rows"]), np.asarray(arrays["offsets"])
        spans = np.stack([offsets[:-1], offsets[1:]], axis=1)[rows]
        boxes = np.asarray(arrays["boxes"])[rows] if "boxes" in arrays else None
        files = tuple(arrays["files"][rows].tolist())
        return StoredImages(Path("photographs"), files, arrays["labels"][rows], names, arrays["packed"], spans, boxes)
    if f"{split}_files" in arrays:
        root = Path(str(arrays["folder"][0])) / {"test": "val"}.get(split, split)
        if not root.is_dir():
            raise DataError(f"{root} is not there any more; adopt the folder that holds its photographs again")
        files = tuple(name.decode() for name in arrays[f"{split}_files"].tolist())
        return PhotographList(root, files, np.asarray(arrays[f"{split}_labels"]), names)
    if f"{split}_images" in arrays:
        pixels = arrays[f"{split}_images"]
        labels = arrays.get(f"{split}_labels", np.zeros(len(pixels), np.int64))
        files = tuple(f"{split}/{row}" for row in range(len(pixels)))
        return ArrayImages(Path("pixels"), files, np.asarray(labels), names, pixels)
    raise DataError(f"split: expected one of the dataset's, got {split!r}; it has arrays {', '.join(sorted(arrays))}")


def packed_pixels(images: PhotographList, side: int, *, fit: Fit = "squash", resize: int | None = None) -> np.ndarray:
    """All images as uint8 [n, side, side, 3] in memory, as `photographs.fitted` makes them.

    Raises:
        DataError: a file is no whole image.
    """
    if isinstance(images, ArrayImages) and images.pixels.shape[1:] == (side, side, 3):
        return np.asarray(images.pixels)
    return decode_photographs(images, side, fit=fit, resize=resize)[0]
