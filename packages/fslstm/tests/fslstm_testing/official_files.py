"""Made-up images in the files that CIFAR-FS, mini-ImageNet and Places365 circulate in, with fewer images a class."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fslstm.splits import CIFAR_FS_CLASSES, MINI_IMAGENET_CLASSES, SPLITS, names_in_order
from sextet.data import CIFAR100


def patterns(classes: int, per_class: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [classes * per_class, side, side, 3] and their labels: a pattern a class under one an image."""
    rng = np.random.default_rng(seed)
    labels = np.arange(classes).repeat(per_class)
    own = rng.integers(-64, 65, (len(labels), 4, 4, 3))
    # [n, 4, 4, 3]
    coarse = np.clip(128 + rng.integers(-64, 65, (classes, 4, 4, 3))[labels] + own, 0, 255).astype(np.uint8)
    rows = np.arange(side) * 4 // side
    return coarse[:, rows][:, :, rows], labels


def planes(images: np.ndarray) -> np.ndarray:
    """Images [n, 32, 32, 3] as rows of 3072 bytes, colour by colour, as in the CIFAR files."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def cifar100(per_class: int = 6) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images and fine labels of the official training part (5 of 6 images a class) and test part, shuffled."""
    images, labels = patterns(100, per_class, 32)
    in_test = np.tile(np.arange(per_class) >= per_class * 5 // 6, 100)
    order = np.random.default_rng(1).permutation(len(labels))
    parts = []
    for chosen in (~in_test, in_test):
        rows = order[chosen[order]]
        parts.append({"images": images[rows], "labels": labels[rows]})
    return parts[0], parts[1]


def write_cifar100_python(path: Path, per_class: int = 6) -> Path:
    """The archive `cifar-100-python.tar.gz`."""
    with tarfile.open(path, "w:gz") as tar:
        for name, part in zip(("train", "test"), cifar100(per_class), strict=True):
            fine = part["labels"].tolist()
            content = {
                "filenames": [f"{i}.png" for i in range(len(fine))], "batch_label": name, "fine_labels": fine,
                "coarse_labels": [label // 5 for label in fine], "data": planes(part["images"]),
            }  # fmt: skip
            add_file(tar, f"cifar-100-python/{name}", pickle.dumps(content, protocol=2))
        names = {"fine_label_names": list(CIFAR100.class_names), "coarse_label_names": [str(i) for i in range(20)]}
        add_file(tar, "cifar-100-python/meta", pickle.dumps(names, protocol=2))
    return path


def write_cifar100_binary(folder: Path, per_class: int = 6) -> Path:
    """The unpacked `cifar-100-binary`: coarse label, fine label, planes."""
    folder.mkdir(parents=True)
    for name, part in zip(("train", "test"), cifar100(per_class), strict=True):
        labels = part["labels"][:, None].astype(np.uint8)
        np.hstack([labels // 5, labels, planes(part["images"])]).tofile(folder / f"{name}.bin")
    return folder


def write_cifar_fs_pickles(folder: Path, per_class: int = 6, **changes: Any) -> Path:
    """`CIFAR_FS_train.pickle`, `CIFAR_FS_val.pickle`, `CIFAR_FS_test.pickle`."""
    return write_category_pickles(folder, [f"CIFAR_FS_{split}.pickle" for split in SPLITS], 32, per_class, **changes)


def write_mini_pickles(folder: Path, per_class: int = 6, **changes: Any) -> Path:
    """The three pickles of MetaOptNet that the paper uses."""
    names = [f"miniImageNet_category_split_{name}.pickle" for name in ("train_phase_train", "val", "test")]
    return write_category_pickles(folder, names, 84, per_class, **changes)


def write_category_pickles(folder: Path, names: list[str], side: int, per_class: int, **changes: Any) -> Path:
    """Dicts of data and labels, the labels of all splits apart; `changes` go into the last one."""
    folder.mkdir(parents=True)
    images, labels = patterns(100, per_class, side)
    first = 0
    for name, classes in zip(names, (64, 16, 20), strict=True):
        rows = np.flatnonzero((labels >= first) & (labels < first + classes))
        rows = np.random.default_rng(2).permutation(rows)
        content = {"data": images[rows], "labels": labels[rows].tolist()}
        content |= changes if name == names[-1] else {}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        first += classes
    return folder


def write_cifar_fs_folders(folder: Path, per_class: int = 6) -> Path:
    """The content of `cifar100.zip`: `data/<class>/*.png` and the split lists."""
    images, labels = patterns(100, per_class, 32)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / "data" / CIFAR100.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row:05}.png")
    (folder / "splits/bertinetto").mkdir(parents=True)
    for split in SPLITS:
        (folder / f"splits/bertinetto/{split}.txt").write_text("\n".join(reversed(CIFAR_FS_CLASSES[split])))
    return folder


def write_mini_cache(folder: Path, per_class: int = 6, val: str = "val") -> Path:
    """`mini-imagenet-cache-train.pkl` and so on."""
    folder.mkdir(parents=True)
    images, labels = patterns(100, per_class, 84)
    names = np.array(names_in_order(MINI_IMAGENET_CLASSES))[labels]
    for split, called in zip(SPLITS, ("train", val, "test"), strict=True):
        rows = np.random.default_rng(3).permutation(np.flatnonzero(np.isin(names, MINI_IMAGENET_CLASSES[split])))
        rows_of = {name: np.flatnonzero(names[rows] == name).tolist() for name in MINI_IMAGENET_CLASSES[split]}
        content = {"image_data": images[rows], "class_dict": rows_of}
        (folder / f"mini-imagenet-cache-{called}.pkl").write_bytes(pickle.dumps(content, protocol=3))
    return folder


def write_ilsvrc(folder: Path, per_class: int = 2) -> Path:
    """`train/<wnid>/<wnid>_<number>.JPEG`, one image a class more than the lists name, and the lists."""
    images, labels = patterns(100, per_class + 1, 84)
    names = names_in_order(MINI_IMAGENET_CLASSES)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / "train" / names[label]
        place.mkdir(parents=True, exist_ok=True)
        size = (100, 90) if row % 2 else (84, 120)
        Image.fromarray(image).resize(size).save(place / f"{names[label]}_{row % (per_class + 1)}.JPEG", quality=95)
    for split in SPLITS:
        lines = [f"{name},{name}_{number}.JPEG" for name in MINI_IMAGENET_CLASSES[split] for number in range(per_class)]
        (folder / f"{split}.csv").write_text("\n".join(["class_name,image_name", *lines]) + "\n")
    return folder


def write_places(folder: Path, classes: int = 3, train: int = 6, val: int = 2) -> Path:
    """The unpacked easyformat archive: `train/<scene>/00000001.jpg`, `val/<scene>/Places365_val_00000001.jpg`."""
    names = [f"scene-{letter}" for letter in "abcdefghij"[:classes]]
    for split, count, prefix in (("train", train, ""), ("val", val, "Places365_val_")):
        images, labels = patterns(classes, count, 48, seed=5)
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / split / names[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((64, 48) if row % 2 else (48, 60)).save(place / f"{prefix}{row:08}.jpg")
    return folder


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put a file into an archive."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
