"""Pixels of the published evaluation (7.3, 7.4), splits that are drawn (6.2), names for detectron2 (7.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "CIFAR10": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CIFAR100": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "STL-10": ((0.491, 0.482, 0.447), (0.247, 0.244, 0.262)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "dtd": ((0.533, 0.474, 0.426), (0.261, 0.250, 0.259)),
    "mnist": ((0.170, 0.170, 0.170), (0.320, 0.320, 0.320)),
    "fashionmnist": ((0.348, 0.348, 0.348), (0.347, 0.347, 0.347)),
    "cu_birds": ((0.483, 0.491, 0.424), (0.228, 0.224, 0.259)),
    "vgg_flower": ((0.518, 0.410, 0.329), (0.296, 0.249, 0.285)),
    "traffic_sign": ((0.335, 0.291, 0.295), (0.267, 0.249, 0.251)),
    "aircraft": ((0.486, 0.507, 0.525), (0.266, 0.260, 0.276)),
}


def pixels(image: Image.Image, dataset: str, size: int) -> Tensor:
    """Resized to size x size without keeping the aspect, normalised by the dataset's statistics, [3, size, size]."""
    resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return normalised(resized, dataset)


def centred_pixels(image: Image.Image, dataset: str) -> Tensor:
    """The shorter side to 256, the middle 224 x 224 of it, normalised, [3, 224, 224]."""
    from torchvision.transforms import functional

    resized = functional.resize(image.convert("RGB"), [256])  # pyright: ignore[reportArgumentType]
    cropped = functional.center_crop(resized, [224, 224])
    assert isinstance(cropped, Image.Image)
    return normalised(cropped, dataset)


def normalised(image: Image.Image, dataset: str) -> Tensor:
    """[3, h, w] of an RGB image.

    Raises:
        ValueError: an unknown dataset.
    """
    if dataset not in STATISTICS:
        raise ValueError(f"dataset: expected one of {sorted(STATISTICS)}, got {dataset!r}")
    mean, std = (torch.tensor(values)[:, None, None] for values in STATISTICS[dataset])
    values = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float() / 255
    return (values - mean) / std


def class_splits(counts: Sequence[int], seed: int = 42) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each class, which of its `count` items train (80 %) and which test; one generator for all, in order."""
    generator = np.random.RandomState(seed)
    splits = []
    for count in counts:
        order = np.arange(count)
        generator.shuffle(order)
        cut = int(0.8 * count)
        splits.append((order[:cut], order[cut:]))
    return splits


def first_seen(labels: Sequence[int]) -> list[int]:
    """The classes in order of their first appearance."""
    return list(dict.fromkeys(labels))


def detectron2_name(name: str) -> str:
    """The name of an encoder's weight in detectron2's ResNet: `layer1.0.bn1.weight` -> `res2.0.conv1.norm.weight`."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    for stage in range(4, 0, -1):
        name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
    for number in (1, 2, 3):
        name = name.replace(f"bn{number}.", f"conv{number}.norm.")
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
