"""Fine-tuning at test time on pseudo samples of the support set (section 9)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdfsl_ata.learners import Learner, query_labels

Augmentation = Callable[[Tensor], Tensor]


def gamma_correction(image: Tensor, gamma: float) -> Tensor:
    """The power `gamma` of an image [3, h, w] shifted and scaled to [0, 1] by its own extremes, and back."""
    low, high = image.min(), image.max()
    if bool(high == low):
        return image
    return ((image - low) / (high - low)).pow(gamma) * (high - low) + low


class PseudoAugmentation:
    """Changes of one normalised image [3, h, w], in this order, each with its own probability.

    Gamma correction (0.3, gamma ~ U(1, 1.5)); a box erased by the channels' means (0.5, area 2-33 %, aspect 0.3-3.3);
    permutation of the channels (0.3); a flip (0.5, either way); rotation by a multiple of 90 degrees (0.5).

    Args:
        generator: on the CPU; torch's own by default.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def __call__(self, image: Tensor) -> Tensor:
        """A changed copy.

        Raises:
            ValueError: an image that is not square, which a rotation would not keep in shape.
        """
        if image.ndim != 3 or image.shape[1] != image.shape[2]:
            raise ValueError(f"image: expected [channels, size, size], got {list(image.shape)}")
        if self._uniform() < 0.3:
            image = gamma_correction(image, 1 + 0.5 * self._uniform())
        if self._uniform() < 0.5:
            image = self._erased(image)
        if self._uniform() < 0.3:
            image = image[torch.randperm(len(image), generator=self.generator).to(image.device)]
        if self._uniform() < 0.5:
            image = image.flip(1 if self._uniform() < 0.5 else 2)
        if self._uniform() < 0.5:
            image = image.rot90(1 + int(3 * self._uniform()), (1, 2))
        return image

    def _erased(self, image: Tensor) -> Tensor:
        _, height, width = image.shape
        for _ in range(10):
            area = (0.02 + 0.31 * self._uniform()) * height * width
            aspect = math.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * self._uniform())
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int((height - h + 1) * self._uniform()), int((width - w + 1) * self._uniform())
                image = image.clone()
                image[:, top : top + h, left : left + w] = image.mean(dim=(1, 2), keepdim=True)
                break
        return image

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.generator))


def pseudo_set(
    support: Tensor, n_pseudo: int, augment: Augmentation, order: Literal["published", "support-first"] = "published"
) -> Tensor:
    """Support images with augmented copies of them.

    Args:
        support: [n_way, n_support, channels, h, w].
        n_pseudo: copies in all, the same number of each image.
        augment: makes one copy of one image; called image by image, class by class.
        order: within a class: `published` has each image followed by its copies, so that at 5 shots copies serve as
            support and images as queries; `support-first` has all images, then all copies.

    Returns:
        [n_way, n_support + n_pseudo / n_way, channels, h, w].

    Raises:
        ValueError: `n_pseudo` that is not a multiple of the number of images.
    """
    n_way, n_support = support.shape[:2]
    copies, rest = divmod(n_pseudo, n_way * n_support)
    if rest or copies < 1:
        raise ValueError(f"n_pseudo: expected a multiple of the {n_way * n_support} support images, got {n_pseudo}")
    blocks = []
    for images in support:
        made = [[image, *(augment(image) for _ in range(copies))] for image in images]
        if order == "support-first":
            made = [[row[0] for row in made], [copy for row in made for copy in row[1:]]]
        blocks.append(torch.stack([image for row in made for image in row]))
    return torch.stack(blocks)


def classification_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a classifier on images [n, channels, h, w] with labels [n]."""
    return F.cross_entropy(model(images), labels)


def episode_loss(learner: Learner, images: Tensor) -> Tensor:
    """Cross-entropy of a learner's scores, whatever its own loss, on images [n_way, n_support + n_query, ...]."""
    scores = learner.scores(images)
    return F.cross_entropy(scores, query_labels(scores))


def dampened_sgd(
    parameters: Iterable[Tensor], lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 1e-3
) -> torch.optim.Optimizer:
    """The published SGD of linear fine-tuning: dampening as large as momentum, decay on all parameters."""
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, dampening=momentum, weight_decay=weight_decay)


def adam(parameters: Iterable[Tensor], lr: float = 1e-3) -> torch.optim.Optimizer:
    """The published Adam of episodic fine-tuning."""
    return torch.optim.Adam(parameters, lr=lr)


def fine_tune_linear(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-3,
) -> list[Tensor]:
    """Encoder and linear layer by SGD with cross-entropy, all parameters decayed, dampening as large as momentum.

    Args:
        model: images -> logits; changed in place, left in training mode.
        batches: (images [n, channels, h, w], labels [n]) one a step.
        lr, momentum, weight_decay: of SGD.

    Returns:
        The loss before each step.
    """
    optimizer = dampened_sgd(model.parameters(), lr, momentum, weight_decay)
    model.train()
    losses = []
    for images, labels in batches:
        loss = classification_loss(model, images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def fine_tune_episodes(learner: Learner, episodes: Iterable[Tensor], *, lr: float = 1e-3) -> list[Tensor]:
    """A meta-trained learner by Adam on pseudo episodes, with cross-entropy on its scores whatever its own loss.

    Args:
        learner: changed in place, left in training mode, in which the published protocol tests too.
        episodes: [n_way, n_support + n_query, channels, h, w] one a step, see `pseudo_set`.
        lr: of Adam.

    Returns:
        The loss before each step.
    """
    optimizer = adam(learner.parameters(), lr)
    learner.train()
    losses = []
    for images in episodes:
        loss = episode_loss(learner, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses
