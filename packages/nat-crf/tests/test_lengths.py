"""Target lengths."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nat_crf.lengths import (
    LengthClassifier,
    class_length,
    length_candidates,
    length_class,
    length_constant,
    masked_mean,
    uniform_copy_index,
)


def test_worked_example() -> None:
    assert length_candidates(torch.tensor([10, 2]), 9).tolist() == [
        [6, 7, 8, 9, 10, 11, 12, 13, 14],
        [1, 1, 1, 1, 2, 3, 4, 5, 6],
    ]
    assert length_candidates(torch.tensor([5]), 4, minimum=2).tolist() == [[3, 4, 5, 6]]
    assert length_candidates(torch.tensor([5]), 3, maximum=5).tolist() == [[4, 5, 5]]
    assert length_constant([3, 5, 4], [5, 7, 5]) == 2
    assert length_constant([9, 9], [7, 6]) == -2


@given(length=st.integers(-5, 40), radius=st.integers(0, 9))
def test_candidates(length: int, radius: int) -> None:
    """S + C - B .. S + C + B, clipped, 2B + 1 rows."""
    (row,) = length_candidates(torch.tensor([length]), 2 * radius + 1).tolist()
    assert row == [max(1, length + offset) for offset in range(-radius, radius + 1)]


@given(
    source=st.integers(1, 300),
    target=st.integers(1, 300),
    offset=st.booleans(),
    classes=st.sampled_from([16, 255, 256]),
)
def test_classes_and_lengths(source: int, target: int, offset: bool, classes: int) -> None:
    lengths = torch.tensor([target]), torch.tensor([source])
    chosen = length_class(*lengths, classes, offset=offset)
    assert 0 <= int(chosen) < classes
    back = class_length(chosen, lengths[1], classes, offset=offset)
    inside = 0 <= target - offset * source + offset * (classes // 2) < classes
    assert (int(back) == target) == inside


@given(source=st.integers(1, 60), target=st.integers(1, 60))
def test_uniform_copy(source: int, target: int) -> None:
    (index,) = uniform_copy_index(torch.tensor([source]), torch.tensor([target]), target + 2).tolist()
    assert index[target:] == [0, 0]
    assert index[0] == 0
    assert index[:target] == sorted(index[:target])
    assert max(index) <= source - 1
    if target > 1:
        assert index[target - 1] == source - 1
    if source == target:
        assert index[:target] == list(range(source))


def test_uniform_copy_rounds_halves_to_even() -> None:
    assert uniform_copy_index(torch.tensor([2, 4]), torch.tensor([3, 3]), 3).tolist() == [[0, 0, 1], [0, 2, 3]]


def test_classifier_ignores_padding() -> None:
    classifier = LengthClassifier(4, 6)
    states, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, True, True]])
    logits = classifier(states, mask)
    torch.testing.assert_close(logits[0], states[0, :2].mean(dim=0) @ classifier.embedding.weight.T)
    torch.testing.assert_close(classifier(states + ~mask[..., None] * 7.0, mask), logits)


def test_detached_classifier_leaves_the_encoder_alone() -> None:
    states = torch.randn(1, 2, 4, requires_grad=True)
    logits = LengthClassifier(4, 6, detach=True)(states, torch.ones(1, 2, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(logits.sum() + 0 * states.sum(), states)
    assert not gradient.any()


def test_masked_mean_gradient() -> None:
    states = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, False], [True, True, False]])
    assert torch.autograd.gradcheck(lambda x: masked_mean(x, mask), states)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least 1 length"):
        length_candidates(torch.tensor([3]), 0)
    with pytest.raises(ValueError, match="maximum: expected at least the minimum"):
        length_candidates(torch.tensor([3]), 1, minimum=3, maximum=2)
    with pytest.raises(ValueError, match="as many source as target lengths"):
        length_constant([1], [])
