"""What features know of the augmentation (section 11).

Whether a feature vector tells where its view was cropped, whether it was mirrored, how its colours were changed, is
non-shared information measured directly: the other view was augmented independently, so that what views share has none
of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from infocl.augmentation import ATTEMPTS, DRAWS, Augmentation, crop_boxes, jitter_factors
from infocl.probes import converged_probe

RIDGES = tuple(10.0**exponent for exponent in range(-6, 2))
Facts = Mapping[str, Tensor]
"""What is true of each view, by name: float or bool [n]."""


def augmentation_facts(draws: Tensor, sizes: Tensor, config: Augmentation) -> dict[str, Tensor]:
    """How `augmentation.augment` changes each image, read off its random numbers.

    `row`, `column`: centre of the crop in 0..1 of the image; `area`: log of its share; `mirrored`; `brightness`,
    `contrast`, `saturation`: factors, 1 where colours were left alone; `hue`: shift in turns, 0 there; `grey`.

    Args:
        draws: [n, DRAWS], of `augmentation.Draws`.
        sizes: [n, 2] heights and widths of the images.
        config: the distributions.

    Raises:
        ValueError: `draws` of another width.
    """
    if draws.shape != (len(sizes), DRAWS):
        raise ValueError(f"draws: expected [{len(sizes)}, {DRAWS}], got {list(draws.shape)}")
    boxes = crop_boxes(draws[:, : 2 * ATTEMPTS + 2], sizes, config.scale, config.ratio).double()
    height, width = sizes.double().unbind(1)
    mirrored, jittered, *strengths, _, grey = draws[:, 2 * ATTEMPTS + 2 :].unbind(1)
    unchanged = torch.tensor([1.0, 1.0, 1.0, 0.0])
    factors = torch.where(
        (jittered < config.jitter)[:, None], jitter_factors(torch.stack(strengths, dim=1), config), unchanged
    )
    return {
        "row": (boxes[:, 0] + boxes[:, 2] / 2) / height,
        "column": (boxes[:, 1] + boxes[:, 3] / 2) / width,
        "area": (boxes[:, 2] * boxes[:, 3] / (height * width)).log(),
        "mirrored": mirrored < config.flip,
        **dict(zip(("brightness", "contrast", "saturation", "hue"), factors.double().unbind(1), strict=True)),
        "grey": grey < config.grey,
    }


def mean_colours(views: Tensor) -> dict[str, Tensor]:
    """Mean `red`, `green` and `blue` [n] of views [n, 3, h, w]."""
    return dict(zip(("red", "green", "blue"), views.mean(dim=(2, 3)).double().unbind(1), strict=True))


def explained(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, ridges: Sequence[float] = RIDGES) -> Tensor:
    """R^2 on test rows of a ridge regression from standardised features, for each target.

    1: the features determine the target linearly; 0: they tell no more than its mean; below 0: less.

    Args:
        train, test: features [n, dim] and targets [n, targets].
        ridges: to choose from, per row, by the last fifth of the training rows.

    Raises:
        ValueError: no ridges, or fewer than ten training rows.
    """
    features, targets = (part.double() for part in train)
    if not ridges or len(features) < 10:
        raise ValueError(f"expected ridges and at least ten rows, got {len(ridges)} and {len(features)}")
    cut = len(features) * 4 // 5
    held_out = features[cut:], targets[cut:]
    # [ridges, targets]: each target chooses its own
    scores = torch.stack(
        [_r2(_ridge(features[:cut], targets[:cut], ridge, held_out[0]), held_out[1]) for ridge in ridges]
    )
    chosen = scores.argmax(dim=0).tolist()
    answers = {ridge: _ridge(features, targets, ridges[ridge], test[0].double()) for ridge in set(chosen)}
    predicted = torch.stack([answers[ridge][:, target] for target, ridge in enumerate(chosen)], dim=1)
    return _r2(predicted, test[1].double())


def _ridge(features: Tensor, targets: Tensor, ridge: float, queries: Tensor) -> Tensor:
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    scale = torch.where(std > 0, 1 / std, 0.0)
    x, centre = (features - mean) * scale, targets.mean(dim=0)
    gram = x.T @ x + len(x) * ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(gram, x.T @ (targets - centre))
    return (queries - mean) * scale @ weights + centre


def _r2(predicted: Tensor, targets: Tensor) -> Tensor:
    residual = (targets - predicted).square().sum(dim=0)
    return 1 - residual / (targets - targets.mean(dim=0)).square().sum(dim=0).clamp(min=1e-300)


def augmentation_information(train: tuple[Tensor, Facts], test: tuple[Tensor, Facts], *, seed: int) -> dict[str, float]:
    """What features tell of their view's augmentation, 0 (nothing) to 1 (everything).

    Numbers are asked for by ridge regression (R^2), true-or-false facts by the converged probe (accuracy rescaled from
    the share of the commoner answer..1 to 0..1).

    Args:
        train, test: features h [n, dim] and facts of their views (`augmentation_facts`, `mean_colours`).
        seed: of the rows that the converged probe holds out.
    """
    found = {}
    numbers = [name for name, value in train[1].items() if value.is_floating_point()]
    targets = [torch.stack([side[1][name] for name in numbers], dim=1) for side in (train, test)]
    r2 = explained((train[0], targets[0]), (test[0], targets[1]))
    found |= dict(zip(numbers, r2.tolist(), strict=True))
    for name in train[1].keys() - set(numbers):
        answers = [side[1][name].long() for side in (train, test)]
        hits = converged_probe((train[0], answers[0]), (test[0], answers[1]), 2, seed=seed).hits
        commoner = max(float(answers[1].double().mean()), 1 - float(answers[1].double().mean()))
        found[name] = (float(hits.double().mean()) - commoner) / max(1 - commoner, 1e-9)
    return found
