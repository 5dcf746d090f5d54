"""Linear classifiers on frozen features: as published (7.3, 7.4), and converged (9.4).

The published one is plain SGD at a fixed learning rate on features as they are, so whatever enlarges features trains it
better. The converged one does not see the scale of features; give both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 1))
"""What the converged probe chooses from."""


class Probe(NamedTuple):
    """A classifier trained by SGD.

    Attributes:
        layer: it.
        losses: mean training loss of each epoch.
        hits: whether each test row was right after each epoch, bool [epochs, n].
    """

    layer: nn.Linear
    losses: list[float]
    hits: Tensor

    @property
    def accuracies(self) -> list[float]:
        """Per cent of the test set after each epoch."""
        return [100 * float(row.double().mean()) for row in self.hits]

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest test accuracy: selection on the test set, as published."""
        return max(range(len(self.hits)), key=self.accuracies.__getitem__)

    @property
    def best(self) -> float:
        """The published figure, chosen on the test set; the last accuracy is the honest one."""
        return max(self.accuracies)


def step_rate(epoch: int, epochs: int, base: float = 0.01) -> float:
    """A tenth after 60 and after 80 per cent of the epochs."""
    return base * 0.1 ** sum(epoch >= share * epochs for share in (0.6, 0.8))


def cosine_rate(epoch: int, epochs: int, base: float = 0.3) -> float:
    """base (1 + cos(pi epoch / epochs)) / 2."""
    return base * (1 + math.cos(math.pi * epoch / epochs)) / 2


