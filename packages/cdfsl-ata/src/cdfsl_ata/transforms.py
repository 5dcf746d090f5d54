"""Pixels of an image and the interval of an accuracy, as the published protocol has them (sections 10 and 11)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageEnhance
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JITTER = 0.4


def colour_jitter(image: Image.Image, uniform: Sequence[float]) -> Image.Image:
    """Brightness, contrast and colour by the factors 1 + 0.4 (2 u - 1), in this order.

    Args:
        image: RGB.
        uniform: three numbers u in [0, 1).
    """
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, u in zip(enhancers, uniform, strict=True):
        image = enhancer(image).enhance(1 + JITTER * (2 * u - 1)).convert("RGB")
    return image


def centred_pixels(image: Image.Image, size: int = 224) -> Tensor:
    """Resized to 1.15 times the size without keeping the aspect, cropped in the middle, normalised: [3, size, size]."""
    from torchvision.transforms import functional

    larger = int(size * 1.15)
    resized = image.convert("RGB").resize((larger, larger), Image.Resampling.BILINEAR)
    pixels = functional.center_crop(functional.to_tensor(resized), [size, size])
    return functional.normalize(pixels, list(MEAN), list(STD))


def mean_and_half_width(accuracies: Tensor) -> tuple[float, float]:
    """Mean over episodes and 1.96 population standard deviations of the mean.

    Raises:
        ValueError: no episodes.
    """
    if not len(accuracies):
        raise ValueError("accuracies: expected at least one episode, got none")
    return float(accuracies.mean()), 1.96 * float(accuracies.std(correction=0)) / math.sqrt(len(accuracies))
