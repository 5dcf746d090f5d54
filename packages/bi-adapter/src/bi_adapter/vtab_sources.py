"""VTAB-1K built from the tasks' official files, written in the layout that circulates.

Which 1,000 images train is another draw than in the archives that circulate: those took the first ones in the order of
TensorFlow Datasets' shuffled storage, which the official files do not tell. Pools, test sets (where official) and
labels are the benchmark's. Built here: cifar, dtd, oxford_iiit_pet, eurosat, resisc45, clevr_count, clevr_dist,
dsprites_loc, dsprites_ori, smallnorb_azi, smallnorb_ele. The other eight are only read (`vtab.py`): their split is
defined by TensorFlow Datasets alone (caltech101, sun397, kitti, dmlab, diabetic_retinopathy) or their files need
readers that are no dependency of this package (svhn, oxford_flowers102, patch_camelyon).
"""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bi_adapter.vtab import TASKS, TRAIN, VAL
from bi_adapter.vtab_labels import (
    clevr_count_labels,
    clevr_distance_labels,
    dsprites_location_labels,
    dsprites_orientation_labels,
)
from sextet.data import DataError, DataMissing
from sextet.data.cifar import decode_cifar100
from sextet.data.errors import naming_image
from sextet.files import write_atomic


@dataclass(frozen=True, eq=False)
class Pool:
    """Images of one source, decoded when asked for.

    Attributes:
        image: row -> a path, or pixels uint8 [h, w] or [h, w, 3].
        labels: int64 [n].
    """

    image: Callable[[int], Path | np.ndarray]
    labels: np.ndarray


Pools = Mapping[str, tuple[Pool, np.ndarray]]
"""`train`, `val` and `test`, each a pool and the rows of it that belong there."""


def build(
    name: str,
    source: Path,
    destination: Path,
    *,
    seed: int = 0,
    jpeg75: bool = True,
    train: int = TRAIN,
    val: int = VAL,
) -> Path:
    """Write `destination/<name>` with lists and images, ready for `sextet.data.adopt`.

    Args:
        name: one of the tasks built here.
        source: folder with the official files, unpacked.
        destination: a folder; the task's folder in it must not exist.
        seed: of the draw of training images (and of the splits that the benchmark draws).
        jpeg75: as JPEG of quality 75 like the archives that circulate; else as PNG, lossless.
        train, val: images to draw.

    Raises:
        ValueError: a task that is not built here, or the folder exists.
        DataMissing: the official files are not in `source`.
        DataError: they are damaged.
    """
    if name not in SOURCES:
        raise ValueError(f"task: expected one of {', '.join(SOURCES)}, got {name!r}; the others are only read")
    final, folder = destination / name, destination / f".tmp-{name}"
    if final.exists():
        raise ValueError(f"{final} exists; delete it or give another destination")
    shutil.rmtree(folder, ignore_errors=True)
    pools = SOURCES[name](source, np.random.default_rng(seed))
    rng = np.random.default_rng([seed, 1])
    chosen = {
        "train800": (pools["train"][0], _draw(pools["train"][1], train, rng, source)),
        "val200": (pools["val"][0], _draw(pools["val"][1], val, rng, source)),
        "test": pools["test"],
    }
    lines = {split: _write_split(folder, split, *part, jpeg75) for split, part in chosen.items()}
    lines["train800val200"] = [*lines["train800"], *lines["val200"]]
    for split, content in lines.items():
        write_atomic(folder / f"{split}.txt", "".join(line + "\n" for line in content).encode())
    note = {"built by": "bi_adapter.vtab_sources", "draw": f"random, seed {seed}", "jpeg75": jpeg75}
    write_atomic(folder / "built.json", json.dumps(note).encode())
    os.replace(folder, final)
    return final


def _draw(rows: np.ndarray, count: int, rng: np.random.Generator, source: Path) -> np.ndarray:
    if len(rows) < count:
        raise DataError(f"{source} has {len(rows)} images to draw {count} from")
    return rng.permutation(rows)[:count]


