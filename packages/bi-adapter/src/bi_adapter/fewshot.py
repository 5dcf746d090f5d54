"""Few-shot fine-grained classification: five datasets with NOAH's lists of 1, 2, 4, 8 and 16 shots, three draws each.

`<folder>/annotations/{train_meta.list.num_shot_<k>.seed_<s>, val_meta.list, test_meta.list}` with one `path label` a
line, beside the images. A dataset decodes to `packed` and `offsets` (see `image_files.py`), `labels` int64 [n], and
rows of them: `val`, `test`, and `train_<k>_<s>`, an image as often as its list names it: the 1-shot lists of
Oxford-Pets name each image twice, and so fill the batch of 64 that 37 images would not fill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from bi_adapter.image_files import pack_files, read_list
from sextet.data import Arrays, DataError, DataMissing, Passport

SHOTS = (1, 2, 4, 8, 16)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class FewShot:
    """One of the five datasets.

    Attributes:
        name: as the configs call it.
        folder: as NOAH's repository calls it (`standford-cars` is its own spelling).
        title: for people.
        n_classes: labels are 0..n_classes-1; those of Flowers-102 are CoOp's, not the official numbers.
        homepage, licence: of the source.
    """

    name: str
    folder: str
    title: str
    n_classes: int
    homepage: str
    licence: str


_TERMS = "terms at the homepage; research use"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_FOOD = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"
_DATASETS = (
    FewShot("fgvc-aircraft", "fgvc-aircraft", "FGVC-Aircraft (variants)", 100, f"{_VGG}/fgvc-aircraft", _TERMS),
    FewShot("food101", "food101", "Food-101", 101, _FOOD, _TERMS),
    FewShot("flowers102", "oxford-flowers102", "Flowers-102", 102, f"{_VGG}/flowers/102", _TERMS),
    FewShot("pets", "oxford-pets", "Oxford-Pets", 37, f"{_VGG}/pets", "CC BY-SA 4.0"),
    FewShot("cars", "standford-cars", "Stanford Cars", 196, "https://ai.stanford.edu/~jkrause/cars", _TERMS),
)
FEW_SHOT: Mapping[str, FewShot] = {dataset.name: dataset for dataset in _DATASETS}


@cache
def published_lists() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Folder -> list -> `sha256`, number of `lines`, of `unique` lines and of `classes`, `first` and `last` line."""
    return json.loads((resources.files("bi_adapter") / "fewshot_lists.json").read_text(encoding="utf-8"))


def list_names() -> dict[str, str]:
    """Array -> list file: `val`, `test` and `train_<shots>_<seed>`."""
    train = {f"train_{k}_{s}": f"train_meta.list.num_shot_{k}.seed_{s}" for k in SHOTS for s in SEEDS}
    return {"val": "val_meta.list", "test": "test_meta.list", **train}


def decode_few_shot(folder: Path, dataset: FewShot, published: Mapping[str, Mapping[str, Any]] | None = None) -> Arrays:
    """One dataset out of its folder.

    Args:
        folder: with `annotations` and the images, directly below it or in `images`.
        dataset: which.
        published: list -> what its `sha256` must be; the published ones by default, `{}` not to check.

    Raises:
        DataMissing: the lists are not there or are another dataset's.
        DataError: lists, labels or images are not the published ones.
    """
    paths = {array: folder / "annotations" / name for array, name in list_names().items()}
    if not all(path.is_file() for path in paths.values()):
        raise DataMissing(f"{folder} has no folder annotations with the 17 lists of NOAH's few-shot benchmark")
    published = published_lists()[dataset.folder] if published is None else published
    if _is_another(folder, paths["test"], dataset):
        raise DataMissing(f"{folder} holds the lists of another dataset than {dataset.title}")
    read = {}
    for array, path in paths.items():
        read[array] = read_list(path, dataset.n_classes)
        expected = published.get(path.name, {}).get("sha256", read[array][2])
        if read[array][2] != expected:
            raise DataError(f"{path} is not the published list: SHA-256 {read[array][2]} instead of {expected}")
    _check_lists(read, dataset, folder)
    label_of = {
        name: label for names, labels, _ in read.values() for name, label in zip(names, labels.tolist(), strict=True)
    }
    names = list(label_of)
    root = next((place for place in (folder, folder / "images") if (place / names[0]).is_file()), None)
    if root is None:
        raise DataMissing(f"{folder} has the lists but no image {names[0]}, nor images/{names[0]}")
    packed, offsets = pack_files(root, names)
    position = {name: row for row, name in enumerate(names)}
    rows = {array: np.array([position[name] for name in part[0]], np.int64) for array, part in read.items()}
    return {"packed": packed, "offsets": offsets, "labels": np.array(list(label_of.values()), np.int64), **rows}


def _is_another(folder: Path, test: Path, dataset: FewShot) -> bool:
    """Whether the test list's last label says that this folder is one of the other datasets."""
    try:
        labels = {int(line.rpartition(" ")[2]) for line in test.read_text(encoding="utf-8").splitlines()}
    except (OSError, ValueError):
        raise DataError(f"{folder}: {test.name} is not read") from None
    return len(labels) != dataset.n_classes


def _check_lists(read: Mapping[str, tuple[list[str], np.ndarray, str]], dataset: FewShot, folder: Path) -> None:
    """Shots, classes, one label an image, disjoint splits."""
    seen: dict[str, int] = {}
    for array, (names, labels, _) in read.items():
        for name, label in zip(names, labels.tolist(), strict=True):
            if seen.setdefault(name, label) != label:
                raise DataError(f"{folder}: {name} has label {seen[name]} in one list and {label} in {array}")
        if array.startswith("train_"):
            shots = int(array.split("_")[1])
            distinct = np.array([seen[name] for name in dict.fromkeys(names)])
            counts = np.bincount(distinct, minlength=dataset.n_classes)
            if not (counts == shots).all():
                raise DataError(f"{folder}: {array} has {counts.min()}..{counts.max()} images a class, not {shots}")
    train = {name for array, part in read.items() if array.startswith("train_") for name in part[0]}
    for one, other, shared in (
        ("train", "val", train & set(read["val"][0])),
        ("train", "test", train & set(read["test"][0])),
        ("val", "test", set(read["val"][0]) & set(read["test"][0])),
    ):
        if shared:
            raise DataError(f"{folder}: {one} and {other} lists share {len(shared)} images, such as {min(shared)}")


def few_shot_passport(dataset: FewShot) -> Passport:
    """The passport of one dataset, `fewshot-<name>`."""
    lists = published_lists()[dataset.folder]
    return Passport(
        name=f"fewshot-{dataset.name}",
        title=f"{dataset.title} with NOAH's few-shot lists, {dataset.n_classes} classes",
        homepage=dataset.homepage,
        licence=dataset.licence,
        size="1 to 5 GB",
        sources=(),
        decode=partial(decode_few_shot, dataset=dataset),
        # No copy was at hand to hash; the lists have published hashes, which are checked
        content_sha256=None,
        instructions=(
            f"Get data/few-shot/{dataset.folder} of github.com/ZhangYuanhan-AI/NOAH (lists) and put the images beside "
            "its folder annotations, as CoOp's DATASETS.md tells; the first line of the test list is "
            f"{lists['test_meta.list']['first']!r}. Any folder above it will do."
        ),
        counts={array: int(lists[name]["lines"]) for array, name in list_names().items()},
    )


FEW_SHOT_PASSPORTS: Mapping[str, Passport] = {dataset.name: few_shot_passport(dataset) for dataset in _DATASETS}
