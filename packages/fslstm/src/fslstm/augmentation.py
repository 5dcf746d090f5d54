"""Augmentation of meta-training, per image and batched on the device (section 9.4).

Random crop after zero padding, colour jitter of brightness, contrast and saturation in a random order, horizontal flip.
Everything random comes from numbers in [0, 1) that depend on (seed, call) alone, on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DRAWS = 7
"""Random numbers an image needs: crop row and column, three strengths, their order, flip."""

ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""In which order brightness (0), contrast (1) and saturation (2) change; each order is equally likely."""

_LUMA = (0.2989, 0.587, 0.114)


def uniform_draws(seed: int, call: int, images: int) -> Tensor:
    """Numbers in [0, 1) `[images, DRAWS]` float64 that depend on (seed, call) alone (Philox's raw words)."""
    words = np.random.Philox(key=seed, counter=[0, 0, 1, call]).random_raw(images * DRAWS)
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53).view(images, DRAWS)


def augment(images: Tensor, draws: Tensor, *, padding: int, strength: float = 0.4) -> Tensor:
    """Augmented images float32 `[n, 3, h, w]` in 0..1 from uint8 `[n, h, w, 3]`.

    Args:
        images: as stored.
        draws: `[n, DRAWS]` in [0, 1), from `uniform_draws`.
        padding: zeros around each image before the crop of the original size.
        strength: brightness, contrast and saturation are scaled by factors in [1 - strength, 1 + strength].
    """
    draws = draws.to(images.device)
    cropped = crop(images, (draws[:, :2] * (2 * padding + 1)).long(), padding)
    pixels = cropped.permute(0, 3, 1, 2).float() / 255
    factors = (1 - strength + 2 * strength * draws[:, 2:5]).float()
    orders = torch.tensor(ORDERS, device=images.device)[(draws[:, 5] * len(ORDERS)).long()]
    return flip(jitter(pixels, factors, orders), draws[:, 6] < 0.5)


def crop(images: Tensor, corners: Tensor, padding: int) -> Tensor:
    """Windows `[n, h, w, c]` of zero-padded images, each with its own corner.

    Args:
        images: `[n, h, w, c]`.
        corners: `[n, 2]` row and column in 0..2 * padding; `padding` for both is the original image.
        padding: zeros on every side.
    """
    n, height, width, _ = images.shape
    padded = nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    # [n, h, 1] and [n, 1, w]
    rows = corners[:, 0, None, None] + torch.arange(height, device=images.device)[None, :, None]
    columns = corners[:, 1, None, None] + torch.arange(width, device=images.device)[None, None, :]
    return padded[torch.arange(n, device=images.device)[:, None, None], rows, columns]


def jitter(images: Tensor, factors: Tensor, orders: Tensor) -> Tensor:
    """Brightness, contrast and saturation of images `[n, 3, h, w]` in 0..1, each clamped to that range afterwards.

    Each is a blend factor * image + (1 - factor) * other: with black, with the mean of the grey image, with the grey
    image (torchvision's definitions).

    Args:
        images: float.
        factors: `[n, 3]` of brightness, contrast, saturation.
        orders: `[n, 3]` which of them (0, 1, 2) comes first, second, third.
    """
    luma = torch.tensor(_LUMA, device=images.device, dtype=images.dtype)[:, None, None]
    for kind in orders.unbind(dim=1):
        factor = factors.gather(1, kind[:, None])[..., None, None]
        # [n, 1, h, w]
        grey = (images * luma).sum(dim=1, keepdim=True)
        mean = grey.mean(dim=(2, 3), keepdim=True)
        which = kind[:, None, None, None]
        other = torch.where(which == 0, torch.zeros_like(grey), torch.where(which == 1, mean, grey))
        images = (factor * images + (1 - factor) * other).clamp(0, 1)
    return images


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen images (`[n]` bool) of `[n, c, h, w]` left to right."""
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


class Preprocessed(nn.Module):
    """A backbone that takes images as stored: augmented while training, only normalised in evaluation.

    The number of training calls is part of the state dict, so that a resumed run draws what it would have drawn.

    Args:
        backbone: normalised images float32 `[n, 3, h, w]` -> features `[n, dim]`.
        mean, std: of the channels, on the scale 0..1.
        padding: see `augment`.
        seed: of the augmentation.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, *, mean: Sequence[float], std: Sequence[float], padding: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.backbone, self.padding, self.seed, self.calls = backbone, padding, seed, 0
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 `[n, h, w, 3]` -> features `[n, dim]`."""
        if self.training:
            draws = uniform_draws(self.seed, self.calls, len(images))
            pixels = augment(images, draws, padding=self.padding)
            self.calls += 1
        else:
            pixels = images.permute(0, 3, 1, 2).float() / 255
        return self.backbone((pixels - self.mean) / self.std)

    def get_extra_state(self) -> Any:
        """Number of training calls so far."""
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        """Put back what `get_extra_state` returned."""
        self.calls = int(state["calls"])
