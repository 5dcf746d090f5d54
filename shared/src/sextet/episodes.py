"""Counter-based few-shot episodes: episode `i` depends on (seed, i) alone, on any machine and with any worker count.

The draws use raw words of the Philox counter-based generator, whose sequence is fixed by its publication (Salmon et
al., 2011) and by numpy's promise for bit generators; nothing depends on numpy's or Python's sampling routines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Episodes:
    """A batch of episodes. Labels count the classes of an episode from 0; ids are rows of the dataset.

    Shapes: `classes` [batch, way]; `support_ids`, `support_labels` [batch, way * shot]; `query_ids`, `query_labels`
    [batch, way * query], both in class order. All int64.
    """

    classes: Ids
    support_ids: Ids
    support_labels: Ids
    query_ids: Ids
    query_labels: Ids

    def __len__(self) -> int:
        return len(self.classes)


class EpisodeSampler:
    """Draws `n_way`-way episodes with `n_shot` support and `n_query` query rows a class, no row twice in an episode.

    Args:
        labels: [n] class of every row of the dataset; any integers of 64 bits.
        n_way: classes an episode, at least 2.
        n_shot: support rows a class, at least 1.
        n_query: query rows a class, at least 1.
        seed: 0 <= seed < 2**64; another seed is another sequence.

    Raises:
        ValueError: too few classes, or classes with fewer than `n_shot + n_query` rows (named).
    """

    def __init__(self, labels: Sequence[int] | Ids, n_way: int, n_shot: int, n_query: int, seed: int = 0) -> None:
        labels = np.asarray(labels)
        if labels.ndim != 1:
            raise ValueError(f"labels: expected one class a row, shape [n], got shape {labels.shape}")
        if labels.size and not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels: expected integers, got {labels.dtype}")
        if n_way < 2 or n_shot < 1 or n_query < 1:
            raise ValueError(f"expected n_way >= 2, n_shot >= 1, n_query >= 1, got {n_way}, {n_shot}, {n_query}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed: expected 0 <= seed < 2**64, got {seed}")
        self.classes, counts = np.unique(labels, return_counts=True)
        if len(self.classes) < n_way:
            raise ValueError(f"n_way: {n_way} classes an episode, but the data has {len(self.classes)}")
        needed = n_shot + n_query
        small = [f"{name} ({count})" for name, count in zip(self.classes, counts, strict=True) if count < needed]
        if small:
            raise ValueError(f"classes with fewer than n_shot + n_query = {needed} rows: {', '.join(small)}")
        self.rows = [np.flatnonzero(labels == name) for name in self.classes]
        self.n_way, self.n_shot, self.n_query, self.seed = n_way, n_shot, n_query, seed

    def __getitem__(self, index: int) -> Episodes:
        """Episode `index`, 0 <= index < 2**64, as a batch of one."""
        if not 0 <= index < 2**64:
            raise IndexError(f"episode index: expected 0 <= index < 2**64, got {index}")
        per_class = self.n_shot + self.n_query
        bits = np.random.Philox(key=self.seed, counter=np.array([0, 0, 0, index], dtype=np.uint64))
        words = bits.random_raw(self.n_way * (1 + per_class))
        chosen = draw_without_replacement(len(self.classes), words[: self.n_way])
        support, query = [], []
        for position, which in enumerate(chosen):
            start = self.n_way + position * per_class
            rows = self.rows[which]
            picked = rows[draw_without_replacement(len(rows), words[start : start + per_class])]
            support.append(picked[: self.n_shot])
            query.append(picked[self.n_shot :])
        labels = np.arange(self.n_way, dtype=np.int64)
        return Episodes(
            classes=self.classes[chosen].astype(np.int64)[None],
            support_ids=np.concatenate(support)[None],
            support_labels=labels.repeat(self.n_shot)[None],
            query_ids=np.concatenate(query)[None],
            query_labels=labels.repeat(self.n_query)[None],
        )

    def batch(self, start: int, count: int) -> Episodes:
        """Episodes start .. start + count - 1, stacked: every field [count, ...].

        Raises:
            ValueError: `count` below 1.
        """
        if count < 1:
            raise ValueError(f"count: expected at least one episode, got {count}")
        episodes = [self[index] for index in range(start, start + count)]
        names = ("classes", "support_ids", "support_labels", "query_ids", "query_labels")
        return Episodes(**{name: np.concatenate([getattr(episode, name) for episode in episodes]) for name in names})

    def digest(self, count: int) -> str:
        """SHA-256 over the first `count` episodes; publish it with a result, and anybody can check the sequence."""
        return digest(self.batch(0, count))


def draw_without_replacement(n: int, words: NDArray[np.uint64]) -> Ids:
    """`len(words)` different numbers out of 0..n-1, by a Fisher-Yates shuffle that is stopped early.

    `word % remaining` favours small numbers by less than n / 2**64: far below anything an experiment can see.

    Raises:
        ValueError: more draws than numbers.
    """
    if len(words) > n:
        raise ValueError(f"expected at most {n} draws, got {len(words)}")
    moved: dict[int, int] = {}  # sparse array: position -> number that a swap left there
    drawn = []
    for position, word in enumerate(words.tolist()):
        other = position + word % (n - position)
        drawn.append(moved.get(other, other))
        moved[other] = moved.get(position, position)
    return np.array(drawn, dtype=np.int64)


def digest(episodes: Episodes) -> str:
    """SHA-256 over the fields of a batch of episodes, as little-endian int64, in the order of the dataclass."""
    total = hashlib.sha256()
    for name in ("classes", "support_ids", "support_labels", "query_ids", "query_labels"):
        total.update(getattr(episodes, name).astype("<i8").tobytes())
    return total.hexdigest()


class Taskset:
    """Episodes in learn2learn's form: `sample()` and iteration give (data, labels) of one task.

    As there, rows are grouped by class and each class gives `n_shot + n_query` rows in a run; here the first `n_shot`
    of a run are the support. `len` is the number of tasks; `sample()` walks through them in order, and around.

    Args:
        sampler: where the episodes come from.
        data: row ids [k] -> tensor [k, ...]; for instance `lambda ids: images[ids]`.
        num_tasks: how many episodes the set has.
    """

    def __init__(self, sampler: EpisodeSampler, data: Callable[[Ids], torch.Tensor], num_tasks: int) -> None:
        if num_tasks < 1:
            raise ValueError(f"num_tasks: expected at least 1, got {num_tasks}")
        self.sampler, self.data, self.num_tasks = sampler, data, num_tasks
        self._next = 0

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < self.num_tasks:
            raise IndexError(f"task: expected 0 <= index < {self.num_tasks}, got {index}")
        episode = self.sampler[index]
        way = self.sampler.n_way
        support, query = episode.support_ids.reshape(way, -1), episode.query_ids.reshape(way, -1)
        ids = np.concatenate([support, query], axis=1)
        labels = torch.arange(way).repeat_interleave(ids.shape[1])
        return self.data(ids.reshape(-1)), labels

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (self[index] for index in range(self.num_tasks))

    def sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next task."""
        index, self._next = self._next, (self._next + 1) % self.num_tasks
        return self[index]
