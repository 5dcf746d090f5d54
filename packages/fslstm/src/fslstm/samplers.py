"""Episode samplers for tests beside the balanced, counter-based one: imbalanced queries, the published sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fslstm.published import published_episodes
from sextet.episodes import Episodes, EpisodeSampler

PUBLISHED_SEED = 1


class ImbalancedSampler(EpisodeSampler):
    """Episodes whose queries are divided among the classes by a Dirichlet distribution (Veilleux et al., 2021).

    Each episode has `n_way * n_query` queries, as many as a balanced one. Episode i depends on (seed, i) alone.

    Args:
        labels, n_way, n_shot, n_query, seed: as in `EpisodeSampler`.
        concentration: of the symmetric Dirichlet distribution, an integer; 2 is usual, smaller is less balanced.

    Raises:
        ValueError: as `EpisodeSampler`; each class must have rows for all queries of an episode.
    """

    def __init__(
        self,
        labels: Sequence[int] | NDArray[np.int64],
        n_way: int,
        n_shot: int,
        n_query: int,
        seed: int = 0,
        *,
        concentration: int = 2,
    ) -> None:
        if concentration < 1:
            raise ValueError(f"concentration: expected an integer of at least 1, got {concentration}")
        super().__init__(labels, n_way, n_shot, n_way * n_query, seed)
        self.concentration = concentration

    def __getitem__(self, index: int) -> Episodes:
        """Episode `index` as a batch of one."""
        episode = super().__getitem__(index)
        counts = largest_remainder(self.proportions(index), self.n_query)
        # Each class's rows are in random order already, so the first ones are a random choice
        kept = np.concatenate([label * self.n_query + np.arange(count) for label, count in enumerate(counts)])
        return Episodes(
            episode.classes,
            episode.support_ids,
            episode.support_labels,
            episode.query_ids[:, kept],
            episode.query_labels[:, kept],
        )

    def proportions(self, index: int) -> NDArray[np.float64]:
        """The classes' shares `[way]` of the queries of an episode; they sum to 1."""
        bits = np.random.Philox(key=self.seed, counter=[0, 0, 2, index])
        words = bits.random_raw(self.n_way * self.concentration).reshape(self.n_way, -1)
        # A gamma variable of integer shape k is a sum of k exponential ones; 2^-54 keeps the logarithm finite
        uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54
        gamma = -np.log(uniform).sum(axis=1)
        return gamma / gamma.sum()


def largest_remainder(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers `[k]` near `total * shares` that sum to `total`: round down, then add 1 where most was cut off."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    most = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[most] += 1
    return counts


class PublishedSampler(EpisodeSampler):
    """The evaluation episodes of the published code, as rows of the test set.

    Args:
        labels: `[n]` classes of the test set, equally many rows each.
        n_way, n_shot, n_query: of an episode.
        n_base_classes: training classes, which the published code numbers before those of the test set.

    Raises:
        ValueError: as `EpisodeSampler`, or classes of different size.
    """

    def __init__(
        self,
        labels: Sequence[int] | NDArray[np.int64],
        n_way: int,
        n_shot: int,
        n_query: int,
        *,
        n_base_classes: int = 64,
    ) -> None:
        super().__init__(labels, n_way, n_shot, n_query, PUBLISHED_SEED)
        if len({len(rows) for rows in self.rows}) != 1:
            raise ValueError("labels: the published sequence needs classes of equal size")
        self.n_base_classes, self._first_row = n_base_classes, n_base_classes * len(self.rows[0])
        self._drawn: list[Episodes] = []
        self._sequence: Iterator[Episodes] = self._episodes()

    def __getitem__(self, index: int) -> Episodes:
        """Episode `index` as a batch of one; it depends on all before it, which are kept."""
        if index < 0:
            raise IndexError(f"episode index: expected >= 0, got {index}")
        while len(self._drawn) <= index:
            self._drawn.append(next(self._sequence))
        return self._drawn[index]

    def _episodes(self) -> Iterator[Episodes]:
        # [n] test rows class by class, so that the published id of an image is its position here
        rows = np.concatenate(self.rows)
        for episode in published_episodes(
            seed=self.seed,
            n_base_classes=self.n_base_classes,
            n_novel_classes=len(self.classes),
            images_per_class=len(self.rows[0]),
            n_way=self.n_way,
            n_shot=self.n_shot,
            n_query=self.n_query,
        ):
            yield Episodes(
                self.classes[episode.classes - self.n_base_classes][None],
                rows[episode.support_ids - self._first_row][None],
                episode.support_labels[None],
                rows[episode.query_ids - self._first_row][None],
                episode.query_labels[None],
            )
