"""Photographs as they circulate, in class folders or lists of files, and their pixels decoded into one packed array."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sextet.data.errors import DataError, DataMissing, naming_image
from sextet.files import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpeg", ".jpg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 89_000_000
"""A file that declares more pixels is not opened; Pillow itself warns from about there on."""
_CHUNK = 4096

Fit = Literal["squash", "crop"]


@dataclass(frozen=True, eq=False)
class PhotographList:
    """Image files below a folder with their classes.

    Attributes:
        root: folder that the names are relative to.
        files: `[n]` names with forward slashes.
        labels: `[n]` int64, indices into `class_names`.
        class_names: in the order of the labels.
    """

    root: Path
    files: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.files),) or self.labels.dtype != np.int64:
            found = f"{self.labels.dtype} {self.labels.shape}"
            raise DataError(f"labels: expected one int64 a file, [{len(self.files)}], found {found}")
        if len(self.files) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise DataError(f"labels: expected 0..{len(self.class_names) - 1}, one of {len(self.class_names)} classes")
        if unsafe := [name for name in self.files if not is_inside(name)]:
            raise DataError(f"{self.root}: {unsafe[0]!r} is no name of a file inside the folder")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Image:
        """Photograph `row` in RGB; raises `DataError` naming the file."""
        return open_photograph(self.root / self.files[row])

    @property
    def digest(self) -> str:
        """SHA-256 over names and labels: which files belong, not what is in them."""
        lines = (f"{name}\t{label}\n" for name, label in zip(self.files, self.labels.tolist(), strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def subset(self, rows: Sequence[int] | np.ndarray) -> PhotographList:
        """The photographs at `rows`, in that order."""
        rows = np.asarray(rows, np.int64)
        return PhotographList(self.root, tuple(self.files[row] for row in rows), self.labels[rows], self.class_names)


def is_inside(name: str) -> bool:
    """Whether a relative name stays inside its folder whatever lies there."""
    parts = name.split("/")
    return bool(name) and "\\" not in name and "\0" not in name and not {"", ".", ".."} & set(parts)


def list_class_folders(root: Path, class_names: Sequence[str] | None = None) -> PhotographList:
    """The images of a folder with one sub-folder a class, classes and files in the order of their names.

    Args:
        root: the folder.
        class_names: sub-folders that must be there, in the order of the labels; None for all that hold an image.

    Raises:
        DataMissing: the folder or one of the named classes is not there, or a class holds no image.
        DataError: the folder cannot be read.
    """
    if not root.is_dir():
        raise DataMissing(f"{root}: expected a folder with one sub-folder a class, and it is not there")
    try:
        names = class_names or sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        found = {name: _image_names(root / name) for name in names}
    except OSError as error:
        raise DataError(f"{root} is not read ({error})") from error
    if class_names is None:
        found = {name: files for name, files in found.items() if files}
    if empty := [name for name, files in found.items() if not files]:
        raise DataMissing(f"{root}: no images in {len(empty)} of {len(found)} classes: {', '.join(empty[:5])}")
    if not found:
        raise DataMissing(f"{root}: no sub-folder holds an image ({', '.join(SUFFIXES)})")
    files = tuple(f"{name}/{file}" for name, names in found.items() for file in names)
    labels = np.repeat(np.arange(len(found), dtype=np.int64), [len(names) for names in found.values()])
    return PhotographList(root, files, labels, tuple(found))


def _image_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file())


def open_photograph(path: Path) -> Image:
    """One image file in RGB.

    Raises:
        DataError: it is missing, no whole image of a known format, or too large.
    """
    from PIL import Image as pillow

    with naming_image(path), pillow.open(path, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{path}: {image.width}x{image.height} pixels are too many")
        return image.convert("RGB")


def fitted(image: Image, side: int, fit: Fit = "crop", resize: int | None = None, resample: str = "bilinear") -> Image:
    """An image of `side` x `side`.

    Args:
        image: any size.
        side: of the result.
        fit: `squash` resizes the whole image to a square; `crop` resizes the short side, then cuts out the centre, as
            torchvision's Resize and CenterCrop.
        resize: what the short side becomes before cropping; None for `side`.
        resample: `bilinear`, `bicubic` or `lanczos`.
    """
    from PIL import Image as pillow

    how = {"bilinear": pillow.Resampling.BILINEAR, "bicubic": pillow.Resampling.BICUBIC}
    how = (how | {"lanczos": pillow.Resampling.LANCZOS})[resample]
    if fit == "squash":
        return image.resize((side, side), how)
    short = resize or side
    width, height = image.size
    size = (short, short * height // width) if width <= height else (short * width // height, short)
    image = image if image.size == size else image.resize(size, how)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return image.crop((left, top, left + side, top + side))


def decode_photographs(
    photographs: PhotographList,
    side: int,
    *,
    fit: Fit = "crop",
    resize: int | None = None,
    resample: str = "bilinear",
    unreadable: Literal["raise", "skip"] = "raise",
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Pixels of all photographs in memory.

    Args:
        photographs: which.
        side, fit, resize, resample: as `fitted` takes them.
        unreadable: what happens to files that are no images: `raise` at the first, or `skip` them.

    Returns:
        images uint8 `[m, side, side, 3]`, rows int64 `[m]` that were read, and the names of those that were not.

    Raises:
        DataError: a file is not read and `unreadable` is `raise`; or none is.
    """
    images = np.empty((len(photographs), side, side, 3), np.uint8)
    failed = dict(_decode_into(images, photographs, range(len(photographs)), fit, resize, resample))
    return _without(failed, images, photographs, unreadable)


