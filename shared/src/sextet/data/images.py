"""Small images as packed uint8 arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sextet.data.errors import DataError
from sextet.data.passport import Arrays, Passport, content_hash

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """Images, uint8 `[n, height, width, channels]`, and their labels, int64 `[n]`, indices into `class_names`."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(f"images must be uint8 [n, h, w, c], found {self.images.dtype} {self.images.shape}")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise DataError(f"labels must be int64 [{len(self.images)}], found {self.labels.dtype} {self.labels.shape}")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise DataError(
                f"labels must lie in 0..{len(self.class_names) - 1}, the {len(self.class_names)} class names"
            )

    @classmethod
    def of(cls, passport: Passport, arrays: Arrays, split: str = "") -> "Images":
        """Pick the images of a split ("train", "test", or "" where a dataset has none) from loaded arrays."""
        prefix = f"{split}_" if split else ""
        if f"{prefix}images" not in arrays:
            splits = sorted(name.removesuffix("images").rstrip("_") for name in arrays if name.endswith("images"))
            raise DataError(f"{passport.name} has no split {split!r}; it has {splits}")
        return cls(arrays[f"{prefix}images"], arrays[f"{prefix}labels"], passport.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Images":
        """Return the images at `indices` (integers or a mask), in that order."""
        return Images(self.images[indices], self.labels[indices], self.class_names)

    def select(self, classes: Sequence[str]) -> "Images":
        """Return the images of the named classes, relabelled 0, 1, ... in the order given."""
        if unknown := sorted(set(classes) - set(self.class_names)):
            raise DataError(f"unknown classes {unknown}; there are {list(self.class_names)}")
        if len(set(classes)) != len(classes):
            raise DataError(f"classes are named twice in {list(classes)}")
        new = np.full(len(self.class_names), -1)
        new[[self.class_names.index(name) for name in classes]] = np.arange(len(classes))
        indices = np.flatnonzero(new[self.labels] >= 0)
        return Images(self.images[indices], new[self.labels[indices]], tuple(classes))

    def indices_by_class(self) -> list[np.ndarray]:
        """Return, for each class, the ascending indices of its images."""
        order = np.argsort(self.labels, kind="stable")
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return np.split(order, np.cumsum(counts)[:-1])

    @cached_property
    def content_sha256(self) -> str:
        """The content hash of images, labels and class names."""
        names = np.array(self.class_names, dtype=np.str_)
        return content_hash({"images": self.images, "labels": self.labels, "class_names": names})


def to_float(images: "np.ndarray | Tensor", mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """Return `(images / 255 - mean) / std`, float32 `[batch, c, h, w]`, of uint8 images `[batch, h, w, c]`.

    `mean` and `std` have one value a channel. A tensor stays on its device; an array gives a CPU tensor.
    """
    import torch

    pixels = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise ValueError(f"images must be uint8 [batch, h, w, c], found {pixels.dtype} {tuple(pixels.shape)}")
    if not len(mean) == len(std) == pixels.shape[-1]:
        raise ValueError(f"mean and std need {pixels.shape[-1]} values each, found {len(mean)} and {len(std)}")
    # [batch, c, h, w]:
    channels_first = pixels.permute(0, 3, 1, 2).float() / 255
    centre = torch.tensor(mean, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
    return ((channels_first - centre) / scale).contiguous()
