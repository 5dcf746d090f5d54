"""Where the images of each domain lie in its official files, and which class and split they belong to (section 10).

Every function takes a folder and gives a list of photographs for each split. It raises `DataMissing` where the folder
does not hold the domain, and `DataError` where it holds a part of it; nothing is decoded here.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cdfsl_ata.places_classes import PLACES_CLASSES
from cdfsl_ata.splits import (
    CHESTX_CLASSES,
    CROP_CLASSES,
    EUROSAT_CLASSES,
    ISIC_CLASSES,
    MINI_IMAGENET_CLASSES,
    modulo_split,
)
from sextet.data import DataError, DataMissing
from sextet.data.matlab import read_matlab
from sextet.data.photographs import SUFFIXES, PhotographList, list_class_folders

Photographs = dict[str, PhotographList]
CUB_COUNT, CARS_COUNT, PLANTAE_COUNT = 200, 196, 200
PLACES_PER_CLASS, PLANTAE_PER_CLASS = 200, 600


def find_mini_imagenet(folder: Path) -> Photographs:
    """`train`, `val`, `test` with WordNet ids below; or all 100 of them in one folder, with `train.csv`, ... beside."""
    names = dict(zip(MINI_IMAGENET_CLASSES, ("train", "val", "test"), strict=True))
    if all((folder / f"{name}.csv").is_file() for name in names.values()):
        root = _first(folder, ("", "train", "images", "ILSVRC2012_img_train"), MINI_IMAGENET_CLASSES["base"][0])
        return {split: _listed(folder / f"{name}.csv", root) for split, name in names.items()}
    found: Photographs = {}
    for split, classes in MINI_IMAGENET_CLASSES.items():
        places = [place for place in (folder / names[split], folder) if (place / classes[0]).is_dir()]
        found[split] = named_classes(places[0] if places else folder, classes)
    return found


def find_cub(folder: Path) -> Photographs:
    """`images` (or the folder itself) with `001.Name` to `200.Name` below."""
    for root in (folder / "images", folder):
        numbered = {int(path.name[:3]): path.name for path in _folders(root) if re.match(r"\d{3}\.", path.name)}
        if numbered:
            _complete(root, range(1, CUB_COUNT + 1), numbered)
            return _by_modulo(list_class_folders(root, sorted(numbered.values())))
    raise DataMissing(f"{folder} has no class folders like 001.Black_footed_Albatross")


def find_cars(folder: Path) -> Photographs:
    """`cars_train` with the images and `devkit/cars_train_annos.mat` with the classes of their file names."""
    annotations = _file(folder, ("devkit/", "", "car_devkit/devkit/"), "cars_train_annos.mat")
    root = _first(folder, ("cars_train/cars_train", "cars_train"))
    names, labels = read_car_annotations(annotations)
    _complete(annotations, range(CARS_COUNT), set(labels.tolist()))
    titles = tuple(f"{number + 1:03d}" for number in range(CARS_COUNT))
    return _by_modulo(PhotographList(root, names, labels, titles))


def read_car_annotations(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """File names and classes, int64 `[n]` counted from 0, of `cars_train_annos.mat`.

    Raises:
        DataError: the file is not such a one.
    """
    rows = read_matlab(path, "annotations")
    try:
        return tuple(str(row["fname"]) for row in rows), np.array([int(row["class"]) - 1 for row in rows], np.int64)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: expected annotations with fname and class ({error!r})") from error


def find_places(folder: Path) -> Photographs:
    """`train` (or the folder itself) with the 365 scenes below; the first 200 files by name of each."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    everything = named_classes(root, PLACES_CLASSES)
    return _by_modulo(everything.subset(_first_of_each(everything.labels, PLACES_PER_CLASS)))


