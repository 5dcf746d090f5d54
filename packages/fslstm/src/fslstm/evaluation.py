"""Evaluation over many episodes on features that were computed once (section 10)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sextet.episodes import EpisodeSampler

Classifier = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@torch.no_grad()
def episode_accuracies(
    classify: Classifier,
    features: Tensor,
    sampler: EpisodeSampler,
    *,
    episodes: int,
    device: torch.device,
    batch_size: int = 50,
) -> Tensor:
    """Accuracy of every episode, [episodes] float64 in 0..1, for episodes 0, 1, ... of the sampler.

    In evaluation mode features do not depend on the episode, so each image is embedded once, before.

    Args:
        classify: (query [b, m, d], support [b, n, d], support_labels [b, n], n_way) -> logits [b, m, way]; may use
            all queries at once (transduction).
        features: [images, d].
        sampler: draws rows of `features`.
        episodes: how many.
        device: where to compute.
        batch_size: episodes at a time; the result does not depend on it but for rounding.
    """
    accuracies = []
    for start in range(0, episodes, batch_size):
        batch = sampler.batch(start, min(batch_size, episodes - start))
        support = features[torch.from_numpy(batch.support_ids)].to(device)
        query = features[torch.from_numpy(batch.query_ids)].to(device)
        support_labels = torch.from_numpy(batch.support_labels).to(device)
        logits = classify(query, support, support_labels, sampler.n_way)
        correct = logits.argmax(dim=-1).cpu() == torch.from_numpy(batch.query_labels)
        accuracies.append(correct.double().mean(dim=1))
    return torch.cat(accuracies)
