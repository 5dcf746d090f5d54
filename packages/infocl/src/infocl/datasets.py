"""The datasets of the evaluation (6.2): how their official files are read, and what is known about them.

Decoders take an unpacked folder as the publishers lay it out; `sextet.data.adopt` finds it inside whatever folder or
archive one has. Photographs keep their bytes (`stored_images`); ImageNet keeps its files and stores a list of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from infocl.splits import Rows, first_seen, split_by_class
from infocl.stored_images import pack
from sextet.data import Arrays, DataError, DataMissing
from sextet.data.matlab import read_matlab
from sextet.data.photographs import PhotographList, list_class_folders

STL10_SIDE = 96


def decode_stl10(folder: Path) -> Arrays:
    """STL-10 from its binary files: `train_*`, `test_*` images [n, 96, 96, 3] with labels, and `unlabeled_images`.

    Every channel of an image is stored column by column; labels count from 1.
    """
    names = {"train_images": "train_X", "test_images": "test_X", "unlabeled_images": "unlabeled_X"}
    files = {key: folder / f"{name}.bin" for key, name in names.items()}
    labels = {f"{split}_labels": folder / f"{split}_y.bin" for split in ("train", "test")}
    _require(folder, [*files.values(), *labels.values()])
    arrays: Arrays = {}
    for key, path in files.items():
        if not path.stat().st_size or path.stat().st_size % (3 * STL10_SIDE**2):
            raise DataError(f"{path}: expected images of {3 * STL10_SIDE**2} bytes, found {path.stat().st_size} bytes")
        planes = np.memmap(path, np.uint8, "r").reshape(-1, 3, STL10_SIDE, STL10_SIDE)
        arrays[key] = np.ascontiguousarray(planes.transpose(0, 3, 2, 1))
    for key, path in labels.items():
        arrays[key] = np.fromfile(path, np.uint8).astype(np.int64) - 1
        images = arrays[key.replace("labels", "images")]
        if len(arrays[key]) != len(images) or not set(np.unique(arrays[key])) <= set(range(10)):
            raise DataError(f"{path}: expected {len(images)} labels in 1..10")
    return arrays


def decode_dtd(folder: Path) -> Arrays:
    """Describable Textures: `images/<class>/*.jpg` and its first official split, `labels/{train,val,test}1.txt`.

    Images to train and to validate train.
    """
    lists = [folder / "labels" / f"{split}1.txt" for split in ("train", "val", "test")]
    _require(folder, [*lists, folder / "images"])
    train, val, test = (_lines(path) for path in lists)
    names = [*train, *val, *test]
    classes = sorted({name.partition("/")[0] for name in names})
    labels = np.array([classes.index(name.partition("/")[0]) for name in names], np.int64)
    rows = np.split(np.arange(len(names)), [len(train) + len(val)])
    return _photographs(PhotographList(folder / "images", tuple(names), labels, tuple(classes)), (rows[0], rows[1]))


def decode_cub(folder: Path) -> Arrays:
    """Caltech-UCSD Birds 200-2011: whole images, the official split."""
    tables = [folder / f"{name}.txt" for name in ("images", "image_class_labels", "train_test_split", "classes")]
    _require(folder, [*tables, folder / "images"])
    images, labels, split, classes = (dict(_pairs(path)) for path in tables)
    if not images.keys() == labels.keys() == split.keys() or not set(labels.values()) <= classes.keys():
        raise DataError(f"{folder}: images.txt, image_class_labels.txt, train_test_split.txt and classes.txt disagree")
    names = list(classes)
    numbers = np.array([names.index(labels[key]) for key in images], np.int64)
    training = np.array([split[key] == "1" for key in images])
    photographs = PhotographList(folder / "images", tuple(images.values()), numbers, tuple(classes.values()))
    return _photographs(photographs, (np.flatnonzero(training), np.flatnonzero(~training)))


def decode_flowers(folder: Path) -> Arrays:
    """Oxford 102 Flowers: `imagelabels.mat` and `jpg/image_00001.jpg`, ..., beside it or one folder down.

    The split is the paper's own, 80 % of each class; the official one is not used.
    """
    path = folder / "imagelabels.mat"
    _require(folder, [path])
    images = next((found for found in (folder / "jpg", *sorted(folder.glob("*/jpg"))) if found.is_dir()), None)
    if images is None:
        raise DataMissing(f"{folder} has imagelabels.mat but no folder jpg")
    try:
        labels = np.array(read_matlab(path, "labels"), np.int64).reshape(-1)
    except (TypeError, OverflowError) as error:
        raise DataError(f"{path}: expected numbers in labels ({error})") from error
    if not len(labels) or labels.min() < 1 or labels.max() > 102:
        raise DataError(f"{path}: expected labels in 1..102")
    names = tuple(f"image_{number:05d}.jpg" for number in range(1, len(labels) + 1))
    photographs = PhotographList(images, names, labels - 1, tuple(str(number) for number in range(1, 103)))
    return _photographs(photographs, split_by_class(labels, first_seen(labels.tolist())))


def decode_traffic_signs(folder: Path) -> Arrays:
    """GTSRB's `Final_Training/Images/000CC/*.ppm`, split by the paper: 80 % of each class, frames of one track apart.

    Tracks hold some 30 nearly equal frames and lie on both sides, which flatters accuracies; see
    `decode_traffic_signs_official`.
    """
    photographs = _traffic_training(folder)
    return _photographs(photographs, split_by_class(photographs.labels, range(len(photographs.class_names))))


def decode_traffic_signs_official(folder: Path) -> Arrays:
    """All of GTSRB's training images, and its official test images: `Final_Test/Images`, `GT-final_test.csv`."""
    train = _traffic_training(folder)
    tests = folder / "Final_Test" / "Images"
    table = next((path for path in (folder / "GT-final_test.csv", tests / "GT-final_test.csv") if path.is_file()), None)
    if table is None or not tests.is_dir():
        raise DataMissing(f"{folder} has no Final_Test/Images with GT-final_test.csv (the one with class ids)")
    lines = [line.split(";") for line in _lines(table)]
    if lines[0][0] != "Filename" or lines[0][-1] != "ClassId" or not all(line[-1].isdecimal() for line in lines[1:]):
        raise DataError(f"{table}: expected columns Filename;...;ClassId")
    files = [f"Final_Test/Images/{line[0]}" for line in lines[1:]]
    labels = np.concatenate([train.labels, np.array([int(line[-1]) for line in lines[1:]], np.int64)])
    names = tuple(f"Final_Training/Images/{name}" for name in train.files) + tuple(files)
    rows = np.split(np.arange(len(names)), [len(train)])
    return _photographs(PhotographList(folder, names, labels, train.class_names), (rows[0], rows[1]))