def _write_split(folder: Path, split: str, pool: Pool, rows: np.ndarray, jpeg75: bool) -> list[str]:
    """Write the images of one split; return its list's lines."""
    from PIL import Image

    (folder / "images" / split).mkdir(parents=True)
    lines = []
    for number, row in enumerate(rows.tolist()):
        source = pool.image(row)
        name = f"images/{split}/{number:06d}.{'jpg' if jpeg75 else 'png'}"
        with naming_image(source if isinstance(source, Path) else f"image {row}"):
            with Image.open(source) if isinstance(source, Path) else Image.fromarray(source) as opened:
                image = opened.convert("RGB")
            image.save(folder / name, "JPEG", quality=75) if jpeg75 else image.save(folder / name, "PNG")
        lines.append(f"{name} {pool.labels[row]}")
    return lines


def _shares(pool: Pool, percent: tuple[int, int], rng: np.random.Generator) -> Pools:
    """A pool divided at random: percent[0] to train, percent[1] to val, the rest to test (integer division)."""
    n = len(pool.labels)
    first, second = percent[0] * n // 100, (percent[0] + percent[1]) * n // 100
    train, val, test = np.split(rng.permutation(n), [first, second])
    return {"train": (pool, train), "val": (pool, val), "test": (pool, np.sort(test))}


def _pixels(images: np.ndarray, row: int) -> np.ndarray:
    return images[row]


def _array_pool(images: np.ndarray, labels: np.ndarray) -> Pool:
    return Pool(partial(_pixels, images), labels.astype(np.int64))


def _file_pool(files: list[Path], labels: Iterable[int]) -> Pool:
    return Pool(files.__getitem__, np.fromiter(labels, np.int64))


def _with_test(pool: Pool, test: Pool, percent: int, rng: np.random.Generator) -> Pools:
    """A training pool divided at random into `percent` to train and the rest to val; an official test set."""
    parts = _shares(pool, (percent, 100 - percent), rng)
    return {"train": parts["train"], "val": parts["val"], "test": (test, np.arange(len(test.labels)))}


def cifar(source: Path, rng: np.random.Generator) -> Pools:
    """CIFAR-100 from its binary or python files, fine labels; 90 % of the official training images train."""
    arrays = decode_cifar100(source)
    train = _array_pool(arrays["train_images"], arrays["train_labels"])
    return _with_test(train, _array_pool(arrays["test_images"], arrays["test_labels"]), 90, rng)


def dtd(source: Path, _rng: np.random.Generator) -> Pools:
    """Describable Textures from `images/<class>/*.jpg` and `labels/{train,val,test}1.txt` (the official fold 1)."""
    classes = _class_names(source / "images", 47)
    pools = {}
    for split in ("train", "val", "test"):
        names = _lines(source / "labels" / f"{split}1.txt")
        labels = [_position(name.partition("/")[0], classes, source) for name in names]
        pool = _file_pool([source / "images" / name for name in names], labels)
        pools[split] = (pool, np.arange(len(names)))
    return pools


def oxford_iiit_pet(source: Path, rng: np.random.Generator) -> Pools:
    """Oxford-IIIT Pet from `images/*.jpg` and `annotations/{trainval,test}.txt`; 80 % of trainval train."""
    pools = []
    for name in ("trainval", "test"):
        entries = [line.split() for line in _lines(source / "annotations" / f"{name}.txt") if line[0] != "#"]
        if not all(len(entry) == 4 and entry[1].isdecimal() and 1 <= int(entry[1]) <= 37 for entry in entries):
            raise DataError(f"{source}/annotations/{name}.txt: expected lines like 'Abyssinian_100 1 1 1'")
        files = [source / "images" / f"{entry[0]}.jpg" for entry in entries]
        pools.append(_file_pool(files, (int(entry[1]) - 1 for entry in entries)))
    return _with_test(pools[0], pools[1], 80, rng)


