"""What exists only for parity with the published code: its evaluation episodes and its order of parameters."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PublishedEpisode:
    """One episode as image ids and class indices, in the shuffled order of the published sampler.

    Attributes:
        classes: `[way]` sorted class ids.
        support_ids, support_labels: `[way * shot]`; labels are positions in `classes`.
        query_ids, query_labels: `[way * queries]`.
    """

    classes: IntArray
    support_ids: IntArray
    support_labels: IntArray
    query_ids: IntArray
    query_labels: IntArray


def published_episodes(
    *,
    seed: int,
    n_base_classes: int,
    n_novel_classes: int,
    images_per_class: int,
    n_way: int,
    n_shot: int,
    n_query: int,
) -> Iterator[PublishedEpisode]:
    """The endless evaluation sequence of the published sampler, from its own generator seeded with `seed`.

    Base classes 0..n_base_classes-1 come first, then the novel ones; class c owns the image ids
    `c * images_per_class ...`. An episode depends on all before it, unlike this project's counter-based ones.

    Raises:
        ValueError: where there are fewer novel classes than `n_way`, or fewer images than an episode needs.
    """
    if not 1 <= n_way <= n_novel_classes:
        raise ValueError(f"n_way: expected 1..{n_novel_classes} (the novel classes), got {n_way}")
    if min(n_shot, n_query) < 1 or n_shot + n_query > images_per_class:
        raise ValueError(f"n_shot, n_query: expected at most {images_per_class} in all, got {n_shot} and {n_query}")
    generator = random.Random(seed)
    novel = range(n_base_classes, n_base_classes + n_novel_classes)
    while True:
        classes = sorted(generator.sample(novel, n_way))
        support: list[tuple[int, int]] = []
        query: list[tuple[int, int]] = []
        for label, class_id in enumerate(classes):
            first = class_id * images_per_class
            ids = generator.sample(range(first, first + images_per_class), n_query + n_shot)
            query += [(image, label) for image in ids[:n_query]]
            support += [(image, label) for image in ids[n_query:]]
        generator.shuffle(support)
        generator.shuffle(query)
        support_ids, support_labels = np.array(support, dtype=np.int64).T
        query_ids, query_labels = np.array(query, dtype=np.int64).T
        yield PublishedEpisode(np.array(classes, dtype=np.int64), support_ids, support_labels, query_ids, query_labels)


def published_parameter_order(network: nn.Module) -> list[str]:
    """Names of a backbone's weights and batch-norm statistics, in the order of the published checkpoints."""
    return [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
