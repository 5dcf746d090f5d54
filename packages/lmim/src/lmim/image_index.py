"""Where images are: which bytes of which file, so that any of them is read directly and none is kept in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sextet.data import Arrays, DataError
from sextet.data.errors import naming_image
from sextet.data.photographs import FORMATS, MAX_PIXELS, is_inside

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Entry:
    """Where an image is.

    Attributes:
        file: name of a file below the dataset's folder.
        offset, size: bytes of it; a size of 0 means all.
        label: class, by its place in the sorted list.
    """

    file: str
    offset: int
    size: int
    label: int


def index_arrays(folder: Path, splits: Mapping[str, Sequence[Entry]], classes: Sequence[str]) -> Arrays:
    """Lists of entries as arrays that a dataset's store can hold.

    Args:
        folder: that the entries' files lie below.
        splits: name -> entries.
        classes: names of the labels.

    Returns:
        `files` bytes `[k]`, `folder` text `[1]`, `classes` bytes `[c]`, and for each split `{split}_file` int64 `[n]`
        into `files`, `{split}_offset`, `{split}_size` and `{split}_labels` int64 `[n]`.
    """
    names = sorted({entry.file for entries in splits.values() for entry in entries})
    number = {name: row for row, name in enumerate(names)}
    arrays: Arrays = {
        "folder": np.array([str(folder.resolve())]), "files": np.array([name.encode() for name in names]),
        "classes": np.array([name.encode() for name in classes]),
    }  # fmt: skip
    for split, entries in splits.items():
        columns = {
            "file": [number[entry.file] for entry in entries], "offset": [entry.offset for entry in entries],
            "size": [entry.size for entry in entries], "labels": [entry.label for entry in entries],
        }  # fmt: skip
        arrays |= {f"{split}_{name}": np.array(values, np.int64) for name, values in columns.items()}
    return arrays


class ImageIndex:
    """The images of one split, read when asked for.

    Args:
        arrays: see `index_arrays`.
        split: one of their splits.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], split: str) -> None:
        self.root, self.files = Path(str(arrays["folder"][0])), arrays["files"]
        self.file, self.offset, self.size = (arrays[f"{split}_{name}"] for name in ("file", "offset", "size"))
        self.labels = arrays[f"{split}_labels"]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> bytes:
        """The image file's bytes.

        Raises:
            DataError: it is not where it was, or cut short.
        """
        name = bytes(self.files[self.file[row]]).decode()
        size = int(self.size[row])
        if not is_inside(name):
            raise DataError(f"{self.root}: {name!r} is no name of a file inside the folder")
        try:
            with (self.root / name).open("rb") as file:
                file.seek(int(self.offset[row]))
                content = file.read(size or -1)
        except OSError as error:
            raise DataError(
                f"{self.root / name} is not read ({error}); the index needs the images where they were: adopt their "
                "folder again if they moved"
            ) from error
        if len(content) < max(size, 1):
            raise DataError(f"{self.root / name}: image {row} should have {size or 'some'} bytes, has {len(content)}")
        return content

    def open(self, row: int) -> Image:
        """The image in RGB; raises `DataError` naming its file when it is none."""
        from PIL import Image as pillow

        content = self.read(row)
        where = f"{self.root / bytes(self.files[self.file[row]]).decode()}, image {row}"
        with naming_image(where), pillow.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{where}: {image.width}x{image.height} pixels are too many")
            return image.convert("RGB")
