"""Two targets of 1,000 training images for a backbone that knows garments: digits, and turns of unseen garments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sextet.data import Arrays

TURNS = 8


@dataclass(frozen=True, eq=False)
class Target:
    """Images of a target task: `train` ones to train on, `val` ones to choose the scale on, the rest to test.

    Attributes:
        pixels: uint8 [n, 28, 28, 1].
        labels: int64 [n].
        n_classes: labels are 0..n_classes-1.
        train, val: how many.
    """

    pixels: Tensor
    labels: Tensor
    n_classes: int
    train: int = 800
    val: int = 200


def digits_target(mnist: Arrays, test_images: int) -> Target:
    """1,000 of MNIST's training images at random, and test images at random; the same ones always."""
    rng = np.random.default_rng(1000)
    train = rng.permutation(len(mnist["train_labels"]))[:1000]
    test = rng.permutation(len(mnist["test_labels"]))[:test_images]
    pixels = np.concatenate([mnist["train_images"][train], mnist["test_images"][test]])
    labels = np.concatenate([mnist["train_labels"][train], mnist["test_labels"][test]])
    return Target(torch.from_numpy(pixels), torch.from_numpy(labels), 10)


def rotation_target(fashion: Arrays, unseen: np.ndarray, test_images: int) -> Target:
    """Garments turned by 0 to 7 eighths (bilinear, black behind); the label is how many.

    Args:
        fashion: Fashion-MNIST.
        unseen: training images that the backbone was not trained on, the first 1,000 of which train.
        test_images: taken from the test images at random.
    """
    from PIL import Image

    rng = np.random.default_rng(8000)
    test = rng.permutation(len(fashion["test_labels"]))[:test_images]
    images = np.concatenate([fashion["train_images"][unseen[:1000]], fashion["test_images"][test]])[..., 0]
    turns = rng.integers(TURNS, size=len(images))
    turned = [
        np.asarray(Image.fromarray(image).rotate(360 / TURNS * turn, Image.Resampling.BILINEAR))
        for image, turn in zip(images, turns.tolist(), strict=True)
    ]
    return Target(torch.from_numpy(np.stack(turned)[..., None]), torch.from_numpy(turns), TURNS)