def _traffic_training(folder: Path) -> PhotographList:
    images = folder / "Final_Training" / "Images"
    _require(folder, [images])
    names = sorted(entry.name for entry in images.iterdir() if entry.is_dir())
    return list_class_folders(images, names)


def decode_aircraft(folder: Path) -> Arrays:
    """FGVC Aircraft, 100 variants: the official trainval and test images, each cropped to its bounding box."""
    lists = [folder / f"images_variant_{split}.txt" for split in ("trainval", "test")]
    boxes, variants = folder / "images_box.txt", folder / "variants.txt"
    _require(folder, [*lists, boxes, variants, folder / "images"])
    train, test = ([*_pairs(path)] for path in lists)
    classes = _lines(variants)
    box = dict(_pairs(boxes))
    rows = [*train, *test]
    if unknown := {name for _, name in rows} - set(classes):
        raise DataError(f"{folder}: variants.txt does not name {sorted(unknown)[:3]}")
    try:
        corners = np.array([[int(value) for value in box[image].split()] for image, _ in rows], np.int64)
        corners = corners.reshape(len(rows), 4)
    except (KeyError, ValueError) as error:
        raise DataError(f"{boxes}: expected a line 'image left top right bottom' for every image ({error})") from error
    labels = np.array([classes.index(name) for _, name in rows], np.int64)
    photographs = PhotographList(folder / "images", tuple(f"{image}.jpg" for image, _ in rows), labels, tuple(classes))
    parts = np.split(np.arange(len(rows)), [len(train)])
    return {**_photographs(photographs, (parts[0], parts[1])), "boxes": corners}


def decode_imagenet(folder: Path) -> Arrays:
    """ILSVRC2012 from `train/<class>/*.JPEG` and `val/<class>/*.JPEG`: the list of files; they stay where they are."""
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise DataMissing(f"{folder} has no folders train and val")
    train, val = (list_class_folders(folder / split) for split in ("train", "val"))
    if train.class_names != val.class_names:
        differing = sorted(set(train.class_names) ^ set(val.class_names))
        raise DataError(f"{folder}: train and val have other classes, such as {differing[:3]}")
    arrays: Arrays = {"folder": np.array([str(folder.resolve())]), "class_names": np.array(train.class_names)}
    for split, part in (("train", train), ("test", val)):
        names = [name.encode("ascii", "replace") for name in part.files]
        arrays |= {f"{split}_files": np.array(names), f"{split}_labels": part.labels}
    return arrays


def _photographs(photographs: PhotographList, rows: Rows) -> Arrays:
    """Files packed, with the rows that train and those that test."""
    if not len(rows[0]) or not len(rows[1]):
        raise DataError(f"{photographs.root}: no images to train on, or none to test on")
    return {**pack(photographs), "train_rows": rows[0], "test_rows": rows[1]}


def _require(folder: Path, paths: Sequence[Path]) -> None:
    missing = [path.relative_to(folder).as_posix() for path in paths if not path.exists()]
    if missing:
        raise DataMissing(f"{folder} has no {', '.join(missing)}")


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not read ({error})") from error
    if not any(lines):
        raise DataError(f"{path} is empty")
    return [line for line in lines if line]


def _pairs(path: Path) -> list[tuple[str, str]]:
    """First word and rest of every line."""
    parts = [line.partition(" ") for line in _lines(path)]
    if broken := next((number for number, part in enumerate(parts, 1) if not part[2]), None):
        raise DataError(f"{path}: expected two words or more in line {broken}")
    return [(first, rest.strip()) for first, _, rest in parts]
