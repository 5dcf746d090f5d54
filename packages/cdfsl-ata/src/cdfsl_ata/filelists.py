"""The lists of files that circulate for few-shot domains: `base.json`, `val.json` and `novel.json`.

Each holds `label_names`, `image_names` (paths on the machine of whoever wrote it) and `image_labels` (indices into the
names of all classes, those of the other splits included).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cdfsl_ata.splits import SPLITS
from sextet.data import DataError, DataMissing
from sextet.data.photographs import PhotographList, is_inside, list_class_folders
from sextet.files import write_atomic


def filelists_in(folder: Path) -> dict[str, PhotographList]:
    """The lists that lie in a folder, by split; empty where there is no `novel.json` and no `base.json`."""
    if not any((folder / f"{split}.json").is_file() for split in ("base", "novel")):
        return {}
    paths = {split: folder / f"{split}.json" for split in SPLITS}
    return {split: read_filelist(path, folder) for split, path in paths.items() if path.is_file()}


def split_folders_in(folder: Path) -> dict[str, PhotographList]:
    """Class folders below `novel` (and `base`, `val`), by split; empty where there is no folder `novel`."""
    if not (folder / "novel").is_dir():
        return {}
    return {split: list_class_folders(folder / split) for split in SPLITS if (folder / split).is_dir()}


def read_filelist(path: Path, root: Path) -> PhotographList:
    """One list, with its images below `root`.

    The paths in it are cut from the left until the first one is found below `root`; the others are cut as far. Labels
    are counted from 0 in the order of those in the list.

    Raises:
        DataMissing: the first image is not below `root` in any way.
        DataError: the file is no such list.
    """
    content = _content(path)
    names, labels = content["image_names"], content["image_labels"]
    cut = _cut(names[0], root, path)
    files = tuple("/".join(PurePosixPath(name).parts[cut:]) for name in names)
    if unsafe := [name for name in files if not is_inside(name)]:
        raise DataError(f"{path}: {unsafe[0]!r} is no name of a file inside {root}")
    known = sorted(set(labels))
    rows = np.searchsorted(np.array(known), np.array(labels)).astype(np.int64)
    return PhotographList(root, files, rows, tuple(content["label_names"][label] for label in known))


def write_filelists(lists: Mapping[str, PhotographList], folder: Path) -> None:
    """`<split>.json` of every list, with absolute paths, as CloserLook's and CrossDomainFewShot's loaders read them."""
    for split, photographs in lists.items():
        content = {
            "label_names": list(photographs.class_names),
            "image_names": [str(photographs.root.resolve() / name) for name in photographs.files],
            "image_labels": photographs.labels.tolist(),
        }
        write_atomic(folder / f"{split}.json", json.dumps(content).encode())


def _content(path: Path) -> dict[str, Any]:
    """The three lists of a file, checked."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not read ({type(error).__name__}: {error})") from error
    fields = ("label_names", "image_names", "image_labels")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in fields):
        raise DataError(f"{path}: expected a JSON object with the lists {', '.join(fields)}")
    classes, names, labels = (content[name] for name in fields)
    if not names or len(names) != len(labels):
        raise DataError(f"{path}: expected one label an image, got {len(names)} images and {len(labels)} labels")
    if not all(isinstance(name, str) for name in (*classes, *names)):
        raise DataError(f"{path}: expected names as strings")
    if not all(type(label) is int and 0 <= label < len(classes) for label in labels):
        raise DataError(f"{path}: expected labels in 0..{len(classes) - 1}, the names of classes")
    return content


def _cut(name: str, root: Path, path: Path) -> int:
    """How many leading parts of a path to drop so that it lies below `root`."""
    parts = PurePosixPath(name).parts
    for cut in range(len(parts)):
        shorter = "/".join(parts[cut:])
        if is_inside(shorter) and (root / shorter).is_file():
            return cut
    raise DataMissing(f"{path} lists {name}, and no ending of that path is a file below {root}")
