"""ADE20K (ADEChallengeData2016) and its augmentation (section 8); chance depends on seed, batch and image alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as TF

from lmim.loading import MEAN, STD
from lmim.segmentation import IGNORED
from sextet.data import Arrays, DataError, DataMissing, Passport
from sextet.data.photographs import open_photograph

if TYPE_CHECKING:
    from PIL.Image import Image

N_CLASSES = 150
SHORT, LONG = 512, 2048
"""An image is resized until its short or its long side has so many pixels."""
_SPLITS = {"train": "training", "val": "validation"}


def decode_ade20k(folder: Path) -> Arrays:
    """Names of the images that have an annotation: `train_files`, `val_files` bytes `[n]`, and `folder` text `[1]`.

    Raises:
        DataMissing: there are no folders `images` and `annotations` with `training` and `validation`.
        DataError: an image without annotation or the other way round.
    """
    arrays: Arrays = {"folder": np.array([str(folder.resolve())])}
    for split, official in _SPLITS.items():
        found = []
        for kind, suffix in (("images", ".jpg"), ("annotations", ".png")):
            place = folder / kind / official
            if not place.is_dir():
                raise DataMissing(f"{folder} has no folder {kind}/{official}")
            names = {entry.name.removesuffix(suffix) for entry in os.scandir(place) if entry.name.endswith(suffix)}
            found.append(names)
        if found[0] != found[1] or not found[0]:
            lacking = sorted(found[0] ^ found[1])[:3]
            raise DataError(f"{folder}: {official} has images without annotations or the other way round: {lacking}")
        arrays[f"{split}_files"] = np.array([name.encode() for name in sorted(found[0])])
    return arrays


ADE20K = Passport(
    name="ade20k",
    title="ADE20K, the scene parsing benchmark of 2016: 150 classes",
    homepage="http://sceneparsing.csail.mit.edu",
    licence="images: research and education only; annotations: BSD-3-Clause",
    size="923 MB",
    sources=(),
    decode=decode_ade20k,
    # An index of files has no pixels to hash; the counts identify the set
    content_sha256=None,
    instructions=(
        "Get ADEChallengeData2016.zip from http://data.csail.mit.edu/places/ADEchallenge, unpack it, give the folder "
        "that holds images and annotations. They stay there: keep it."
    ),
    counts={"train_files": 20_210, "val_files": 2_000},
)


class Scenes:
    """Images and their labels, read when asked for.

    Args:
        arrays: as `decode_ade20k` makes them.
        split: `train` or `val`.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], split: str) -> None:
        self.root, self.official = Path(str(arrays["folder"][0])), _SPLITS[split]
        self.files = arrays[f"{split}_files"]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Image, np.ndarray]:
        """An image in RGB and its labels uint8 [height, width]: 0 to 149, and 255 for what has none.

        Raises:
            DataError: a file is not read, they differ in size, or a label is larger than 150.
        """
        from PIL import Image as pillow

        name = bytes(self.files[row]).decode()
        image = open_photograph(self.root / "images" / self.official / f"{name}.jpg")
        path = self.root / "annotations" / self.official / f"{name}.png"
        try:
            with pillow.open(path, formats=["PNG"]) as annotation:
                labels = np.array(annotation)
        except (OSError, SyntaxError, ValueError, Warning, MemoryError, pillow.DecompressionBombError) as error:
            raise DataError(f"{path} is not read ({type(error).__name__}: {error})") from error
        if labels.dtype != np.uint8 or labels.shape != (image.height, image.width):
            raise DataError(f"{path}: expected 8 bits for {image.size} pixels, found {labels.dtype} {labels.shape}")
        if labels.max(initial=0) > N_CLASSES:
            raise DataError(f"{path}: expected labels 0 to {N_CLASSES}, found {labels.max()}")
        return image, labels - np.uint8(1)  # 0, which is no class, becomes 255


def fitted_size(width: int, height: int, ratio: float = 1.0) -> tuple[int, int]:
    """Width and height of an image as large as fits into `ratio` times (2048, 512), short side to short side."""
    factor = min(LONG * ratio / max(width, height), SHORT * ratio / min(width, height))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def to_tensor(image: Image) -> Tensor:
    """An image as float32 [3, height, width], 0 to 255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def normalised(pixels: Tensor) -> Tensor:
    """float32 [3, height, width] of 0 to 255, with ImageNet's mean and deviation."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels / 255 - mean) / std


class AugmentedScenes(Dataset[tuple[Tensor, Tensor]]):
    """Crops addressed by (number of the batch, row): float32 [3, crop, crop], normalised, and int64 [crop, crop].

    Resized by 0.5 to 2 of (2048, 512), cropped so that no class fills more than three quarters, flipped, changed in
    brightness, contrast, saturation and hue; filled up where the image is smaller.

    Args:
        scenes: the images.
        crop: pixels a side.
        seed: of everything random.
    """

    def __init__(self, scenes: Scenes, crop: int, seed: int) -> None:
        self.scenes, self.crop, self.seed = scenes, crop, seed

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, *item])
        image, labels = self.scenes[item[1]]
        width, height = fitted_size(*image.size, ratio=rng.uniform(0.5, 2.0))
        image = image.resize((width, height), resample=2)
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(np.int64)
            for new, old in zip((height, width), labels.shape, strict=True)
        )
        labels = labels[rows[:, None], columns]
        top, left = crop_corner(labels, self.crop, rng)
        place = (slice(top, top + self.crop), slice(left, left + self.crop))
        pixels, target = to_tensor(image)[:, *place], torch.from_numpy(labels[place].astype(np.int64))
        if rng.random() < 0.5:
            pixels, target = pixels.flip(-1), target.flip(-1)
        missing = (0, self.crop - pixels.shape[2], 0, self.crop - pixels.shape[1])
        return F.pad(normalised(distorted(pixels, rng)), missing), F.pad(target, missing, value=IGNORED)


def crop_corner(labels: np.ndarray, crop: int, rng: np.random.Generator, most: float = 0.75) -> tuple[int, int]:
    """Top and left of a random crop in which no class has more than `most` of the labelled pixels; the tenth attempt is
    taken as it is."""
    rows, columns = (max(length - crop, 0) + 1 for length in labels.shape)
    top = left = 0
    for _ in range(10):
        top, left = int(rng.integers(rows)), int(rng.integers(columns))
        counts = np.bincount(labels[top : top + crop, left : left + crop].ravel(), minlength=256)[:IGNORED]
        if (counts > 0).sum() > 1 and counts.max() < most * counts.sum():
            break
    return top, left


def distorted(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness by up to 32, contrast and saturation by 0.5 to 1.5, hue by up to 36 degrees, each for every second
    image; contrast before or behind the colours.

    Args:
        pixels: float32 [3, height, width], 0 to 255.
        rng: decides.
    """

    def contrast(pixels: Tensor) -> Tensor:
        return pixels * rng.uniform(0.5, 1.5) if rng.random() < 0.5 else pixels

    pixels = pixels + rng.uniform(-32, 32) if rng.random() < 0.5 else pixels
    first = rng.random() < 0.5
    pixels = (contrast(pixels) if first else pixels).clamp(0, 255) / 255
    pixels = TF.adjust_saturation(pixels, rng.uniform(0.5, 1.5)) if rng.random() < 0.5 else pixels
    pixels = TF.adjust_hue(pixels, rng.uniform(-0.1, 0.1)) if rng.random() < 0.5 else pixels
    return ((pixels if first else contrast(pixels)) * 255).clamp(0, 255)