def pack_photographs(
    photographs: PhotographList,
    side: int,
    path: Path,
    *,
    fit: Fit = "crop",
    resize: int | None = None,
    resample: str = "bilinear",
    unreadable: Literal["raise", "skip"] = "raise",
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """As `decode_photographs`, into the file `path` (.npy), memory-mapped; a stopped call goes on where it was.

    The file appears under its name once it is whole; beside it, `path` + `.json` says what it was made of. A file made
    of the same list in the same way is used as it is. Rows that were skipped stay in the file, black.
    """
    from PIL import Image as pillow

    if len(photographs) == 0:
        raise DataError(f"{photographs.root}: none of 0 photographs could be read")
    recipe = {"list": photographs.digest, "side": side, "fit": fit, "resize": resize, "resample": resample}
    recipe |= {"root": str(photographs.root), "pillow": getattr(pillow, "__version__", "")}
    note, partial = path.with_name(path.name + ".json"), path.with_name(path.name + ".partial")
    said = _read_note(note)
    if said.get("recipe") != recipe:
        path.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        said = {"recipe": recipe, "done": 0, "failed": {}}
    failed = {int(row): reason for row, reason in said["failed"].items()}
    if not path.exists():
        shape = (len(photographs), side, side, 3)
        path.parent.mkdir(parents=True, exist_ok=True)
        said["done"] = said["done"] if partial.exists() else 0
        mode = "r+" if partial.exists() else "w+"
        images = np.lib.format.open_memmap(partial, mode=mode, dtype=np.uint8, shape=shape)
        for start in range(said["done"], len(photographs), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(photographs)))
            failed |= dict(_decode_into(images, photographs, rows, fit, resize, resample))
            images.flush()
            write_atomic(note, json.dumps({"recipe": recipe, "done": rows.stop, "failed": failed}).encode())
        del images
        os.replace(partial, path)
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    return _without(failed, stored, photographs, unreadable, keep=True)


def _read_note(path: Path) -> dict:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return said if isinstance(said, dict) and {"recipe", "done", "failed"} <= set(said) else {}
    except (OSError, ValueError):
        return {}


def _decode_into(
    images: np.ndarray, photographs: PhotographList, rows: range, fit: Fit, resize: int | None, resample: str
) -> Iterator[tuple[int, str]]:
    """Decode some rows in threads (Pillow lets go of the interpreter); yield those that failed, with the reason."""

    def one(row: int) -> str | None:
        try:
            images[row] = np.asarray(fitted(photographs[row], images.shape[1], fit, resize, resample))
        except DataError as error:
            images[row] = 0
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, reason in zip(rows, pool.map(one, rows), strict=True):
            if reason is not None:
                yield row, reason


def _without(
    failed: dict[int, str], images: np.ndarray, photographs: PhotographList, unreadable: str, keep: bool = False
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images, rows that were read and names of those that were not, or the error; `keep` leaves the array whole."""
    if failed and unreadable == "raise":
        first = min(failed)
        raise DataError(f"{failed[first]}; {len(failed)} of {len(photographs)} files like it")
    rows = np.setdiff1d(np.arange(len(photographs)), np.array(sorted(failed), np.int64))
    if len(rows) == 0:
        raise DataError(f"{photographs.root}: none of {len(photographs)} photographs could be read")
    names = tuple(photographs.files[row] for row in sorted(failed))
    return images if keep or not failed else images[rows], rows, names
