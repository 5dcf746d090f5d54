"""k nearest neighbours on frozen features: an evaluation with nothing to train."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 512


@torch.no_grad()
def nearest_neighbours(
    train: tuple[Tensor, Tensor],
    test: Tensor,
    classes: int,
    *,
    k: int = 200,
    temperature: float | None = 0.07,
) -> Tensor:
    """The class that the k most similar training rows vote for, int64 [m].

    Rows are compared by their cosine; a neighbour's vote weighs exp(cosine / temperature) (Wu et al., CVPR 2018).

    Args:
        train: features [n, dim] and labels [n].
        test: features [m, dim].
        classes: number of them.
        k: neighbours that vote; all, where there are fewer.
        temperature: None for votes of equal weight, the lower class among equals.

    Raises:
        ValueError: no training rows, `k` below 1, a temperature that is not positive, or rows of another length.
    """
    features, labels = train
    if k < 1 or not len(features) or features.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"expected k >= 1 and rows of one length, got k = {k}, {list(features.shape)} and {list(test.shape)}"
        )
    if temperature is not None and temperature <= 0:
        raise ValueError(f"temperature: expected above 0 or None, got {temperature}")
    bank, k = F.normalize(features, dim=1), min(k, len(features))
    found = []
    for rows in F.normalize(test, dim=1).split(ROWS):
        cosine, index = (rows @ bank.T).topk(k, dim=1)
        # The largest is taken off first, so that no weight overflows
        weights = torch.ones_like(cosine) if temperature is None else ((cosine - cosine[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(rows), classes).scatter_add_(1, labels[index], weights)
        found.append(votes.argmax(dim=1))
    return torch.cat(found)


def knn_hits(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    *,
    k: int = 200,
    temperature: float | None = 0.07,
) -> Tensor:
    """Whether each test row gets its own label, bool [m] on the CPU; arguments as of `nearest_neighbours`."""
    return (nearest_neighbours(train, test[0], classes, k=k, temperature=temperature) == test[1]).cpu()
