"""What the laptop recipe trains on and what its probes see: composites, or photographs (spec 13, trials A and B)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from infocl.augmentation import Augmentation, Views
from infocl.composites import CompositeViews, composites, halves
from infocl.networks import DecoderPlan
from infocl.training import Source
from sextet.data import CIFAR10, FASHION_MNIST, MNIST, Arrays, Passport


@dataclass(frozen=True)
class Counts:
    """Images to train on, and for each probe to train and to test on."""

    images: int
    probe: int
    test: int


@dataclass(frozen=True, eq=False)
class Task:
    """A question for probes: which images it is asked of, and the answers, int64 [n], of ten classes."""

    images: str
    train: Tensor
    test: Tensor


@dataclass(frozen=True, eq=False)
class Laboratory:
    """One setting.

    Attributes:
        source: views to train on.
        channels: of the images.
        decoder: of the reconstruction regulariser.
        images: of the probes by name, (train, test), float32 [n, channels, h, w]; none was trained on.
        tasks: by name.
    """

    source: Source
    channels: int
    decoder: DecoderPlan
    images: dict[str, tuple[Tensor, Tensor]]
    tasks: dict[str, Task]


def composites_laboratory(digits: Arrays, garments: Arrays, counts: Counts, seed: int) -> Laboratory:
    """Digit and garment side by side; the digit is what views share.

    The seed decides which images train and how halves are paired; the test images are the same for all seeds.
    """
    sources = ((digits, 2 * seed), (garments, 2 * seed + 1))
    pools = [halves(arrays, "train", counts.images, seed=order) for arrays, order in sources]
    train = [halves(a, "train", counts.probe, start=counts.images, seed=order) for a, order in sources]
    test = [halves(arrays, "test", counts.test, seed=order) for order, arrays in enumerate((digits, garments))]
    tasks = {
        name: Task("composites", train[half].labels, test[half].labels)
        for half, name in enumerate(("digit", "garment"))
    }
    images = {"composites": (composites(*train), composites(*test))}
    plan = DecoderPlan((64, 2, 4), ((32, 2), (16, 2), (1, 2)))
    return Laboratory(CompositeViews(*pools, seed=seed), 1, plan, images, tasks)


def photographs_laboratory(photographs: Arrays, others: dict[str, Arrays], counts: Counts, seed: int) -> Laboratory:
    """CIFAR-10 under the published augmentation, probed there and on sets of grey images.

    The seed decides which images train; the probes' test images are the same for all seeds.
    """
    order = np.random.default_rng(seed).permutation(len(photographs["train_labels"]))
    pool, probe = order[: counts.images], order[counts.images :][: counts.probe]
    source = Views(torch.from_numpy(photographs["train_images"][pool]), Augmentation(), seed=seed)
    images, tasks = {}, {}
    for name, arrays in {"photographs": photographs, **others}.items():
        rows = probe
        if name != "photographs":
            rows = np.random.default_rng(seed).permutation(len(arrays["train_labels"]))[: counts.probe]
        train, test = arrays["train_images"][rows], np.array(arrays["test_images"][: counts.test])
        images[name] = standardised(train), standardised(test, train)
        labels = arrays["train_labels"][rows], np.array(arrays["test_labels"][: counts.test])
        tasks[name] = Task(name, *map(torch.from_numpy, labels))
    return Laboratory(source, 3, DecoderPlan((64, 4, 4), ((32, 2), (16, 2), (3, 2))), images, tasks)


def standardised(images: np.ndarray, like: np.ndarray | None = None) -> Tensor:
    """uint8 [n, h, w, c] as float32 [n, 3, 32, 32], standardised by the pixels of `like`, or by their own."""
    reference = torch.from_numpy(images if like is None else like).float()
    pixels = (torch.from_numpy(images).float() - reference.mean()) / reference.std()
    pixels = pixels.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    return F.interpolate(pixels, (32, 32), mode="bilinear", antialias=True)


def needed(data: str) -> tuple[Passport, ...]:
    """The datasets of a setting."""
    return (MNIST, FASHION_MNIST) if data == "composites" else (CIFAR10, MNIST, FASHION_MNIST)