def find_plantae(folder: Path) -> Photographs:
    """A folder a species: the 200 with most images in ascending order of their number, at most 600 of each.

    Which species come first among equally many, and which 600 images are drawn, is not recorded anywhere for the
    published split; here names and a hash of the file names decide.
    """
    species = [path.name for path in _folders(folder)]
    if len(species) < PLANTAE_COUNT:
        raise DataMissing(f"{folder} has {len(species)} folders, fewer than {PLANTAE_COUNT} species")
    everything = list_class_folders(folder)
    counts = np.bincount(everything.labels)
    if len(counts) < PLANTAE_COUNT:
        raise DataMissing(f"{folder} has images in {len(counts)} folders, fewer than {PLANTAE_COUNT} species")
    largest = sorted(range(len(counts)), key=lambda label: (counts[label], everything.class_names[label]))
    ordered = [everything.class_names[label] for label in largest[-PLANTAE_COUNT:]]
    chosen = list_class_folders(folder, ordered)
    shuffled = np.array(sorted(range(len(chosen)), key=lambda row: _hash(chosen.files[row])))
    rows = shuffled[_first_of_each(chosen.labels[shuffled], PLANTAE_PER_CLASS)]
    return _by_modulo(chosen.subset(np.sort(rows)))


def find_crop_diseases(folder: Path) -> Photographs:
    """A folder a class; names may lack what stands in brackets, as `Corn___healthy`."""

    def key(name: str) -> str:
        return re.sub(r"\(.*?\)|[^a-z]", "", name.lower())

    there = {key(path.name): path.name for path in _folders(folder)}
    names = {there[key(name)]: name for name in CROP_CLASSES if key(name) in there}
    if not names:
        raise DataMissing(f"{folder} has no class folders like {CROP_CLASSES[0]}")
    _complete(folder, CROP_CLASSES, names.values())
    found = named_classes(folder, list(names))
    return {"novel": PhotographList(folder, found.files, found.labels, CROP_CLASSES)}


def find_eurosat(folder: Path) -> Photographs:
    """A folder a class (`2750` in the archive)."""
    return {"novel": named_classes(folder, EUROSAT_CLASSES)}


def find_isic(folder: Path) -> Photographs:
    """`ISIC2018_Task3_Training_Input` and `..._GroundTruth.csv`; or the same images as HAM10000 with its metadata."""
    truth = "ISIC2018_Task3_Training_GroundTruth"
    if (folder / "HAM10000_metadata.csv").is_file():
        rows = _rows(folder / "HAM10000_metadata.csv", "image_id", "dx")
        table = [(row["image_id"], row["dx"].upper()) for row in rows]
    else:
        path = _file(folder, (f"{truth}/", ""), f"{truth}.csv")
        table = []
        for row in _rows(path, "image", *ISIC_CLASSES):
            marked = [name for name in ISIC_CLASSES if row[name].strip() in ("1", "1.0")]
            table.append((row["image"], marked[0] if len(marked) == 1 else ""))
    if unknown := [image for image, name in table if name not in ISIC_CLASSES]:
        raise DataError(f"{folder}: {unknown[0]} has no class out of {', '.join(ISIC_CLASSES)}")
    places = ("ISIC2018_Task3_Training_Input", "HAM10000_images_part_1", "HAM10000_images_part_2", ".")
    return {"novel": _tabled(folder, [(f"{image}.jpg", name) for image, name in table], places, ISIC_CLASSES)}


def find_chestx(folder: Path) -> Photographs:
    """`Data_Entry_2017.csv` and `images` (or `images_001/images`, ...): what has exactly one of the seven findings."""
    path = next((path for name in ("", "_v2020") if (path := folder / f"Data_Entry_2017{name}.csv").is_file()), None)
    if path is None:
        raise DataMissing(f"{folder} has no Data_Entry_2017.csv")
    rows = _rows(path, "Image Index", "Finding Labels")
    table = [(row["Image Index"], row["Finding Labels"]) for row in rows if row["Finding Labels"] in CHESTX_CLASSES]
    numbered = [f"images_{number:03d}" for number in range(1, 13)]
    places = ("images", *(f"{name}/images" for name in numbered), *numbered, ".")
    return {"novel": _tabled(folder, table, places, CHESTX_CLASSES)}


def named_classes(root: Path, names: Sequence[str]) -> PhotographList:
    """`list_class_folders`, telling a folder without any of the classes from one that lacks some."""
    there = [name for name in names if (root / name).is_dir()]
    if not there:
        raise DataMissing(f"{root} has no class folders like {names[0]}")
    _complete(root, names, there)
    try:
        return list_class_folders(root, names)
    except DataMissing as error:
        raise DataError(str(error)) from error


