"""Small datasets laid out like the official files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850")


def photograph(seed: int, label: int, size: tuple[int, int] = (40, 32)) -> bytes:
    """A JPEG file: noise, brighter in the stripe of its class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 80, (size[1], size[0], 3))
    pixels[:, :, label % 3] += 150
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def train_photographs(per_class: int) -> dict[str, bytes]:
    """Name -> file of the training images, `n01440764/n01440764_1.JPEG`."""
    return {
        f"{name}/{name}_{number}.JPEG": photograph(100 * label + number, label)
        for label, name in enumerate(CLASSES)
        for number in range(per_class)
    }


def val_photographs(count: int) -> tuple[dict[str, bytes], list[int]]:
    """Name -> file of the validation images, which lie flat, and their classes."""
    labels = [(7 * number + 1) % 3 for number in range(count)]
    files = {
        f"ILSVRC2012_val_{number:08d}.JPEG": photograph(9000 + number, label)
        for number, label in enumerate(labels, start=1)
    }
    return files, labels


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def tar_of(files: dict[str, bytes]) -> bytes:
    """A plain tar of some files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def devkit(labels: list[int]) -> dict[str, bytes]:
    """The development kit's two files; its class numbers are in an order of their own, and more than classes."""
    from scipy.io import savemat

    ids = {0: 2, 1: 3, 2: 1}
    names = [(number, CLASSES[label]) for label, number in ids.items()] + [(4, "n00001740")]
    synsets = np.zeros(len(names), dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    for row, (number, name) in enumerate(names):
        synsets[row] = (float(number), name)
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets[:, None]})
    truth = "".join(f"{ids[label]}\n" for label in labels).encode()
    return {"data/meta.mat": stream.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": truth}


def write_imagenet(folder: Path, per_class: int = 8, val: int = 6) -> Path:
    """Class folders in train and val."""
    write(folder / "train", train_photographs(per_class))
    files, labels = val_photographs(val)
    pairs = zip(files.items(), labels, strict=True)
    write(folder / "val", {f"{CLASSES[label]}/{name}": content for (name, content), label in pairs})
    return folder


def write_official_tars(folder: Path, per_class: int = 8, val: int = 6) -> Path:
    """The archives as they are downloaded, unopened."""
    train = train_photographs(per_class)
    inner = {
        f"{name}.tar": tar_of({Path(key).name: value for key, value in train.items() if key.startswith(name)})
        for name in reversed(CLASSES)
    }
    files, labels = val_photographs(val)
    kit = io.BytesIO()
    with tarfile.open(fileobj=kit, mode="w:gz") as archive:
        for name, content in devkit(labels).items():
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    write(folder, {
        "ILSVRC2012_img_train.tar": tar_of(inner), "ILSVRC2012_img_val.tar": tar_of(files),
        "ILSVRC2012_devkit_t12.tar.gz": kit.getvalue(),
    })  # fmt: skip
    return folder


def write_ade20k(folder: Path, train: int = 8, val: int = 3) -> Path:
    """ADEChallengeData2016: a bright right half is class 2, the rest class 1, the uppermost row has none."""
    for split, count in (("training", train), ("validation", val)):
        for number in range(1, count + 1):
            rng = np.random.default_rng([number, count])
            height, width = 30 + 4 * number, 40
            pixels, labels = rng.integers(0, 60, (height, width, 3)), np.ones((height, width), np.uint8)
            pixels[:, 20:], labels[:, 20:], labels[0] = pixels[:, 20:] + 180, 2, 0
            image, annotation = io.BytesIO(), io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(image, "JPEG", quality=95)
            Image.fromarray(labels).save(annotation, "PNG")
            name = f"ADE_{split[:5]}_{number:08d}"
            write(folder, {
                f"images/{split}/{name}.jpg": image.getvalue(), f"annotations/{split}/{name}.png": annotation.getvalue()
            })  # fmt: skip
    return folder


COCO_CATEGORIES = ({"id": 18, "name": "dog"}, {"id": 3, "name": "car"})


def write_coco(folder: Path, train: int = 8, val: int = 3) -> Path:
    """COCO 2017 with one bright rectangle an image, red for dogs and blue for cars, and in the last image of a split
    nothing but a crowd."""
    for split, count, first in (("train", train, 100), ("val", val, 900)):
        (folder / f"{split}2017").mkdir(parents=True)
        images, annotations = [], []
        for number in range(first, first + count):
            rng = np.random.default_rng(number)
            pixels = rng.integers(0, 40, (48, 64, 3)).astype(np.uint8)
            left, top, width, height = 8 + number % 3 * 8, 6 + number % 2 * 8, 24, 20
            category = COCO_CATEGORIES[number % 2]
            box: dict = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
            corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
            box["segmentation"] = [[value for corner in corners for value in corner]]
            if number == first + count - 1:
                box |= {"iscrowd": 1, "segmentation": {"counts": [48 * 64], "size": [48, 64]}}
            else:
                pixels[top : top + height, left : left + width, 0 if category["id"] == 18 else 2] = 250
            Image.fromarray(pixels).save(folder / f"{split}2017/{number:012d}.jpg", quality=95)
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 64, "height": 48})
            annotations.append({"id": number, "image_id": number, "category_id": category["id"], **box})
        content = {"images": images[::-1], "annotations": annotations, "categories": COCO_CATEGORIES}
        path = folder / f"annotations/instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder
