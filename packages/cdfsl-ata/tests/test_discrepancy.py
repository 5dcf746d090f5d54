"""Euclid and MMD regularisers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdfsl_ata.discrepancy import euclid, mmd


def brute_force_mmd(left: list[float], right: list[float]) -> float:
    """Entry by entry, for numbers instead of vectors."""
    values = left + right
    total = sum((a - b) ** 2 for a in values for b in values)
    bandwidth = total / (len(values) ** 2 - len(values)) / 4

    def kernel(a: float, b: float) -> float:
        return sum(math.exp(-((a - b) ** 2) / (bandwidth * 2**i)) for i in range(5))

    pairs = [(i, j) for i in range(len(left)) for j in range(len(left))]
    terms = [
        kernel(left[i], left[j]) + kernel(right[i], right[j]) - kernel(left[i], right[j]) - kernel(right[i], left[j])
        for i, j in pairs
    ]
    return sum(terms) / len(pairs)


def test_worked_example() -> None:
    assert float(euclid(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))) == 2.5
    left, right = [0.0, 1.0, 2.5], [1.0, 4.0, -1.0]
    columns = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (left, right))
    assert float(mmd(*columns)) == pytest.approx(brute_force_mmd(left, right), rel=1e-12)


def test_equal_sets_give_zero_value_and_gradient() -> None:
    origin = torch.randn(5, 3, dtype=torch.float64)
    for discrepancy in (euclid, mmd):
        features = origin.clone().requires_grad_()
        value = discrepancy(features, origin)
        (gradient,) = torch.autograd.grad(value, features)
        assert value.item() == pytest.approx(0, abs=1e-14)
        assert float(gradient.abs().max()) < 1e-14
    constant = torch.ones(4, 2)
    assert float(mmd(constant, constant)) == 0


def test_bandwidth_is_detached() -> None:
    features = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    origin = torch.randn(3, 2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(mmd(features, origin), features)
    # With the bandwidth inside the graph MMD would not change under scaling of both sets, and no gradient
    # along the scaling direction (features and origin moving together) would be left
    both = torch.cat([features.detach(), origin])
    stacked = both.clone().requires_grad_()
    (joint,) = torch.autograd.grad(mmd(stacked[:3], stacked[3:]), stacked)
    assert abs(float((joint * both).sum())) > 1e-3
    assert torch.allclose(joint[:3], gradient)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 1000))
def test_symmetric_and_not_negative(count: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    assert float(mmd(left, right)) == pytest.approx(float(mmd(right, left)), rel=1e-10)
    assert float(mmd(left, right)) >= -1e-12


def test_gradcheck_of_euclid() -> None:
    features = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(euclid, (features, torch.randn(3, 2, dtype=torch.float64)))


@pytest.mark.parametrize("discrepancy", [euclid, mmd])
def test_bad_input(discrepancy: object) -> None:
    assert callable(discrepancy)
    with pytest.raises(ValueError, match="expected \\[images, dim\\]"):
        discrepancy(torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="pool maps"):
        discrepancy(torch.zeros(3, 2, 2, 2), torch.zeros(3, 2, 2, 2))