def _by_modulo(photographs: PhotographList) -> Photographs:
    """The three splits of classes in their order, labels counted from 0 in each."""
    found = {}
    for split, classes in modulo_split(len(photographs.class_names)).items():
        rows = np.flatnonzero(np.isin(photographs.labels, classes))
        labels = np.searchsorted(classes, photographs.labels[rows]).astype(np.int64)
        files = tuple(photographs.files[row] for row in rows)
        names = tuple(photographs.class_names[label] for label in classes)
        found[split] = PhotographList(photographs.root, files, labels, names)
    return found


def _tabled(
    folder: Path, table: Sequence[tuple[str, str]], places: Iterable[str], classes: Sequence[str]
) -> PhotographList:
    """Files of a table of (bare name, class), wherever among `places` they lie; where none has it, in the first."""
    known = [place for place in places if (folder / place).is_dir()]
    where = {
        path.name: f"{place}/{path.name}".removeprefix("./")
        for place in reversed(known)
        for path in (folder / place).iterdir()
        if path.suffix.lower() in SUFFIXES
    }
    if not any(name in where for name, _ in table):
        raise DataMissing(f"{folder} has the table of classes, but none of the images in it")
    _complete(folder, classes, {name for _, name in table})
    files = tuple(where.get(name, f"{known[0]}/{name}") for name, _ in table)
    return PhotographList(folder, files, np.array([classes.index(name) for _, name in table], np.int64), tuple(classes))


def _listed(path: Path, root: Path) -> PhotographList:
    """Files of a csv list with columns `class_name` and `image_name`, below class folders in `root`."""
    rows = [(row["class_name"], row["image_name"]) for row in _rows(path, "class_name", "image_name")]
    classes = tuple(sorted({name for name, _ in rows}))
    files = tuple(f"{name}/{image}" for name, image in rows)
    return PhotographList(root, files, np.array([classes.index(name) for name, _ in rows], np.int64), classes)


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a csv file that has some columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            rows = [{name: row[name] or "" for name in columns} for row in reader] if not missing else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not read ({type(error).__name__}: {error})") from error
    if missing or not rows:
        raise DataError(f"{path}: expected rows with the columns {', '.join(columns)}")
    return rows


def _complete(where: Path, expected: Iterable[object], found: Iterable[object]) -> None:
    """Raise DataError naming the classes that are missing."""
    there = set(found)
    if missing := [str(name) for name in expected if name not in there]:
        more = ", ..." if len(missing) > 5 else ""
        raise DataError(f"{where} lacks {len(missing)} classes: {', '.join(missing[:5])}{more}")


def _first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Rows that are among the first `count` of their label."""
    seen: dict[int, int] = defaultdict(int)
    rows = []
    for row, label in enumerate(labels.tolist()):
        seen[label] += 1
        if seen[label] <= count:
            rows.append(row)
    return np.array(rows, np.int64)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _first(folder: Path, places: Iterable[str], inside: str = "") -> Path:
    """The first of some folders that is there (and holds `inside`)."""
    found = next((folder / place for place in places if (folder / place / inside).is_dir()), None)
    if found is None:
        raise DataMissing(f"{folder} has no folder {inside or ' or '.join(places)}")
    return found


def _file(folder: Path, places: Iterable[str], name: str) -> Path:
    found = next((path for place in places if (path := folder / f"{place}{name}").is_file()), None)
    if found is None:
        raise DataMissing(f"{folder} has no {name}")
    return found


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


LAYOUTS: Mapping[str, Callable[[Path], Photographs]] = {
    "mini-imagenet": find_mini_imagenet,
    "cub": find_cub,
    "cars": find_cars,
    "places": find_places,
    "plantae": find_plantae,
    "crop-diseases": find_crop_diseases,
    "eurosat": find_eurosat,
    "isic": find_isic,
    "chestx": find_chestx,
}
"""Domain -> how its official files are read."""
