"""The open datasets of the laptop experiment as 32 x 32 images, source and targets (section 17.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cdfsl_ata.images import Ids
from sextet.data import CIFAR10, DIGITS, FASHION_MNIST, GLYPHS, MNIST, Passport, load
from sextet.data.glyphs import CHARACTERS

SIZE = 32
TRAINING = 50_000
GLYPH_CLASSES = "0123456789abdeghnqrt"
PASSPORTS: dict[str, Passport] = {
    "training": FASHION_MNIST,
    "validation": FASHION_MNIST,
    "fashion-mnist": FASHION_MNIST,
    "mnist": MNIST,
    "digits": DIGITS,
    "cifar10": CIFAR10,
    "glyphs": GLYPHS,
}
"""`training` is the first 50,000 of Fashion-MNIST's training images, `validation` the others; the rest are tests."""


def domain_images(name: str, data_root: Path | None, per_class: int = 0) -> tuple[Tensor, Ids]:
    """Images uint8 [n, 1 or 3, 32, 32] of a domain and their labels [n].

    Test domains are the official test splits; the digits of scikit-learn have one split, and of the glyphs ten digits
    and ten small letters that look like no capital are taken.

    Args:
        name: one of `PASSPORTS`.
        data_root: where datasets lie.
        per_class: the first so many images of each class; 0 for all.

    Raises:
        ValueError: an unknown name.
        DataMissing: the dataset is not there and cannot be fetched.
    """
    if name not in PASSPORTS:
        raise ValueError(f"domain: expected one of {', '.join(PASSPORTS)}, got {name!r}")
    arrays = load(PASSPORTS[name], data_root)
    prefix = {"training": "train_", "validation": "train_", "digits": "", "glyphs": ""}.get(name, "test_")
    images, labels = arrays[f"{prefix}images"], arrays[f"{prefix}labels"]
    if name == "training":
        rows = np.arange(min(TRAINING, len(labels)))
    elif name == "validation":
        rows = np.arange(min(TRAINING, len(labels)), len(labels))
    elif name == "glyphs":
        rows = np.flatnonzero(np.isin(labels, [CHARACTERS.index(character) for character in GLYPH_CLASSES]))
    else:
        rows = np.arange(len(labels))
    if per_class:
        rows = np.concatenate([rows[labels[rows] == label][:per_class] for label in np.unique(labels[rows])])
    return to_size(torch.from_numpy(images[rows]).permute(0, 3, 1, 2)), labels[rows]


def to_size(images: Tensor) -> Tensor:
    """uint8 [n, c, 32, 32] of square images: 28 pixels are padded by 2, fewer first stretched to 28 (bilinear).

    Raises:
        ValueError: images that are not square, or larger than 32.
    """
    height, width = images.shape[2:]
    if height != width or height > SIZE:
        raise ValueError(f"images: expected squares of at most {SIZE} pixels, got {height} x {width}")
    if height == SIZE:
        return images.contiguous()
    if height < SIZE - 4:
        images = F.interpolate(images.float(), (SIZE - 4, SIZE - 4), mode="bilinear").round().to(torch.uint8)
    return F.pad(images, ((SIZE - images.shape[3]) // 2,) * 4)