def class_folders(source: Path, rng: np.random.Generator, n_classes: int, suffix: str = ".jpg") -> Pools:
    """EuroSAT (RGB) or RESISC45 from one folder a class, alphabetical; 60 % train, 20 % val, 20 % test."""
    files, labels = [], []
    for label, name in enumerate(_class_names(source, n_classes)):
        found = sorted(path for path in (source / name).iterdir() if path.suffix.lower() == suffix)
        files += found
        labels += [label] * len(found)
    return _shares(_file_pool(files, labels), (60, 20), rng)


def clevr(source: Path, rng: np.random.Generator, kind: str) -> Pools:
    """CLEVR v1.0 from `images/{train,val}` and `scenes/CLEVR_{train,val}_scenes.json`; test is the official val.

    Args:
        source: the unpacked folder CLEVR_v1.0.
        rng: for the split of the training part, 90 % to train.
        kind: `count` or `distance`.
    """
    pools = []
    for split in ("train", "val"):
        path = source / "scenes" / f"CLEVR_{split}_scenes.json"
        content = _bytes(path)
        try:
            scenes = json.loads(content)["scenes"]
            files = [source / "images" / split / Path(str(scene["image_filename"])).name for scene in scenes]
            if kind == "count":
                labels = clevr_count_labels(np.array([len(scene["objects"]) for scene in scenes]))
            else:
                depths = [min(float(item["pixel_coords"][2]) for item in scene["objects"]) for scene in scenes]
                labels = clevr_distance_labels(np.array(depths))
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise DataError(f"{path}: not CLEVR's scenes ({type(error).__name__}: {error})") from error
        pools.append(_file_pool(files, labels.tolist()))
    return _with_test(pools[0], pools[1], 90, rng)


_DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_FACTORS = {"location": (4, dsprites_location_labels), "orientation": (3, dsprites_orientation_labels)}


def dsprites(source: Path, rng: np.random.Generator, kind: str) -> Pools:
    """dSprites from its npz (3 GB when opened), pixels times 255; 80 % train, 10 % val, 10 % test.

    Args:
        source: folder with the npz.
        rng: for the split.
        kind: `location` (horizontal) or `orientation`.
    """
    path = source / _DSPRITES
    if not path.is_file():
        raise DataMissing(f"{source} has no {_DSPRITES}")
    column, rule = _FACTORS[kind]
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images, factors = archive["imgs"], archive["latents_classes"]
        if images.dtype != np.uint8 or images.ndim != 3 or factors.shape != (len(images), 6):
            raise DataError(f"{path}: expected imgs uint8 [n, 64, 64] and latents_classes [n, 6]")
        return _shares(Pool(partial(_tripled, images, 255), rule(factors[:, column])), (80, 10), rng)
    except DataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not read ({type(error).__name__}: {error})") from error


def _tripled(images: np.ndarray, factor: int, row: int) -> np.ndarray:
    """A grey image [h, w] in three channels."""
    return np.repeat(images[row][..., None] * np.uint8(factor), 3, axis=2)


_NORB_PARTS = {"train": "5x46789x9x18x6x2x96x96-training", "test": "5x01235x9x18x6x2x96x96-testing"}
_NORB_TYPES = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}


