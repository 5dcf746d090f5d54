"""Candidate lists: the top k with gold in place, by blocks as by sorting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_crf.candidates import select_candidates, top_indices, with_gold


def test_worked_example() -> None:
    emissions = torch.tensor([[[0.1, 3.0, 2.0, -1.0], [5.0, 4.0, 3.0, 2.0]]])
    found = select_candidates(emissions, 2, torch.tensor([[3, 1]]))
    # Gold 3 replaces the second best; gold 1 is there already
    assert found.labels.tolist() == [[[1, 3], [0, 1]]]
    assert found.scores.tolist() == [[[3.0, -1.0], [5.0, 4.0]]]
    assert found.gold is not None
    assert found.gold.tolist() == [[1, 1]]


def test_without_gold_the_lists_are_the_plain_top_k() -> None:
    emissions = torch.randn(2, 3, 20)
    found = select_candidates(emissions, 5)
    assert found.gold is None
    assert torch.equal(found.labels, emissions.topk(5).indices)
    assert torch.equal(select_candidates(emissions, 99).labels, emissions.sort(descending=True).indices)


def test_equal_scores_are_in_the_order_of_their_labels() -> None:
    assert top_indices(torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]]), 5).tolist() == [[1, 3, 0, 2, 4]]


def test_equal_and_undefined_scores_still_give_different_labels() -> None:
    for values in (torch.zeros(70, 500), torch.full((3, 500), torch.nan), torch.full((3, 500), -torch.inf)):
        assert (top_indices(values, 9).sort(dim=1).values.diff(dim=1) > 0).all()


def test_scores_are_gathered_once() -> None:
    emissions = torch.randn(2, 3, 50, requires_grad=True)
    found = select_candidates(emissions, 4, torch.randint(50, (2, 3)))
    (gradient,) = torch.autograd.grad(found.scores.sum(), emissions)
    assert torch.equal(gradient.nonzero()[:, 2].view(2, 3, 4), found.labels.sort(dim=2).values)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 150),
    width=st.integers(1, 1500),
    count=st.integers(1, 70),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    levels=st.sampled_from([3, 1000, 10**6]),
    seed=st.integers(0, 99),
)
def test_equals_sorting(rows: int, width: int, count: int, dtype: torch.dtype, levels: int, seed: int) -> None:
    """Over all widths between one block and several levels of them, with and without ties."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(levels, (rows, width), generator=generator).to(dtype)
    count = min(count, width)
    found = top_indices(values, count)
    assert torch.equal(values.gather(1, found), values.sort(dim=1, descending=True).values[:, :count])
    assert (found.sort(dim=1).values.diff(dim=1) > 0).all()


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_rows_that_count_do_not_depend_on_the_others(lengths: list[int], seed: int) -> None:
    values = torch.randn(len(lengths), 9, 300, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    assert torch.equal(top_indices(values, 5, mask)[mask], top_indices(values, 5)[mask])


def test_gold_is_found_where_it_stands() -> None:
    labels, slot = with_gold(torch.tensor([[4, 2, 7]]), torch.tensor([2]))
    assert (labels.tolist(), slot.tolist()) == ([[4, 2, 7]], [1])


def test_empty_batch() -> None:
    assert select_candidates(torch.zeros(0, 3, 9), 2, torch.zeros(0, 3, dtype=torch.int64)).labels.shape == (0, 3, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device_agrees_with_cpu() -> None:
    emissions = torch.rand(4, 8, 5000).double()
    assert torch.equal(select_candidates(emissions.cuda(), 64).labels.cpu(), select_candidates(emissions, 64).labels)
