"""ImageNet-1K where it lies: class folders, the official tar files unopened, or packed shards (section 9).

The dataset's passport stores an index: which bytes of which file are an image, and its label. So any image is read
directly, whatever it lies in, and nothing is kept in memory.
"""

from __future__ import annotations

import csv
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmim.image_index import Entry, index_arrays
from sextet.data import Arrays, DataError, DataMissing, Passport
from sextet.data.matlab import read_matlab
from sextet.data.photographs import PhotographList, list_class_folders

N_CLASSES = 1000
DEVKIT = "ILSVRC2012_devkit_t12"
_TRAIN_TAR, _VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_KAGGLE = "LOC_val_solution.csv"
_SUFFIXES = (".jpeg", ".jpg", ".png")


def decode_imagenet(folder: Path, n_classes: int = N_CLASSES) -> Arrays:
    """The index of a folder.

    Any of these for each split: class folders `train/n01440764/*.JPEG`; the official `ILSVRC2012_img_train.tar` or
    `ILSVRC2012_img_val.tar`; shards `*train*.tar`, `*val*.tar` of images with `.cls` files. Validation images that lie
    flat (in `val/` or in the official tar) get their labels from the development kit `ILSVRC2012_devkit_t12`, as folder
    or `.tar.gz`, or from `LOC_val_solution.csv`.

    Returns:
        See `image_index.index_arrays`; the splits are `train` and `val`.

    Raises:
        DataMissing: a split is not there.
        DataError: another number of classes, or files that cannot be read.
    """
    try:
        train, classes = _train_entries(folder)
        if len(classes) != n_classes:
            raise DataError(f"{folder}: expected {n_classes} classes to train on, found {len(classes)}")
        val = _val_entries(folder, classes)
    except (OSError, tarfile.TarError, UnicodeError, csv.Error, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder} is not read ({type(error).__name__}: {error})") from error
    return index_arrays(folder, {"train": train, "val": val}, classes)


def _train_entries(folder: Path) -> tuple[list[Entry], list[str]]:
    """Entries and class names of the training images."""
    if (folder / "train").is_dir():
        found = list_class_folders(folder / "train")
        return _entries_of(found, "train"), list(found.class_names)
    if (folder / _TRAIN_TAR).is_file():
        return _official_train(folder / _TRAIN_TAR)
    shards = sorted(folder.glob("*train*.tar"))
    if not shards:
        raise DataMissing(f"{folder} has no folder train, no {_TRAIN_TAR} and no shards *train*.tar")
    entries = [entry for shard in shards for entry in _shard_entries(shard)]
    names = folder / "classes.txt"
    if names.is_file():
        return entries, names.read_text(encoding="utf-8").split()
    return entries, [str(label) for label in range(max(entry.label for entry in entries) + 1)]


def _val_entries(folder: Path, classes: Sequence[str]) -> list[Entry]:
    if (folder / "val").is_dir():
        if any(entry.is_dir() for entry in (folder / "val").iterdir()):
            return _entries_of(list_class_folders(folder / "val", classes), "val")
        files = sorted(file.name for file in (folder / "val").iterdir() if _is_image(file.name))
        labels = _flat_labels(folder, classes, files)
        return [Entry(f"val/{name}", 0, 0, label) for name, label in zip(files, labels, strict=True)]
    if (folder / _VAL_TAR).is_file():
        with tarfile.open(folder / _VAL_TAR) as archive:
            members = sorted((m for m in archive if m.isfile() and _is_image(m.name)), key=lambda m: m.name)
        labels = _flat_labels(folder, classes, [Path(member.name).name for member in members])
        pairs = zip(members, labels, strict=True)
        return [Entry(_VAL_TAR, member.offset_data, member.size, label) for member, label in pairs]
    shards = sorted(folder.glob("*val*.tar"))
    if not shards:
        raise DataMissing(f"{folder} has no folder val, no {_VAL_TAR} and no shards *val*.tar")
    return [entry for shard in shards for entry in _shard_entries(shard)]


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _entries_of(photographs: PhotographList, prefix: str) -> list[Entry]:
    pairs = zip(photographs.files, photographs.labels.tolist(), strict=True)
    return [Entry(f"{prefix}/{name}", 0, 0, label) for name, label in pairs]


