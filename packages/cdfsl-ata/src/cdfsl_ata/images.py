"""Packed images that become pixels on the device, augmented at random by (seed, step) alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cdfsl_ata.transforms import MEAN, STD

Ids = NDArray[np.int64]
Augmentation = Callable[[Tensor, torch.Generator], Tensor]
STREAMS = 8


def generator_of(seed: int, step: int, stream: int) -> torch.Generator:
    """A CPU generator for one purpose of one step, so that a continued run draws what an unbroken one would.

    Args:
        seed: of the run.
        step: of its loop.
        stream: 0..7, the purpose: the same step's augmentation and random convolution draw apart.
    """
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * STREAMS + stream) % 2**63)


class PackedImages:
    """uint8 images in memory, normalised on the device batch by batch.

    Args:
        images: uint8 [n, channels, h, w]; one channel is copied to three.
        labels: [n] integers.
        augment: (float images in [0, 1] [k, 3, h, w], CPU generator) -> the same shape or another size; used where a
            step is given. None for none.
        mean, std: of the three channels, in [0, 1].
        seed: of the augmentation.
        device: of the pixels.

    Raises:
        ValueError: images of another type or shape, or another number of labels.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Ids,
        *,
        augment: Augmentation | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images: expected uint8 [n, 1 or 3, h, w], got {images.dtype} {list(images.shape)}")
        if len(labels) != len(images):
            raise ValueError(f"labels: expected {len(images)}, one an image, got {len(labels)}")
        self.images, self.labels, self.augment, self.seed = images, labels, augment, seed
        self.device = device or torch.device("cpu")
        self.mean, self.std = (torch.tensor(value, device=self.device)[:, None, None] for value in (mean, std))

    def pixels(self, ids: Ids, step: int | None = None) -> Tensor:
        """Normalised float32 [k, 3, h, w] on the device; augmented where `step` is given.

        Args:
            ids: [k] rows of the images.
            step: of a training loop, which decides the augmentation together with the seed.
        """
        chosen = self.images[torch.from_numpy(ids).to(self.images.device)].to(self.device)
        values = chosen.float().div(255).expand(-1, 3, -1, -1)
        if step is not None and self.augment is not None:
            values = self.augment(values, generator_of(self.seed, step, 0))
        return (values - self.mean) / self.std


def crop_and_flip(padding: int) -> Augmentation:
    """An augmentation: a crop of the image's size at a random place after zero padding, then a flip half the time.

    Args:
        padding: pixels on each side, at least 0.
    """

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        shifts = torch.randint(2 * padding + 1, (2, count, 1), generator=generator)
        flips = torch.rand(count, 1, generator=generator) < 0.5
        rows = shifts[0] + torch.arange(height)
        columns = torch.arange(width)
        columns = shifts[1] + torch.where(flips, columns.flip(0), columns)
        rows, columns = rows.to(images.device), columns.to(images.device)
        padded = F.pad(images, (padding,) * 4)
        number = torch.arange(count, device=images.device)[:, None, None]
        return padded[number, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return augment
