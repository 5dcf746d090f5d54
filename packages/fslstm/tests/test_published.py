"""The published evaluation episodes (their values are pinned by the golden vectors)."""

from itertools import islice

import numpy as np
import pytest

from fslstm import Conv4
from fslstm.published import published_episodes, published_parameter_order

SETTINGS = {"n_base_classes": 3, "n_novel_classes": 6, "images_per_class": 10, "n_way": 4, "n_shot": 2, "n_query": 3}


def test_structure() -> None:
    for episode in islice(published_episodes(seed=3, **SETTINGS), 20):
        assert episode.classes.tolist() == sorted(set(episode.classes.tolist()))
        assert episode.classes.min() >= 3
        assert episode.classes.max() < 9
        for ids, labels, each in (
            (episode.support_ids, episode.support_labels, 2),
            (episode.query_ids, episode.query_labels, 3),
        ):
            assert ids.dtype == labels.dtype == np.int64
            assert np.array_equal(ids // 10, episode.classes[labels])
            assert np.bincount(labels).tolist() == [each] * 4
        assert not set(episode.support_ids.tolist()) & set(episode.query_ids.tolist())


def test_depends_on_the_seed_only() -> None:
    first, second, other = (next(published_episodes(seed=seed, **SETTINGS)) for seed in (1, 1, 2))
    assert np.array_equal(first.support_ids, second.support_ids)
    assert not np.array_equal(first.support_ids, other.support_ids)


def test_parameter_order() -> None:
    order = published_parameter_order(Conv4())
    assert order[:3] == ["conv_1.0.weight", "conv_1.1.weight", "conv_1.1.bias"]
    assert len(order) == 20


@pytest.mark.parametrize("change", [{"n_way": 7}, {"n_way": 0}, {"n_shot": 8}, {"n_query": 0}])
def test_bad_input(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        next(published_episodes(seed=0, **(SETTINGS | change)))
