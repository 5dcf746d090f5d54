"""Episodes over classes that the published code fills up to 50 entries before it draws (section 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sextet.episodes import Episodes, EpisodeSampler, Ids

PUBLISHED_MINIMUM = 50


def padded_rows(labels: Sequence[int] | Ids, minimum: int) -> Ids:
    """Rows with those of small classes repeated in their order until each class has `minimum` entries.

    Args:
        labels: [n] class of every row.
        minimum: entries a class at least.

    Returns:
        [m] rows, m >= n, class by class.
    """
    classes = np.asarray(labels)
    rows = [np.flatnonzero(classes == name) for name in np.unique(classes)]
    return np.concatenate([np.resize(own, max(len(own), minimum)) for own in rows])


class PaddedSampler(EpisodeSampler):
    """Episodes as the published loader draws them: small classes are repeated, so an image may come twice.

    It may even be support and query of the same episode. `EpisodeSampler` is the strict counterpart: no image twice,
    and classes that are too small are an error.

    Args:
        labels, n_way, n_shot, n_query, seed: see `EpisodeSampler`.
        minimum: entries a class has at least.
    """

    def __init__(
        self,
        labels: Sequence[int] | Ids,
        n_way: int,
        n_shot: int,
        n_query: int,
        seed: int = 0,
        minimum: int = PUBLISHED_MINIMUM,
    ) -> None:
        if minimum < 1:
            raise ValueError(f"minimum: expected at least 1 entry a class, got {minimum}")
        self.entries = padded_rows(labels, minimum)
        super().__init__(np.asarray(labels)[self.entries], n_way, n_shot, n_query, seed)

    def __getitem__(self, index: int) -> Episodes:
        """Episode `index` as a batch of one; ids are rows of the data, not entries."""
        drawn = super().__getitem__(index)
        support, query = self.entries[drawn.support_ids], self.entries[drawn.query_ids]
        return replace(drawn, support_ids=support, query_ids=query)


def make_sampler(
    labels: Sequence[int] | Ids, n_way: int, n_shot: int, n_query: int, seed: int, pad_small_classes: int
) -> EpisodeSampler:
    """A `PaddedSampler` with that minimum, or for 0 the strict one.

    Raises:
        ValueError: strict, and classes with too few images (named), or too few classes.
    """
    if pad_small_classes:
        return PaddedSampler(labels, n_way, n_shot, n_query, seed, pad_small_classes)
    return EpisodeSampler(labels, n_way, n_shot, n_query, seed)