def linear_probe(
    layer: nn.Linear,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    orders: Sequence[Tensor],
    rates: Sequence[float],
    batch_size: int = 128,
    momentum: float = 0.9,
) -> Probe:
    """SGD with cross-entropy on fixed features, without decay; the last incomplete batch of an epoch is dropped.

    Args:
        layer: where training starts; changed in place.
        train, test: features [n, dim] and labels [n].
        orders: of the training rows, one an epoch.
        rates: learning rates, one an epoch.
        batch_size, momentum: of SGD.

    Raises:
        ValueError: fewer training rows than a batch.
    """
    features, labels = train
    batches = len(labels) // batch_size
    if not batches:
        raise ValueError(f"batch_size: expected at most the {len(labels)} training rows, got {batch_size}")
    optimizer = torch.optim.SGD(layer.parameters(), lr=rates[0], momentum=momentum)
    losses, hits = [], []
    for order, rate in zip(orders, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        total = torch.zeros((), dtype=torch.float64, device=labels.device)
        for rows in order[: batches * batch_size].to(labels.device).split(batch_size):
            loss = F.cross_entropy(layer(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        losses.append(float(total) / batches)
        with torch.no_grad():
            hits.append((layer(test[0]).argmax(1) == test[1]).cpu())
    return Probe(layer, losses, torch.stack(hits))


def reference_probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    *,
    seed: int,
    epochs: int = 100,
    lr: float = 0.01,
    batch_size: int = 128,
) -> Probe:
    """The published probe (7.3): PyTorch's default initialisation, a tenth of `lr` after 60 and 80 % of the epochs.

    Args:
        train, test: features [n, dim] as the encoder gives them, and labels [n].
        classes: number of them.
        seed: of the initial weights and of the order of the rows; the same on any device.
        epochs, lr, batch_size: of SGD with momentum 0.9.

    Raises:
        ValueError: fewer training rows than a batch, or no epoch.
    """
    if epochs < 1:
        raise ValueError(f"epochs: expected at least 1, got {epochs}")
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(train[0].shape[1], classes)
    bound = 1 / math.sqrt(layer.in_features)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    orders = [torch.randperm(len(train[1]), generator=generator) for _ in range(epochs)]
    rates = [step_rate(epoch, epochs, lr) for epoch in range(epochs)]
    return linear_probe(layer.to(train[0]), train, test, orders, rates, batch_size)


class ConvergedProbe(NamedTuple):
    """A regularised logistic regression at its optimum.

    Attributes:
        layer: acts on features as they are; the standardisation is part of its weights.
        penalty: the chosen one.
        validation: accuracy in per cent on the held-out rows by penalty.
        hits: whether each test row was right, bool [n].
    """

    layer: nn.Linear
    penalty: float
    validation: dict[float, float]
    hits: Tensor

    @property
    def accuracy(self) -> float:
        """Per cent of the test set."""
        return 100 * float(self.hits.double().mean())


def converged_probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    *,
    seed: int,
    penalties: Sequence[float] = PENALTIES,
    held_out: float = 0.2,
) -> ConvergedProbe:
    """Logistic regression on standardised features to convergence, its penalty chosen on held-out training rows.

    The accuracy does not change when features are scaled or shifted, column by column. Once the penalty is chosen, all
    training rows are used; the test rows only count at the end.

    Args:
        train, test: features [n, dim] and labels [n].
        classes: number of them.
        seed: of the rows that are held out.
        penalties: of `fit_logistic`, to choose from; of equal ones the largest.
        held_out: share of the training rows.

    Raises:
        ValueError: no penalty, or nothing left to train or to validate on.
    """
    features, labels = train
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    cut = round(held_out * len(rows))
    if not penalties or not 0 < cut < len(rows):
        raise ValueError(
            f"penalties, held_out: expected penalties and a share that leaves rows on both sides of {len(rows)}, "
            f"got {len(penalties)} and {held_out}"
        )
    kept = rows[cut:]
    validation: dict[float, float] = {}
    start = None
    for penalty in sorted(penalties, reverse=True):
        start = fit_logistic(features[kept], labels[kept], classes, penalty, start)
        right = start(features[rows[:cut]]).argmax(1) == labels[rows[:cut]]
        validation[penalty] = 100 * float(right.double().mean())
    chosen = max(validation, key=validation.__getitem__)
    layer = fit_logistic(features, labels, classes, chosen)
    with torch.no_grad():
        return ConvergedProbe(layer, chosen, validation, (layer(test[0]).argmax(1) == test[1]).cpu())


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float,
    start: nn.Linear | None = None,
    *,
    tolerance: float = 1e-5,
    iterations: int = 500,
) -> nn.Linear:
    """The minimum over W, b of mean cross-entropy(W x' + b) + penalty |W|^2 / 2, by L-BFGS; x' is x standardised.

    Args:
        features: [n, dim]; a column without variation is left at 0.
        labels: [n], in 0..classes - 1.
        classes: number of them.
        penalty: at least 0; without any, separable data has no minimum and the iterations end it.
        start: a result for features of about the same statistics, to start from.
        tolerance: stop when no partial derivative is larger.
        iterations: stop after so many.

    Returns:
        A layer for features as they are, in their dtype, without gradients.

    Raises:
        ValueError: no rows, or a negative penalty.
    """
    if penalty < 0 or not len(features):
        raise ValueError(f"expected rows and a penalty of at least 0, got {len(features)} and {penalty}")
    mean, std = features.mean(0), features.std(0, correction=0)
    scale = torch.where(std > 0, 1 / std, 0.0)
    x = (features - mean) * scale
    weight, bias = (x.new_zeros(shape) for shape in ((classes, x.shape[1]), (classes,)))
    if start is not None:
        weight = start.weight.detach() * std
        bias = start.bias.detach() + start.weight.detach() @ mean
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=iterations, tolerance_grad=tolerance, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), labels) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    layer = nn.utils.skip_init(nn.Linear, x.shape[1], classes, device=x.device, dtype=x.dtype)
    assert isinstance(layer, nn.Linear)
    layer.requires_grad_(False)
    layer.weight.copy_(weight.detach() * scale)
    layer.bias.copy_(bias.detach() - layer.weight @ mean)
    return layer
