"""Made-up images in the files that VTAB-1K, its sources and the few-shot benchmark circulate in, with fewer images."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from bi_adapter.fewshot import FewShot, decode_few_shot, list_names
from bi_adapter.vtab import Task, decode_task
from sextet.data import CIFAR100, Passport


def picture(label: int, rng: np.random.Generator, side: int = 16) -> np.ndarray:
    """Pixels uint8 [side, side, 3] whose colour tells the label, under noise."""
    colour = np.random.default_rng(label).integers(0, 256, 3)
    return (0.8 * colour + 0.2 * rng.integers(0, 256, (side, side, 3))).astype(np.uint8)


def write_vtab(folder: Path, task: Task, train: int = 16, val: int = 8, test: int = 12, seed: int = 0) -> Path:
    """`folder/<task>` as NOAH's script makes it: every list with images of its own, JPEG of quality 75."""
    rng = np.random.default_rng(seed)
    root = folder / task.name
    pictures = {}
    for split, count in (("train800", train), ("val200", val), ("test", test)):
        labels = np.resize(rng.permutation(task.n_classes), count)
        pictures[split] = [(picture(label, rng), label) for label in labels.tolist()]
    pictures["train800val200"] = pictures["train800"] + pictures["val200"]
    for split, entries in pictures.items():
        (root / "images" / split).mkdir(parents=True)
        lines = []
        for number, (pixels, label) in enumerate(entries):
            name = f"images/{split}/{number:06d}.jpg"
            Image.fromarray(pixels).save(root / name)
            lines.append(f"{name} {label}\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return root


def small_task(passport: Passport, task: Task, train: int = 16, val: int = 8, test: int = 12) -> Passport:
    """The passport for a task of fewer images."""
    return replace(passport, decode=partial(decode_task, task=task, train=train, val=val, test=test), counts={})


def write_few_shot(folder: Path, dataset: FewShot, per_class: int = 17, twice: bool = True) -> Path:
    """`folder/<dataset>`: images and the 17 lists; 1-shot lists name every image twice, as those of Pets do."""
    rng = np.random.default_rng(1)
    root = folder / dataset.folder
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    names = {}
    for label in range(dataset.n_classes):
        names[label] = [f"class {label}_{number}.jpg" for number in range(per_class + 2)]
        for name in names[label]:
            Image.fromarray(picture(label, rng)).save(root / "images" / name)
    for array, name in list_names().items():
        if array in ("val", "test"):
            rows = [(names[label][per_class + (array == "test")], label) for label in names]
        else:
            shots = int(array.split("_")[1])
            rows = [(names[label][i], label) for label in names for i in rng.permutation(per_class)[:shots]]
            rows *= 2 if twice and shots == 1 else 1
        (root / "annotations" / name).write_text("".join(f"{file} {label}\n" for file, label in rows))
    return root


def small_few_shot(passport: Passport, dataset: FewShot) -> Passport:
    """The passport for a dataset of other lists than the published ones."""
    return replace(passport, decode=partial(decode_few_shot, dataset=dataset, published={}), counts={})


def write_cifar100(folder: Path, per_class: int = 10) -> Path:
    """The unpacked `cifar-100-binary`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    for name, count in (("train", per_class), ("test", 2)):
        labels = rng.permutation(np.arange(len(CIFAR100.class_names)).repeat(count)).astype(np.uint8)
        pixels = np.stack([picture(int(label), rng, 32) for label in labels])
        planes = pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        np.hstack([labels[:, None] // 5, labels[:, None], planes]).tofile(folder / f"{name}.bin")
    return folder


def write_class_folders(folder: Path, n_classes: int, per_class: int) -> Path:
    """One folder of JPEG files a class (EuroSAT, RESISC45)."""
    rng = np.random.default_rng(3)
    for label in range(n_classes):
        place = folder / f"Class{label:02}"
        place.mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(picture(label, rng)).save(place / f"{place.name}_{number}.jpg")
    return folder


def write_dtd(folder: Path, per_class: int = 1) -> Path:
    """Describable Textures with the lists of fold 1."""
    rng = np.random.default_rng(4)
    (folder / "labels").mkdir(parents=True)
    for split in ("train", "val", "test"):
        lines = []
        for label in range(47):
            place = folder / "images" / f"texture{label:02}"
            place.mkdir(parents=True, exist_ok=True)
            for number in range(per_class):
                Image.fromarray(picture(label, rng)).save(place / f"{split}_{number}.jpg")
                lines.append(f"{place.name}/{split}_{number}.jpg\n")
        (folder / "labels" / f"{split}1.txt").write_text("".join(lines))
    return folder


def write_pets(folder: Path, per_class: int = 2) -> Path:
    """Oxford-IIIT Pet with its annotation lists, comments included."""
    rng = np.random.default_rng(5)
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for split in ("trainval", "test"):
        lines = ["#Image CLASS-ID SPECIES BREED ID\n"]
        for label in range(37):
            for number in range(per_class):
                name = f"Breed_{label}_{split}_{number}"
                Image.fromarray(picture(label, rng)).save(folder / "images" / f"{name}.jpg")
                lines.append(f"{name} {label + 1} 1 1\n")
        (folder / "annotations" / f"{split}.txt").write_text("".join(lines))
    return folder


def write_clevr(folder: Path, train: int = 80, val: int = 40) -> Path:
    """CLEVR v1.0: PNG images and the scenes of both parts."""
    rng = np.random.default_rng(6)
    (folder / "scenes").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        (folder / "images" / split).mkdir(parents=True)
        scenes = []
        for number in range(count):
            name = f"CLEVR_{split}_{number:06}.png"
            Image.fromarray(picture(number % 8, rng)).save(folder / "images" / split / name)
            depth = [7.0, 8.2, 8.7, 9.2, 9.7, 11.0][number % 6]
            objects = [{"pixel_coords": [10, 20, depth + 2 * (item > 0)]} for item in range(3 + number % 8)]
            scenes.append({"image_filename": name, "objects": objects})
        content = {"info": {"split": split}, "scenes": scenes}
        (folder / "scenes" / f"CLEVR_{split}_scenes.json").write_text(json.dumps(content))
    return folder


def write_dsprites(folder: Path, count: int = 640) -> Path:
    """dSprites' npz; its metadata, a pickled object in the original, is left unread."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    rows = np.arange(count)
    latents = np.stack([0 * rows, rows % 3, rows % 6, rows % 40, rows % 32, rows // 32 % 32], 1).astype(np.int64)
    np.savez_compressed(
        folder / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
        imgs=rng.integers(0, 2, (count, 64, 64)).astype(np.uint8),
        latents_classes=latents,
        metadata=np.array({"date": "2017"}, dtype=object),
    )
    return folder


def norb_matrix(array: np.ndarray) -> bytes:
    """An array as one of smallNORB's binary matrices."""
    code = {"u1": 0x1E3D4C55, "i4": 0x1E3D4C54}[array.dtype.str[1:]]
    sizes = [*array.shape, *[1] * (3 - array.ndim)]
    return struct.pack(f"<II{len(sizes)}I", code, array.ndim, *sizes) + array.tobytes()


def write_smallnorb(folder: Path, train: int = 36, test: int = 72) -> Path:
    """smallNORB's matrices, those of the test part gzipped."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(8)
    for name, count in (("5x46789x9x18x6x2x96x96-training", train), ("5x01235x9x18x6x2x96x96-testing", test)):
        rows = np.arange(count)
        info = np.stack([rows % 10, rows % 9, rows % 18 * 2, rows % 6], 1).astype(np.int32)
        images = rng.integers(0, 256, (count, 2, 96, 96)).astype(np.uint8)
        for part, array in (("info", info), ("dat", images)):
            content = norb_matrix(array)
            if "testing" in name:
                (folder / f"smallnorb-{name}-{part}.mat.gz").write_bytes(gzip.compress(content))
            else:
                (folder / f"smallnorb-{name}-{part}.mat").write_bytes(content)
    return folder
