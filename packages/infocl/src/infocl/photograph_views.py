"""Views of photographs that stay files: decoded and cropped in threads while the device is busy, coloured on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from infocl.augmentation import ATTEMPTS, Augmentation, Draws, augment, crop_boxes
from sextet.data.photographs import PhotographList

Batch = tuple[Tensor, int]
"""Rows and the epoch they are asked for in."""

Following = Callable[[Tensor, int], Batch | None]
"""(rows, epoch) -> the batch that will be asked for next, None at the end."""


class PhotographViews:
    """What `training.train` asks for, of images too many or too large to hold: ImageNet.

    Crops and mirrors are made by PIL, from the same random numbers as `augmentation.Views` uses; colours are changed on
    the device.

    Args:
        photographs: images of any size.
        augmentation: of each view.
        seed: of the augmentation.
        count: views an image.
        labels: whether to offer the photographs' labels, for supervised training.
        mean, std: of the channels.
        device: where views are finished.
        threads: that decode.
        following: what will be asked for next, to decode it ahead.
    """

    def __init__(
        self,
        photographs: PhotographList,
        augmentation: Augmentation,
        *,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        count: int = 2,
        labels: bool = False,
        threads: int = 16,
        following: Following | None = None,
    ) -> None:
        self.photographs, self.augmentation, self.count, self.device = photographs, augmentation, count, device
        self.labels = torch.from_numpy(np.array(photographs.labels)) if labels else None
        self.draws = Draws(seed, len(photographs))
        self.mean, self.std = (torch.tensor(value, device=device)[:, None, None] for value in (mean, std))
        self.following = following
        self._pool = ThreadPoolExecutor(threads)
        self._ahead: tuple[Batch, list[Future[np.ndarray]]] | None = None

    def __len__(self) -> int:
        return len(self.photographs)

    def views(self, rows: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """`count` views float32 [len(rows), 3, size, size] of the photographs `rows` in an epoch.

        Raises:
            DataError: a file is no whole image.
        """
        ahead, self._ahead = self._ahead, None
        known = ahead is not None and ahead[0][1] == epoch and torch.equal(ahead[0][0], rows)
        crops = ahead[1] if ahead is not None and known else self._crop(rows, epoch)
        upcoming = self.following(rows, epoch) if self.following else None
        # Decoded by the same threads, after what is waited for below
        self._ahead = None if upcoming is None else (upcoming, self._crop(*upcoming))
        # [n, count, size, size, 3]
        pixels = torch.from_numpy(np.stack([crop.result() for crop in crops])).to(self.device)
        whole = replace(self.augmentation, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
        drawn = [self.draws.rows(epoch, view, rows) for view in range(self.count)]
        views = (augment(pixels[:, view], each, whole) for view, each in enumerate(drawn))
        return tuple((view - self.mean) / self.std for view in views)

    def _crop(self, rows: Tensor, epoch: int) -> list[Future[np.ndarray]]:
        drawn = torch.stack([self.draws.rows(epoch, view, rows) for view in range(self.count)], dim=1)
        pairs = zip(rows.tolist(), drawn, strict=True)
        return [self._pool.submit(cropped, self.photographs, row, draws, self.augmentation) for row, draws in pairs]


def cropped(photographs: PhotographList, row: int, draws: Tensor, config: Augmentation) -> np.ndarray:
    """Views of one photograph, cropped and mirrored but not coloured, uint8 [count, size, size, 3].

    Args:
        photographs: images of any size.
        row: which.
        draws: [count, DRAWS], of `augmentation.Draws`.
        config: distributions.
    """
    from PIL import Image as pillow

    image = photographs[row]
    sizes = torch.tensor([[image.height, image.width]]).expand(len(draws), 2)
    boxes = crop_boxes(draws[:, : 2 * ATTEMPTS + 2], sizes, config.scale, config.ratio).tolist()
    views = []
    mirror = (draws[:, 2 * ATTEMPTS + 2] < config.flip).tolist()
    for (top, left, height, width), mirrored in zip(boxes, mirror, strict=True):
        part = image.crop((left, top, left + width, top + height))
        part = part.resize((config.size, config.size), pillow.Resampling.BILINEAR)
        views.append(np.asarray(part.transpose(pillow.Transpose.FLIP_LEFT_RIGHT) if mirrored else part))
    return np.stack(views)
