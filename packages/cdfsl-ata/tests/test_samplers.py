from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdfsl_ata.samplers import PaddedSampler, make_sampler, padded_rows
from sextet.episodes import EpisodeSampler

LABELS = np.array([0] * 3 + [1] * 7 + [2] * 60 + [3] * 41)


def test_small_classes_are_repeated_in_their_order():
    rows = padded_rows([5, 5, 9, 9, 9], 4)
    assert rows.tolist() == [0, 1, 0, 1, 2, 3, 4, 2]
    assert padded_rows([0, 0, 1], 1).tolist() == [0, 1, 2]


def test_without_small_classes_it_is_the_strict_sampler():
    labels = np.arange(6).repeat(50)
    assert PaddedSampler(labels, 5, 5, 16, seed=3).digest(50) == EpisodeSampler(labels, 5, 5, 16, seed=3).digest(50)


def test_an_image_may_come_twice_even_as_support_and_query():
    """As in the published loader: about 1.5 pairs a class in a 5-shot episode of classes of 41 images."""
    labels = np.arange(49).repeat(41)
    drawn = PaddedSampler(labels, 5, 5, 16, seed=0).batch(0, 200)
    ids = np.concatenate([drawn.support_ids.reshape(200, 5, 5), drawn.query_ids.reshape(200, 5, 16)], axis=2)
    pairs = np.mean([[21 - len(set(row)) for row in episode] for episode in ids.tolist()])
    # 9 of 41 images have two entries among 50: E = 9 (21 * 20) / (50 * 49)
    assert pairs == pytest.approx(9 * 21 * 20 / (50 * 49), abs=0.1)
    across = [set(s) & set(q) for s, q in zip(drawn.support_ids.tolist(), drawn.query_ids.tolist(), strict=True)]
    assert any(across)


@given(st.integers(0, 2**32), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_episodes_are_rows_of_their_classes(seed, index):
    episode = make_sampler(LABELS, 3, 2, 5, seed, 50)[index]
    for ids, labels in ((episode.support_ids, episode.support_labels), (episode.query_ids, episode.query_labels)):
        assert np.array_equal(LABELS[ids[0]], episode.classes[0][labels[0]])
    assert np.array_equal(make_sampler(LABELS, 3, 2, 5, seed, 50)[index].query_ids, episode.query_ids)


def test_the_strict_sampler_draws_no_image_twice_and_names_classes_that_are_too_small():
    episode = make_sampler(LABELS, 2, 1, 2, 0, 0)[4]
    ids = [*episode.support_ids[0], *episode.query_ids[0]]
    assert len(set(ids)) == len(ids)
    with pytest.raises(ValueError, match=r"fewer than n_shot \+ n_query = 21 rows: 0 \(3\), 1 \(7\)"):
        make_sampler(LABELS, 2, 5, 16, 0, 0)
    assert len(make_sampler(LABELS, 2, 5, 16, 0, 50)[0].query_ids[0]) == 32


def test_bad_input():
    with pytest.raises(ValueError, match="minimum: expected at least 1"):
        PaddedSampler(LABELS, 2, 1, 1, minimum=-1)
    with pytest.raises(ValueError, match="fewer than"):
        PaddedSampler(LABELS, 2, 30, 30)
