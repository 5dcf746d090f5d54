from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sextet.episodes import EpisodeSampler, Taskset, draw_without_replacement

LABELS = np.repeat([7, 3, 9, 4], [6, 5, 5, 8])


def test_worked_example_is_the_same_on_every_machine():
    episode = EpisodeSampler(LABELS, n_way=2, n_shot=1, n_query=2, seed=5)[3]
    assert episode.classes.tolist() == [[3, 7]]
    assert episode.support_ids.tolist() == [[10, 1]]
    assert episode.support_labels.tolist() == [[0, 1]]
    assert episode.query_ids.tolist() == [[7, 9, 4, 3]]
    assert episode.query_labels.tolist() == [[0, 0, 1, 1]]


def test_the_digest_is_published():
    sampler = EpisodeSampler(np.arange(2000) % 20, n_way=5, n_shot=5, n_query=15, seed=0)
    assert sampler.digest(100) == "1fdde5cad64377b68fdbd0c660808ac9d0b7d9b6ab8ec669419a0f13e499f69a"


def test_large_indices_are_episodes_of_their_own():
    sampler = EpisodeSampler(np.arange(200) % 5, 2, 3, 5, seed=1)
    last = [sampler[index].query_ids.tolist() for index in range(2**64 - 4, 2**64)]
    middle = [sampler[index].query_ids.tolist() for index in range(2**63 - 2, 2**63 + 2)]
    assert len({str(ids) for ids in last + middle}) == 8


