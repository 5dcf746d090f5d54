"""Batches of pairs by length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat_crf.batches import BucketedBatches, PairBatches
from nat_crf.sequences import EOS, PAD

LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30)


def test_worked_example() -> None:
    batches = BucketedBatches([1, 5, 2, 3], [2, 5, 1, 3], max_tokens=5)
    assert len(batches) == 3
    assert sorted(sorted(batches[step].tolist()) for step in range(3)) == [[0, 2], [1], [3]]


@given(lengths=LENGTHS, max_tokens=st.integers(1, 40), max_pairs=st.integers(1, 9), seed=st.integers(0, 9))
def test_every_epoch_has_every_pair_once_within_the_limits(
    lengths: list[tuple[int, int]], max_tokens: int, max_pairs: int, seed: int
) -> None:
    source, target = map(list, zip(*lengths, strict=True))
    batches = BucketedBatches(source, target, max_tokens=max_tokens, max_pairs=max_pairs, seed=seed)
    for epoch in range(2):
        found = [batches[epoch * len(batches) + position] for position in range(len(batches))]
        assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
        for batch in found:
            longest = max(max(lengths[index]) for index in batch)
            assert len(batch) == 1 or (len(batch) <= max_pairs and len(batch) * longest <= max_tokens)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    lengths = [1 + index % 5 for index in range(40)]
    one, other = (BucketedBatches(lengths, lengths, max_tokens=12, seed=3) for _ in range(2))
    assert [one[step].tolist() for step in range(9)] == [other[step].tolist() for step in reversed(range(9))][::-1]
    different = BucketedBatches(lengths, lengths, max_tokens=12, seed=4)
    assert [one[step].tolist() for step in range(9)] != [different[step].tolist() for step in range(9)]
    assert one[0].tolist() != one[len(one)].tolist()


@pytest.mark.parametrize(("boundaries", "symbols"), [("eos", 1), ("bos-eos", 2)])
def test_pairs_come_with_their_symbols(boundaries: str, symbols: int) -> None:
    sources, targets = [[4, 5], [6], [7, 8]], [[9], [4, 4, 4], [5]]
    batch_at = PairBatches(sources, targets, max_tokens=100, boundaries=boundaries)  # pyright: ignore[reportArgumentType]
    batch = batch_at(0)
    assert batch.source.shape == (3, 2 + symbols)
    assert batch.target.shape == (3, 3 + symbols)
    assert int((batch.target == PAD).sum()) == 4
    assert int((batch.source == EOS).sum()) == 3
    small = PairBatches(sources, targets, max_tokens=3 + symbols, boundaries=boundaries)  # pyright: ignore[reportArgumentType]
    assert all(len(small(step).target) == 1 for step in range(3))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="expected as many sources as targets"):
        BucketedBatches([1], [1, 2], max_tokens=5)
    with pytest.raises(ValueError, match="at least one"):
        BucketedBatches([], [], max_tokens=5)
    with pytest.raises(ValueError, match="expected 1 or more"):
        BucketedBatches([1], [1], max_tokens=0)
