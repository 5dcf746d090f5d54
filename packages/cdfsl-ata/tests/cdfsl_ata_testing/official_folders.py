"""Tiny images in folders laid out as the official files of the nine domains.

Every picture is of one colour that tells its class and its number: red is 101 times the class (mod 256), green is
class // 256 + 100, blue the number. They are written losslessly, whatever the ending of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from cdfsl_ata.places_classes import PLACES_CLASSES
from cdfsl_ata.splits import CHESTX_CLASSES, CROP_CLASSES, EUROSAT_CLASSES, ISIC_CLASSES, MINI_IMAGENET_CLASSES

SIZE = (5, 4)
SPREAD = 101


def write_picture(path: Path, label: int, number: int) -> None:
    """One picture of a class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (label * SPREAD % 256, label // 256 + 100, number)).save(
        path, format="PNG", compress_level=0
    )


def identities(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and number that the pictures [n, side, side, 3] tell, [n] each."""
    assert (images == images[:, :1, :1]).all()
    colours = images[:, 0, 0].astype(np.int64)
    return colours[:, 0] * pow(SPREAD, -1, 256) % 256 + 256 * (colours[:, 1] - 100), colours[:, 2]


def write_classes(root: Path, names: Sequence[str], counts: Sequence[int], first: int = 0) -> Path:
    """A folder a class with some pictures each; classes count from `first`."""
    for label, (name, count) in enumerate(zip(names, counts, strict=True), first):
        for number in range(count):
            write_picture(root / name / f"{name}_{number:04d}.jpg", label, number)
    return root


def write_mini_imagenet(root: Path, per_class: int = 2) -> Path:
    """`train`, `val`, `test` as CrossDomainFewShot's archive of full-size images; labels count through the splits."""
    first = 0
    for folder, names in zip(("train", "val", "test"), MINI_IMAGENET_CLASSES.values(), strict=True):
        write_classes(root / folder, names, [per_class] * len(names), first)
        first += len(names)
    return root


def write_ilsvrc(root: Path, per_class: int = 3, listed: int = 2) -> Path:
    """Class folders of ILSVRC2012 and easy-few-shot-learning's three lists of some images of each."""
    everything = [name for names in MINI_IMAGENET_CLASSES.values() for name in names]
    write_classes(root / "ILSVRC2012_img_train", everything, [per_class] * len(everything))
    for folder, names in zip(("train", "val", "test"), MINI_IMAGENET_CLASSES.values(), strict=True):
        rows = [f"{name},{name}_{number:04d}.jpg" for name in names for number in range(per_class - listed, per_class)]
        (root / f"{folder}.csv").write_text("\n".join(["class_name,image_name", *rows]))
    return root


def write_cub(root: Path, per_class: int = 2) -> Path:
    """`CUB_200_2011/images/001.Bird_1`, ..."""
    names = [f"{number:03d}.Bird_{number}" for number in range(1, 201)]
    write_classes(root / "CUB_200_2011" / "images", names, [per_class] * 200)
    return root


def write_cars(root: Path, per_class: int = 2) -> Path:
    """`cars_train/00001.jpg`, ... in an order that mixes the classes, and the devkit's annotations."""
    labels = np.tile(np.arange(196), per_class)
    rows = np.zeros(len(labels), dtype=[(name, object) for name in ("bbox_x1", "bbox_y1", "class", "fname")])
    for row, label in enumerate(labels.tolist()):
        name = f"{row + 1:05d}.jpg"
        write_picture(root / "cars_train" / name, label, row // 196)
        rows[row] = (1, 1, label + 1, name)
    (root / "devkit").mkdir()
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": rows[None]})
    return root


def write_places(root: Path, per_class: int = 2) -> Path:
    """`places365_standard/train` and `val` of the easyformat archive."""
    write_classes(root / "places365_standard" / "train", PLACES_CLASSES, [per_class] * 365)
    write_classes(root / "places365_standard" / "val", PLACES_CLASSES[:3], [1] * 3)
    return root


def write_plantae(root: Path, per_class: int = 1) -> Path:
    """204 species; species k, in the order of names, has 1 + k % 3 pictures and the first four none but one."""
    names = [f"Species {number:03d}" for number in range(204)]
    counts = [1] * 4 + [per_class + 1 + number % 3 for number in range(200)]
    return write_classes(root / "Plantae", names, counts)


def write_crop_diseases(root: Path, per_class: int = 2) -> Path:
    """`dataset/train` and, with fewer pictures, `dataset/test` of the Kaggle version."""
    write_classes(root / "dataset" / "train", CROP_CLASSES, [per_class] * 38)
    write_classes(root / "dataset" / "valid", CROP_CLASSES, [1] * 38)
    return root


def write_eurosat(root: Path, per_class: int = 2) -> Path:
    """`2750/AnnualCrop`, ..."""
    write_classes(root / "2750", EUROSAT_CLASSES, [per_class] * 10)
    return root


def write_isic(root: Path, per_class: int = 2) -> Path:
    """Images in one folder, one-hot columns in another."""
    lines = ["image," + ",".join(ISIC_CLASSES)]
    for row, (label, number) in enumerate(_mixed(len(ISIC_CLASSES), per_class)):
        image = f"ISIC_{24306 + row:07d}"
        write_picture(root / "ISIC2018_Task3_Training_Input" / f"{image}.jpg", label, number)
        lines.append(",".join([image, *(f"{float(column == label)}" for column in range(7))]))
    truth = "ISIC2018_Task3_Training_GroundTruth"
    (root / truth).mkdir()
    (root / truth / f"{truth}.csv").write_text("\n".join(lines))
    return root


def write_ham10000(root: Path, per_class: int = 2) -> Path:
    """The same photographs as Kaggle has them: two folders and lower-case codes."""
    lines = ["lesion_id,image_id,dx,dx_type"]
    for row, (label, number) in enumerate(_mixed(len(ISIC_CLASSES), per_class)):
        image = f"ISIC_{24306 + row:07d}"
        write_picture(root / f"HAM10000_images_part_{1 + row % 2}" / f"{image}.jpg", label, number)
        lines.append(f"HAM_{row},{image},{ISIC_CLASSES[label].lower()},histo")
    (root / "HAM10000_metadata.csv").write_text("\n".join(lines))
    return root


def write_chestx(root: Path, per_class: int = 2) -> Path:
    """`images_001/images`, ... with the findings, among them several at once, none, and Pneumonia."""
    lines = ["Image Index,Finding Labels,Follow-up #"]
    for row, (label, number) in enumerate(_mixed(len(CHESTX_CLASSES), per_class)):
        name = f"{row:08d}_000.png"
        write_picture(root / f"images_{1 + row % 3:03d}" / "images" / name, label, number)
        lines.append(f"{name},{CHESTX_CLASSES[label]},0")
    for row, findings in enumerate(("Mass|Nodule", "No Finding", "Pneumonia"), 900):
        name = f"{row:08d}_000.png"
        write_picture(root / "images_001" / "images" / name, 0, 0)
        lines.append(f"{name},{findings},0")
    (root / "Data_Entry_2017.csv").write_text("\n".join(lines))
    return root


def _mixed(n_classes: int, per_class: int) -> Iterable[tuple[int, int]]:
    """(class, number), the classes taking turns."""
    return ((label, number) for number in range(per_class) for label in range(n_classes))


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "mini-imagenet": write_mini_imagenet,
    "cub": write_cub,
    "cars": write_cars,
    "places": write_places,
    "plantae": write_plantae,
    "crop-diseases": write_crop_diseases,
    "eurosat": write_eurosat,
    "isic": write_isic,
    "chestx": write_chestx,
}