def smallnorb(source: Path, rng: np.random.Generator, kind: str) -> Pools:
    """smallNORB from its binary matrices, first camera; half of the official test images are val, half test.

    Args:
        source: folder with `smallnorb-...-training-dat.mat`, `-info.mat` and those of `-testing`, gzipped or not.
        rng: for the halves.
        kind: `azimuth` (0, 2, ..., 34 in the files, halved) or `elevation` (0 to 8).
    """
    pools = []
    for name in _NORB_PARTS.values():
        images, info = (
            read_norb(_plain_or_gzipped(source, f"smallnorb-{name}-{part}.mat")) for part in ("dat", "info")
        )
        if images.ndim != 4 or images.dtype != np.uint8 or info.shape != (len(images), 4):
            raise DataError(f"{source}: expected images [n, 2, 96, 96] and info [n, 4] in the files of {name}")
        labels = info[:, 2] // 2 if kind == "azimuth" else info[:, 1]
        if labels.min() < 0 or labels.max() >= (18 if kind == "azimuth" else 9):
            raise DataError(f"{source}: {kind} {labels.min()}..{labels.max()} in the files of {name}")
        pools.append(Pool(partial(_tripled, images[:, 0], 1), labels.astype(np.int64)))
    order = rng.permutation(len(pools[1].labels))
    half = len(order) // 2
    val, test = order[:half], np.sort(order[half:])
    return {"train": (pools[0], np.arange(len(pools[0].labels))), "val": (pools[1], val), "test": (pools[1], test)}


def read_norb(path: Path, max_bytes: int = 1 << 30) -> np.ndarray:
    """The array of one of smallNORB's binary matrices: type code, number of dimensions, at least three sizes, values.

    Raises:
        DataError: on anything else, or where it needs more than `max_bytes`.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            code, ndim = struct.unpack("<II", file.read(8))
            if code not in _NORB_TYPES or not 1 <= ndim <= 4:
                raise DataError(f"{path} is no matrix of smallNORB: it begins with {code:#x}, {ndim}")
            shape = struct.unpack(f"<{max(ndim, 3)}I", file.read(4 * max(ndim, 3)))[:ndim]
            size = math.prod(shape) * _NORB_TYPES[code].itemsize
            if size > max_bytes:
                raise DataError(f"{path}: shape {shape} needs {size} bytes, more than the {max_bytes} allowed")
            body = file.read(size + 1)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise DataError(f"{path} is not read ({type(error).__name__}: {error})") from error
    if len(body) != size:
        raise DataError(f"{path}: shape {shape} needs {size} bytes, found {'more' if len(body) > size else len(body)}")
    return np.frombuffer(body, _NORB_TYPES[code]).reshape(shape)


def _plain_or_gzipped(folder: Path, name: str) -> Path:
    found = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if found is None:
        raise DataMissing(f"{folder} has no {name} (nor {name}.gz)")
    return found


def _class_names(folder: Path, count: int) -> list[str]:
    if not folder.is_dir():
        raise DataMissing(f"{folder} is no folder of class folders")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if len(names) != count:
        raise DataMissing(f"{folder} has {len(names)} class folders instead of {count}")
    return names


def _position(name: str, classes: list[str], source: Path) -> int:
    if name not in classes:
        raise DataError(f"{source}: a list names the class {name!r}, which has no folder")
    return classes.index(name)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise DataMissing(f"{path} is missing")
    return path.read_bytes()


def _lines(path: Path) -> list[str]:
    """The lines of a list of file names that stay inside its folder."""
    try:
        lines = [line.strip() for line in _bytes(path).decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not read ({error})") from error
    if any(".." in line or line.startswith("/") or "\0" in line for line in lines):
        raise DataError(f"{path} names files outside its folder")
    return lines


SOURCES: Mapping[str, Callable[[Path, np.random.Generator], Pools]] = {
    "cifar": cifar,
    "dtd": dtd,
    "oxford_iiit_pet": oxford_iiit_pet,
    "eurosat": partial(class_folders, n_classes=10),
    "resisc45": partial(class_folders, n_classes=45),
    "clevr_count": partial(clevr, kind="count"),
    "clevr_dist": partial(clevr, kind="distance"),
    "dsprites_loc": partial(dsprites, kind="location"),
    "dsprites_ori": partial(dsprites, kind="orientation"),
    "smallnorb_azi": partial(smallnorb, kind="azimuth"),
    "smallnorb_ele": partial(smallnorb, kind="elevation"),
}
"""Task -> reader of its official files."""


def unbuilt() -> tuple[str, ...]:
    """The tasks that are only read."""
    return tuple(name for name in TASKS if name not in SOURCES)
