"""Batches of sentence pairs by length: batch i depends on the seed and i alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nat_crf.sequences import Boundaries, Words, pad_batch
from nat_crf.training import Batch


class BucketedBatches:
    """Batches of sentence pairs of similar length; every epoch is a new draw, every pair comes once an epoch.

    Pairs are sorted by target and source length, equal ones in random order, and cut into batches; the batches come in
    random order. Where the cuts lie depends on the lengths alone, so that every epoch has the same number of batches.

    Args:
        source_lengths, target_lengths: words of each pair, boundary symbols included where they are to count.
        max_tokens: of the larger side of a batch, padding included. A longer pair is a batch of its own.
        max_pairs: of a batch; None for no limit.
        seed: of the order.

    Raises:
        ValueError: no pairs, different numbers of sources and targets, or limits below 1.
    """

    def __init__(
        self,
        source_lengths: Sequence[int],
        target_lengths: Sequence[int],
        *,
        max_tokens: int,
        max_pairs: int | None = None,
        seed: int = 0,
    ) -> None:
        if len(source_lengths) != len(target_lengths) or len(source_lengths) == 0:
            raise ValueError(
                "pairs: expected as many sources as targets, at least one; "
                f"got {len(source_lengths)} and {len(target_lengths)}"
            )
        if max_tokens < 1 or (max_pairs is not None and max_pairs < 1):
            raise ValueError(f"max_tokens, max_pairs: expected 1 or more, got {max_tokens} and {max_pairs}")
        self.source, self.target = np.asarray(source_lengths), np.asarray(target_lengths)
        self.seed = seed
        order = np.lexsort((self.source, self.target))
        self.starts = _cuts(np.maximum(self.source, self.target)[order], max_tokens, max_pairs or len(order))
        self._epoch = functools.lru_cache(maxsize=1)(self._draw)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.starts)

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        """Indices of the pairs of batch `step`, 0-based and without end."""
        epoch, position = divmod(step, len(self))
        return self._epoch(epoch)[position]

    def _draw(self, epoch: int) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng([self.seed, epoch])
        order = np.lexsort((generator.random(len(self.source)), self.source, self.target))
        batches = np.split(order, self.starts[1:])
        return [batches[index] for index in generator.permutation(len(batches))]


def _cuts(lengths: NDArray[np.int64], max_tokens: int, max_pairs: int) -> list[int]:
    """Where batches start in the sorted list of pairs with these `lengths` of the longer side."""
    starts, longest = [0], 0
    for index, length in enumerate(lengths.tolist()):
        size = index - starts[-1]
        longest = max(longest, length)
        if size > 0 and (size >= max_pairs or (size + 1) * longest > max_tokens):
            starts.append(index)
            longest = length
    return starts


class PairBatches:
    """What `training.fit` asks for: the batch of a micro-step, with boundary symbols, padded on the right.

    Args:
        sources, targets: words of each pair.
        max_tokens, max_pairs, seed: see `BucketedBatches`; boundary symbols count.
        boundaries: the symbols around the words of both sides.
    """

    def __init__(
        self,
        sources: Sequence[Words],
        targets: Sequence[Words],
        *,
        max_tokens: int,
        max_pairs: int | None = None,
        boundaries: Boundaries = "eos",
        seed: int = 0,
    ) -> None:
        self.sides, self.boundaries = (sources, targets), boundaries
        symbols = 1 if boundaries == "eos" else 2
        lengths = [[len(words) + symbols for words in side] for side in self.sides]
        self.batches = BucketedBatches(*lengths, max_tokens=max_tokens, max_pairs=max_pairs, seed=seed)

    def __call__(self, number: int) -> Batch:
        """Batch `number` of the run."""
        rows = self.rows(number)
        return Batch(*(pad_batch([side[row] for row in rows], self.boundaries) for side in self.sides))

    def rows(self, number: int) -> list[int]:
        """Which pairs are in it."""
        return self.batches[number].tolist()