@given(start=st.integers(0, 1000), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_batch_size_changes_nothing(start, sizes):
    sampler = EpisodeSampler(LABELS, 2, 1, 2, seed=3)
    whole, position = sampler.batch(start, sum(sizes)), start
    for size in sizes:
        part, where = sampler.batch(position, size), slice(position - start, position - start + size)
        assert len(part) == size
        for name in ("classes", "support_ids", "support_labels", "query_ids", "query_labels"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[where])
            assert getattr(part, name).dtype == np.int64
        position += size


def test_an_episode_depends_on_seed_and_index_alone():
    one, other = (EpisodeSampler(LABELS, 3, 2, 2, seed=1) for _ in range(2))
    batch = one.batch(0, 6)
    for index in reversed(range(6)):
        alone = other[index]
        for name in ("classes", "support_ids", "query_ids"):
            assert np.array_equal(getattr(alone, name)[0], getattr(batch, name)[index])
    assert EpisodeSampler(LABELS, 3, 2, 2, seed=2).digest(6) != one.digest(6)


def naive_draw(n, words):
    numbers = list(range(n))
    for position, word in enumerate(words):
        other = position + int(word) % (n - position)
        numbers[position], numbers[other] = numbers[other], numbers[position]
    return numbers[: len(words)]


@given(st.integers(1, 30), st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_drawing_equals_a_fisher_yates_shuffle(n, words):
    words = np.array(words[:n], dtype=np.uint64)
    assert draw_without_replacement(n, words).tolist() == naive_draw(n, words)


def test_all_rows_and_classes_are_drawn_equally_often():
    sampler = EpisodeSampler(np.repeat(np.arange(6), 10), 3, 1, 2, seed=0)
    batch = sampler.batch(0, 3000)
    assert stats.chisquare(np.bincount(batch.classes.ravel())).pvalue > 0.001
    rows = np.concatenate([batch.support_ids.ravel(), batch.query_ids.ravel()])
    assert stats.chisquare(np.bincount(rows, minlength=60)).pvalue > 0.001


@given(
    n_way=st.integers(2, 5), n_shot=st.integers(1, 4), n_query=st.integers(1, 4), seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**62),
)  # fmt: skip
def test_no_row_twice_and_labels_that_fit(n_way, n_shot, n_query, seed, index):
    labels = np.arange(50) % 5
    episode = EpisodeSampler(labels, n_way, n_shot, n_query, seed)[index]
    rows = np.concatenate([episode.support_ids, episode.query_ids], axis=1)[0]
    assert len(set(rows.tolist())) == n_way * (n_shot + n_query)
    assert len(set(episode.classes[0].tolist())) == n_way
    assert np.array_equal(labels[episode.support_ids], episode.classes[0][episode.support_labels])
    assert np.array_equal(labels[episode.query_ids], episode.classes[0][episode.query_labels])


def test_a_taskset_walks_through_the_episodes():
    features = torch.arange(24.0)[:, None]
    sampler = EpisodeSampler(LABELS, n_way=2, n_shot=1, n_query=2, seed=5)
    tasks = Taskset(sampler, lambda ids: features[torch.from_numpy(ids)], num_tasks=4)
    data, labels = tasks[3]
    assert data[:, 0].tolist() == [10, 7, 9, 1, 4, 3]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    drawn = [tasks.sample() for _ in range(5)]
    assert torch.equal(drawn[4][0], drawn[0][0])
    assert all(torch.equal(one[0], other[0]) for one, other in zip(tasks, drawn, strict=False))
    assert len(tasks) == 4


@pytest.mark.filterwarnings("ignore")
def test_a_task_has_the_form_of_learn2learn_s():
    learn2learn = pytest.importorskip("learn2learn")
    features = torch.arange(24.0)[:, None]
    rows = torch.utils.data.TensorDataset(features, torch.from_numpy(LABELS))
    dataset = learn2learn.data.MetaDataset(rows)
    transforms = learn2learn.data.transforms
    theirs = learn2learn.data.TaskDataset(
        dataset,
        [
            transforms.NWays(dataset, 2), transforms.KShots(dataset, 3), transforms.LoadData(dataset),
            transforms.RemapLabels(dataset), transforms.ConsecutiveLabels(dataset),
        ],
        num_tasks=1,
    )  # fmt: skip
    ours = Taskset(EpisodeSampler(LABELS, 2, 1, 2), lambda ids: features[torch.from_numpy(ids)], num_tasks=1)
    (data, labels), (their_data, their_labels) = ours.sample(), theirs.sample()
    assert len(ours.sample()) == len(theirs.sample()) == 2
    assert (data.shape, data.dtype) == (their_data.shape, their_data.dtype)
    assert labels.dtype == their_labels.dtype
    assert sorted(labels.tolist()) == sorted(their_labels.tolist())
    for rows, numbers in ((data, labels), (their_data, their_labels)):
        # rows of one class lie together, and the label stands for one class of the dataset
        assert (numbers.diff() != 0).sum() == 1
        assert all(len(set(LABELS[rows[numbers == label, 0].long()])) == 1 for label in (0, 1))
    assert len(ours) == len(theirs)


@pytest.mark.filterwarnings("ignore")
def test_a_taskset_feeds_a_learn2learn_learner():
    learn2learn = pytest.importorskip("learn2learn")
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(24, 8, generator=rng) + 3 * torch.nn.functional.one_hot(torch.from_numpy(LABELS) % 8, 8)
    tasks = Taskset(EpisodeSampler(LABELS, 2, 2, 3, seed=0), lambda ids: features[torch.from_numpy(ids)], num_tasks=1)
    data, labels = tasks.sample()
    support = torch.arange(len(labels)) % 5 < 2
    learner = learn2learn.algorithms.MAML(torch.nn.Linear(8, 2), lr=0.1).clone()
    for _ in range(50):
        learner.adapt(torch.nn.functional.cross_entropy(learner(data[support]), labels[support]))
    assert (learner(data[~support]).argmax(1) == labels[~support]).double().mean() > 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_way": 1}, "n_way >= 2"),
        ({"n_way": 5}, "5 classes an episode, but the data has 4"),
        ({"n_query": 5}, r"fewer than n_shot \+ n_query = 6 rows: 3 \(5\), 9 \(5\)"),
        ({"n_shot": 0}, "n_shot >= 1"),
        ({"n_query": 0}, "n_query >= 1"),
        ({"seed": -1}, "0 <= seed < 2\\*\\*64, got -1"),
        ({"seed": 2**64}, "0 <= seed < 2\\*\\*64"),
        ({"labels": []}, "the data has 0"),
        ({"labels": LABELS / 2}, "labels: expected integers, got float64"),
        ({"labels": LABELS.astype(str)}, "labels: expected integers, got <U"),
        ({"labels": LABELS[None]}, r"shape \(1, 24\)"),
    ],
)
def test_bad_input(change, message):
    arguments = {"labels": LABELS, "n_way": 2, "n_shot": 1, "n_query": 1, **change}
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(**arguments)


def test_bad_indices():
    sampler = EpisodeSampler(LABELS, 2, 1, 1)
    for index in (-1, 2**64):
        with pytest.raises(IndexError, match=f"0 <= index < 2\\*\\*64, got {index}"):
            sampler[index]
    with pytest.raises(ValueError, match="at least one episode, got 0"):
        sampler.batch(0, 0)
    tasks = Taskset(sampler, lambda ids: torch.from_numpy(ids), num_tasks=2)
    with pytest.raises(IndexError, match="index < 2"):
        tasks[2]
    with pytest.raises(ValueError, match="num_tasks"):
        Taskset(sampler, lambda ids: torch.from_numpy(ids), num_tasks=0)
    with pytest.raises(ValueError, match="at most 2 draws"):
        draw_without_replacement(2, np.zeros(3, dtype=np.uint64))
