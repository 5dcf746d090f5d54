"""Label smoothing and the learning-rate schedule."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fslstm.objective import learning_rate_multiplier, smoothed_cross_entropy


def test_worked_example() -> None:
    """Probabilities 1/2, 1/4, 1/4 and eps = 0.2: 0.8 log 2 + 0.1 log 4 + 0.1 log 4 = 1.2 log 2."""
    logits = torch.tensor([[math.log(2.0), 0.0, 0.0]])
    loss = smoothed_cross_entropy(logits, torch.tensor([0]), 0.2)
    torch.testing.assert_close(loss, torch.tensor(1.2 * math.log(2)))


@given(way=st.integers(2, 8), smoothing=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_is_cross_entropy_with_another_constant(way: int, smoothing: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 7, way, generator=generator, dtype=torch.float64)
    labels = torch.randint(way, (2, 7), generator=generator)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), label_smoothing=min(smoothing * way / (way - 1), 1.0)
    )
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, smoothing), expected)


@pytest.mark.parametrize("way", [2, 5, 20])
def test_uniform_logits_give_log_way(way: int) -> None:
    loss = smoothed_cross_entropy(torch.zeros(3, way), torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(loss, torch.tensor(math.log(way)))


def test_gradcheck() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda values: smoothed_cross_entropy(values, labels), logits)


def test_schedule() -> None:
    values = [learning_rate_multiplier(epoch) for epoch in (0, 19, 20, 39, 40, 49, 50, 59, 200)]
    assert values == [1.0, 1.0, 0.06, 0.06, 0.012, 0.012, 0.0024, 0.0024, 0.0024]


def test_bad_input() -> None:
    logits = torch.zeros(3, 5)
    with pytest.raises(ValueError, match="labels: expected"):
        smoothed_cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels: expected"):
        smoothed_cross_entropy(logits, torch.zeros(3))
    with pytest.raises(ValueError, match="smoothing: expected"):
        smoothed_cross_entropy(logits, torch.zeros(3, dtype=torch.int64), 1.5)
    with pytest.raises(ValueError, match="logits: expected"):
        smoothed_cross_entropy(logits[:, :1], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(RuntimeError):
        smoothed_cross_entropy(logits, torch.full((3,), 5))
    with pytest.raises(ValueError, match="epoch: expected"):
        learning_rate_multiplier(-1)
