"""COCO 2017: where images and objects are, and the objects of an image as a detector wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as TF

from sextet.data import Arrays, DataError, DataMissing, Passport
from sextet.data.photographs import is_inside, open_photograph

if TYPE_CHECKING:
    from PIL.Image import Image

Target = dict[str, Tensor]
"""Of one image: `boxes` float32 [objects, 4] as left, top, right, bottom in pixels, `labels` int64 [objects] from 1 on,
`masks` uint8 [objects, height, width]."""


def decode_coco(folder: Path) -> Arrays:
    """The official annotations as arrays; images stay where they are.

    Args:
        folder: holds `annotations/instances_{train,val}2017.json`, `train2017` and `val2017`.

    Returns:
        `folder` text `[1]`, `categories` int64 `[c]` (COCO's numbers; label k + 1 is the k-th), and for each split, of
        the images: `{split}_files` bytes `[n]`, `{split}_ids` int64 `[n]`; of the objects, image by image, crowds and
        those of less than a pixel left out: `{split}_objects` int64 `[n + 1]` where an image's begin,
        `{split}_boxes` float32 `[m, 4]`, `{split}_labels` int64 `[m]`; of their outlines `{split}_rings` int64
        `[m + 1]` where an object's begin, `{split}_ring` int64 `[r + 1]` where a ring's coordinates begin in
        `{split}_points` float32 `[p]`.

    Raises:
        DataMissing: a file or folder is not there.
        DataError: an annotation file is damaged.
    """
    arrays: Arrays = {"folder": np.array([str(folder.resolve())])}
    for split in ("train", "val"):
        path = annotation_file(folder, split)
        for place in (path, folder / f"{split}2017"):
            if not place.exists():
                raise DataMissing(f"{folder} has no {place.relative_to(folder)}")
        try:
            content = json.loads(path.read_bytes())
            categories = np.array(sorted(int(each["id"]) for each in content["categories"]), np.int64)
            arrays |= {f"{split}_{name}": values for name, values in _index(content, categories).items()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({type(error).__name__}: {error})") from error
        if not np.array_equal(arrays.setdefault("categories", categories), categories):
            raise DataError(f"{path}: expected the {len(arrays['categories'])} categories of train, found others")
    return arrays


def annotation_file(folder: Path, split: str) -> Path:
    """The official annotations of a split."""
    return folder / "annotations" / f"instances_{split}2017.json"


def _index(content: Mapping[str, Any], categories: np.ndarray) -> Arrays:
    label = {int(number): place for place, number in enumerate(categories, start=1)}
    objects: dict[int, list[Mapping[str, Any]]] = {}
    for each in content["annotations"]:
        width, height = each["bbox"][2:]
        if not each.get("iscrowd") and width >= 1 and height >= 1:
            objects.setdefault(int(each["image_id"]), []).append(each)
    images = sorted(content["images"], key=lambda each: each["id"])
    names = [str(image["file_name"]) for image in images]
    outside = [name for name in names if not is_inside(name)]
    if outside:
        raise ValueError(f"{outside[0]!r} is no file of the folder")
    found = [objects.get(int(image["id"]), []) for image in images]
    kept = [each for those in found for each in those]
    rings = [each["segmentation"] for each in kept]
    points = [ring for each in rings for ring in each]
    boxes = np.array([each["bbox"] for each in kept], np.float32).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a box is not finite")
    boxes[:, 2:] += boxes[:, :2]
    return {
        "files": np.array([name.encode() for name in names]),
        "ids": np.array([int(image["id"]) for image in images], np.int64),
        "objects": _starts([len(those) for those in found]),
        "boxes": boxes,
        "labels": np.array([label[int(each["category_id"])] for each in kept], np.int64),
        "rings": _starts([len(each) for each in rings]),
        "ring": _starts([len(ring) for ring in points]),
        "points": np.array([value for ring in points for value in ring], np.float32),
    }  # fmt: skip


def _starts(counts: list[int]) -> np.ndarray:
    return np.cumsum([0, *counts], dtype=np.int64)


COCO = Passport(
    name="coco-2017",
    title="COCO 2017: boxes and outlines of objects of 80 kinds",
    homepage="https://cocodataset.org",
    licence="annotations: CC BY 4.0; images: Flickr's terms, each its owner's",
    size="19 GB",
    sources=(),
    decode=decode_coco,
    # An index of files has no pixels to hash; the counts identify the set
    content_sha256=None,
    instructions=(
        "Get train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download, "
        "unpack them into one folder, give that folder. They stay there: keep it."
    ),
    counts={"train_files": 118_287, "val_files": 5_000},
)


class Objects:
    """Images and their objects, read when asked for.

    Args:
        arrays: as `decode_coco` makes them.
        split: `train` or `val`.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], split: str) -> None:
        self.arrays, self.split = arrays, split
        self.root = Path(str(arrays["folder"][0]))
        self.ids = arrays[f"{split}_ids"]

    def __len__(self) -> int:
        return len(self.ids)

    def with_objects(self) -> np.ndarray:
        """Rows of the images that have an object, int64."""
        return np.flatnonzero(np.diff(self.arrays[f"{self.split}_objects"]))

    def _part(self, name: str, row: int) -> slice:
        first, last = self.arrays[f"{self.split}_{name}"][row : row + 2].tolist()
        return slice(first, last)

    def image(self, row: int) -> Image:
        """In RGB.

        Raises:
            DataError: the file is not read.
        """
        name = bytes(self.arrays[f"{self.split}_files"][row]).decode()
        return open_photograph(self.root / f"{self.split}2017" / name)

    def target(self, row: int, width: int, height: int) -> Target:
        """The objects of an image of that size."""
        from pycocotools import mask

        values = {name: self.arrays[f"{self.split}_{name}"] for name in ("boxes", "labels", "points")}
        those = self._part("objects", row)
        masks = np.zeros((those.stop - those.start, height, width), np.uint8)
        for place, number in enumerate(range(those.start, those.stop)):
            rings = self._part("rings", number)
            outline = [values["points"][self._part("ring", ring)].tolist() for ring in range(rings.start, rings.stop)]
            if outline:
                masks[place] = mask.decode(mask.merge(mask.frPyObjects(outline, height, width)))
        return {
            "boxes": torch.from_numpy(np.array(values["boxes"][those])),
            "labels": torch.from_numpy(np.array(values["labels"][those])),
            "masks": torch.from_numpy(masks),
        }


class FlippedObjects(Dataset[tuple[Tensor, Target]]):
    """Images that have an object, addressed by (number of the batch, row): uint8 [3, height, width] and their objects,
    every second one mirrored; resizing is the detector's.

    Args:
        objects: the images.
        seed: of what is mirrored.
    """

    def __init__(self, objects: Objects, seed: int) -> None:
        self.objects, self.seed, self.rows = objects, seed, objects.with_objects()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Target]:
        row = int(self.rows[item[1]])
        image = self.objects.image(row)
        pixels, target = TF.pil_to_tensor(image), self.objects.target(row, *image.size)
        if np.random.default_rng([self.seed, *item]).random() < 0.5:
            return mirrored(pixels, target)
        return pixels, target


def mirrored(pixels: Tensor, target: Target) -> tuple[Tensor, Target]:
    """An image and its objects with left and right exchanged."""
    left, top, right, bottom = target["boxes"].unbind(1)
    width = pixels.shape[-1]
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    return pixels.flip(-1), target | {"boxes": boxes, "masks": target["masks"].flip(-1)}
