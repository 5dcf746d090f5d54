"""Small datasets laid out as the official files are, with passports that expect as much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from infocl import passports
from infocl.passports import DATASETS, Dataset
from sextet.data import DataMissing, Passport, adopt

RNG = np.random.default_rng(0)


def picture(path: Path, colour: int = 0, size: tuple[int, int] = (20, 16)) -> None:
    """An image file whose content depends on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([colour, *path.name.encode()])
    pixels = rng.integers(0, 60, (size[1], size[0], 3), np.uint8) + np.uint8(60 * (colour % 3))
    Image.fromarray(pixels).save(path)


def text(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def make_dtd(folder: Path, classes: int = 3) -> None:
    for number, split in enumerate(("train", "val", "test")):
        names = [f"class_{c}/class_{c}_{number}{k}.jpg" for c in range(classes) for k in range(2)]
        text(folder / "dtd" / "labels" / f"{split}1.txt", names)
        for name in names:
            picture(folder / "dtd" / "images" / name, int(name[6]))


def make_cub(folder: Path) -> None:
    root = folder / "CUB_200_2011"
    names = [f"{c + 1:03d}.Bird_{c}/bird_{c}_{k}.jpg" for c in range(3) for k in range(4)]
    text(root / "images.txt", [f"{n} {name}" for n, name in enumerate(names, 1)])
    text(root / "image_class_labels.txt", [f"{n} {int(name[:3])}" for n, name in enumerate(names, 1)])
    text(root / "train_test_split.txt", [f"{n} {int(n % 2)}" for n in range(1, 13)])
    text(root / "classes.txt", [f"{c + 1} {c + 1:03d}.Bird_{c}" for c in range(3)])
    for name in names:
        picture(root / "images" / name, int(name[:3]))


def make_flowers(folder: Path) -> None:
    labels = np.array([3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2], np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "imagelabels.mat", {"labels": labels[None]}, do_compression=True)
    for number, label in enumerate(labels, 1):
        picture(folder / "jpg" / f"image_{number:05d}.jpg", int(label))


def make_traffic(folder: Path, classes: int = 3) -> None:
    root = folder / "GTSRB"
    for c in range(classes):
        for k in range(5):
            picture(root / "Final_Training" / "Images" / f"{c:05d}" / f"00000_{k:05d}.ppm", c)
        text(root / "Final_Training" / "Images" / f"{c:05d}" / f"GT-{c:05d}.csv", ["Filename;Width"])
    lines = [f"{k:05d}.ppm;20;16;1;1;18;14;{k % classes}" for k in range(4)]
    text(root / "GT-final_test.csv", ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", *lines])
    for k in range(4):
        picture(root / "Final_Test" / "Images" / f"{k:05d}.ppm", k % classes)


def make_aircraft(folder: Path) -> None:
    root = folder / "fgvc-aircraft-2013b" / "data"
    text(root / "variants.txt", ["707-320", "F/A-18", "Boeing 717"])
    text(root / "images_variant_trainval.txt", ["0000001 Boeing 717", "0000002 F/A-18"])
    text(root / "images_variant_test.txt", ["0000003 707-320"])
    text(root / "images_box.txt", ["0000001 3 2 12 11", "0000002 1 1 20 16", "0000003 5 5 20 16"])
    for number in (1, 2, 3):
        picture(root / "images" / f"{number:07d}.jpg", number)


def make_imagenet(folder: Path, classes: int = 3, images: int = 4) -> None:
    for split in ("train", "val"):
        for c in range(classes):
            for k in range(images):
                picture(folder / split / f"n{c:08d}" / f"{split}_{k}.JPEG", c, (40 + k, 30))


def make_stl10(folder: Path, counts: tuple[int, int, int] = (12, 8, 10)) -> None:
    root = folder / "stl10_binary"
    root.mkdir(parents=True, exist_ok=True)
    for name, count in zip(("train", "test", "unlabeled"), counts, strict=True):
        labels = np.arange(count) % 10 + 1
        pixels = (
            RNG.integers(0, 120, (count, 3, 96, 96), np.uint8)
            + np.uint8(12) * labels.astype(np.uint8)[:, None, None, None]
        )
        pixels.tofile(root / f"{name}_X.bin")
        if name != "unlabeled":
            labels.astype(np.uint8).tofile(root / f"{name}_y.bin")


def smaller(passport: Passport, counts: Mapping[str, int]) -> Passport:
    """The passport of a small copy."""
    return replace(passport, counts=dict(counts))


MAKERS: dict[str, tuple[Callable[[Path], None], Passport]] = {
    "dtd": (make_dtd, smaller(passports.DTD, {"train_rows": 12, "test_rows": 6})),
    "cu_birds": (make_cub, smaller(passports.CUB, {"train_rows": 6, "test_rows": 6})),
    "vgg_flower": (make_flowers, smaller(passports.FLOWERS, {"labels": 16})),
    "traffic_sign": (make_traffic, smaller(passports.TRAFFIC_SIGNS, {"train_rows": 12, "test_rows": 3})),
    "traffic_sign_official": (
        make_traffic, smaller(passports.TRAFFIC_SIGNS_OFFICIAL, {"train_rows": 15, "test_rows": 4}),
    ),
    "aircraft": (make_aircraft, smaller(passports.AIRCRAFT, {"train_rows": 2, "test_rows": 1})),
    "ImageNet": (make_imagenet, smaller(passports.IMAGENET, {"train_labels": 12, "test_labels": 12, "class_names": 3})),
    "STL-10": (make_stl10, smaller(passports.STL10, {"train_images": 12, "test_images": 8, "unlabeled_images": 10})),
}  # fmt: skip


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of `arrays.npz`."""
    if not (folder / "arrays.npz").is_file():
        raise DataMissing(f"{folder} has no arrays.npz")
    with np.load(folder / "arrays.npz", allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def coloured(count: int, side: int, channels: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of a brightness that goes with the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    noise = rng.integers(0, 80, (count, side, side, channels))
    return (noise + (170 * labels // classes)[:, None, None, None]).astype(np.uint8), labels.astype(np.int64)


def toy_datasets(folder: Path, root: Path) -> dict[str, Dataset]:
    """Every dataset of the evaluation, tiny, adopted into `root`; arrays of pixels come from files of our own."""
    found = {}
    for key, (side, channels, classes) in {
        "CIFAR10": (32, 3, 4), "CIFAR100": (32, 3, 5), "mnist": (28, 1, 4), "fashionmnist": (28, 1, 4),
    }.items():  # fmt: skip
        passport = replace(DATASETS[key].passport, decode=read_arrays, content_sha256=None, counts={})
        train, test = (coloured(count, side, channels, classes, count) for count in (40, 16))
        arrays = {"train_images": train[0], "train_labels": train[1], "test_images": test[0], "test_labels": test[1]}
        (folder / key).mkdir(parents=True)
        np.savez(folder / key / "arrays.npz", allow_pickle=False, **arrays)
        found[key] = (passport, classes)
    for key, (maker, passport) in MAKERS.items():
        maker(folder / key)
        found[key] = (passport, {"STL-10": 10, "vgg_flower": 102}.get(key, 3))
    for key, (passport, _) in found.items():
        adopt(passport, folder / key, root)
    return {
        key: replace(DATASETS[key], passport=passport, classes=classes) for key, (passport, classes) in found.items()
    }