def _official_train(path: Path) -> tuple[list[Entry], list[str]]:
    """The tar of a thousand tars, one a class, read through."""
    found: dict[str, list[tuple[int, int]]] = {}
    with tarfile.open(path) as outer:
        for inner in outer:
            stream = outer.extractfile(inner) if inner.isfile() and inner.name.endswith(".tar") else None
            if stream is None:
                continue
            with tarfile.open(fileobj=stream) as archive:
                images = [member for member in archive if member.isfile() and _is_image(member.name)]
            places = [(inner.offset_data + member.offset_data, member.size) for member in images]
            found[Path(inner.name).stem] = places
    classes = sorted(found)
    entries = [Entry(path.name, *place, label) for label, name in enumerate(classes) for place in found[name]]
    return entries, classes


def _shard_entries(path: Path) -> Iterator[Entry]:
    """Images of a shard with the label in the `.cls` file of the same name, beside other files or not."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, suffix = member.name.partition(".")
            if suffix == "cls" and (stream := archive.extractfile(member)) is not None:
                labels[key] = int(stream.read(16))
            elif _is_image(member.name) and member.isfile():
                images[key] = member.offset_data, member.size
    if images.keys() != labels.keys():
        lacking = sorted(images.keys() ^ labels.keys())[0]
        raise DataError(f"{path}: expected an image and a .cls file under each name, one is missing for {lacking}")
    for key, (offset, size) in images.items():
        yield Entry(path.name, offset, size, labels[key])


def _flat_labels(folder: Path, classes: Sequence[str], files: Sequence[str]) -> list[int]:
    """Labels of validation images called ILSVRC2012_val_00000001.JPEG and on, in the order of the sorted names."""
    names = _devkit_classes(folder) if not (folder / _KAGGLE).is_file() else _kaggle_classes(folder / _KAGGLE)
    number = {name: label for label, name in enumerate(classes)}
    stems = [Path(file).stem for file in files]
    lacking = [stem for stem in stems if stem not in names or names[stem] not in number]
    if lacking or not stems:
        what = f"{lacking[0]} has no class to train on" if lacking else "there are no images"
        raise DataError(f"{folder}: validation images lie flat, and {what}")
    return [number[names[stem]] for stem in stems]


def _kaggle_classes(path: Path) -> dict[str, str]:
    """Image -> class, of lines such as `ILSVRC2012_val_00048981,n03995372 85 1 499 272`."""
    with path.open(encoding="utf-8", newline="") as file:
        return {line["ImageId"]: line["PredictionString"].split()[0] for line in csv.DictReader(file)}


def _devkit_classes(folder: Path) -> dict[str, str]:
    """Image -> class by the development kit: a list of numbers, one a line, and what class each number is."""
    numbers = _devkit_file(folder, "ILSVRC2012_validation_ground_truth.txt").decode("ascii").split()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "meta.mat"
        path.write_bytes(_devkit_file(folder, "meta.mat"))
        synsets = read_matlab(path, "synsets")
    try:
        names = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{folder}: meta.mat has no synsets with ILSVRC2012_ID and WNID ({error!r})") from error
    return {f"ILSVRC2012_val_{row:08d}": names[int(number)] for row, number in enumerate(numbers, start=1)}


def _devkit_file(folder: Path, name: str) -> bytes:
    """A file of the kit's folder `data`, out of its folder or its archive."""
    unpacked, archive = folder / DEVKIT / "data" / name, folder / f"{DEVKIT}.tar.gz"
    if unpacked.is_file():
        return unpacked.read_bytes()
    if not archive.is_file():
        raise DataMissing(
            f"{folder}: validation images lie flat; expected {DEVKIT} (a folder or {archive.name}) or {_KAGGLE} beside "
            "them to know their classes"
        )
    with tarfile.open(archive) as kit:
        stream = kit.extractfile(f"{DEVKIT}/data/{name}")
        if stream is None:
            raise DataError(f"{archive}: {name} is no file")
        return stream.read(1 << 24)


IMAGENET = Passport(
    name="imagenet-1k",
    title="ImageNet-1K (ILSVRC2012), classification",
    homepage="https://image-net.org",
    licence="ImageNet terms: non-commercial research and education",
    size="147 GB",
    sources=(),
    decode=decode_imagenet,
    # An index of files has no pixels to hash; the counts identify the set
    content_sha256=None,
    instructions=(
        "Register at the homepage and get ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
        "ILSVRC2012_devkit_t12.tar.gz into one folder (they need not be unpacked), or give a folder with class folders "
        "in train and val. The images stay there: keep the folder."
    ),
    counts={"train_labels": 1_281_167, "val_labels": 50_000, "classes": N_CLASSES},
)
