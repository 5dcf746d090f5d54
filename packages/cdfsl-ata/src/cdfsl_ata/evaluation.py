"""Accuracies of a learner over test episodes (section 11), and which statistics batch normalisation uses there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from cdfsl_ata.augmentation import evaluating
from cdfsl_ata.encoders import FeatureWiseTransform
from cdfsl_ata.images import Ids
from cdfsl_ata.learners import Learner, query_labels
from cdfsl_ata.training import Source, episode_ids
from sextet.episodes import EpisodeSampler

BnMode = Literal["eval", "episode"]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@torch.no_grad()
def episode_accuracies(
    scores: Callable[[Tensor], Tensor],
    fetch: Callable[[Ids], Tensor],
    sampler: EpisodeSampler,
    *,
    episodes: int,
    start: int = 0,
) -> Tensor:
    """Accuracy of every episode, [episodes] float64 in 0..1, for episodes start, start + 1, ... of the sampler.

    Args:
        scores: inputs [n_way, n_support + n_query, ...] -> [n_way n_query, n_way]: `learner.scores` of images, or
            `learner.head` of the encoder's outputs.
        fetch: rows [k] -> inputs [k, ...].
        sampler: draws the rows.
        episodes: how many.
        start: the first.
    """
    accuracies = []
    for index in range(start, start + episodes):
        ids = episode_ids(sampler[index])
        found = scores(fetch(ids.reshape(-1)).unflatten(0, ids.shape))
        accuracies.append((found.argmax(dim=1) == query_labels(found)).double().mean().cpu())
    return torch.stack(accuracies)


def evaluate(
    learner: Learner,
    source: Source,
    sampler: EpisodeSampler,
    *,
    episodes: int,
    start: int = 0,
    bn_mode: BnMode = "eval",
    embed_once: bool = True,
) -> Tensor:
    """`episode_accuracies` of a learner on images without augmentation.

    Args:
        learner: left as it was, training flags and statistics included. Its `n_support` is set to the sampler's
            number of shots meanwhile: a learner trained with 5 shots is tested with 1 as well.
        source: images.
        sampler: draws rows of `source`.
        episodes, start: see there.
        bn_mode: `eval` uses the running statistics of training; `episode` those of each test episode, which is
            transductive (published for TPN). Heads without running statistics are the same in both.
        embed_once: with `eval`, run the encoder once over all images before (needs memory for their features);
            otherwise, and with `episode`, on each episode's images.
    """
    shots = learner.n_support
    learner.n_support = sampler.n_shot
    try:
        with evaluation_mode(learner, bn_mode):
            if bn_mode == "eval" and embed_once:
                features = embed(learner.feature, source)
                return episode_accuracies(
                    learner.head, lambda ids: features[torch.from_numpy(ids)], sampler, episodes=episodes, start=start
                )
            return episode_accuracies(learner.scores, source.pixels, sampler, episodes=episodes, start=start)
    finally:
        learner.n_support = shots


@torch.no_grad()
def embed(encoder: nn.Module, source: Source, batch_size: int = 250) -> Tensor:
    """Outputs [n, ...] of an encoder, in its present mode, for all images of a source, on the encoder's device."""
    rows = np.arange(len(source.labels))
    return torch.cat(
        [encoder(source.pixels(part)) for part in np.split(rows, range(batch_size, len(rows), batch_size))]
    )


@contextmanager
def evaluation_mode(model: nn.Module, bn_mode: BnMode) -> Iterator[None]:
    """Evaluation mode inside, with the batch's own statistics in every batch normalisation for `episode`.

    Feature-wise transformations add no noise in either mode. Flags and buffers are restored afterwards.

    Raises:
        ValueError: another `bn_mode`.
    """
    if bn_mode not in ("eval", "episode"):
        raise ValueError(f"bn_mode: expected 'eval' or 'episode', got {bn_mode!r}")
    transforms = [module for module in model.modules() if isinstance(module, FeatureWiseTransform)]
    noisy = [module.noisy for module in transforms]
    with evaluating([model]):
        for module in model.modules():
            module.training = bn_mode == "episode" and isinstance(module, BATCH_NORMS)
        for module in transforms:
            module.noisy = False
        try:
            yield
        finally:
            for module, flag in zip(transforms, noisy, strict=True):
                module.noisy = flag
