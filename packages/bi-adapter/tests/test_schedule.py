from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_adapter.schedule import learning_rate


def test_worked_example():
    assert learning_rate(0) == learning_rate(1) == 1e-6
    assert learning_rate(2) == pytest.approx(1e-6 + (1e-3 - 1e-6) / 10, rel=1e-12)
    assert learning_rate(11) == max(map(learning_rate, range(100)))
    assert learning_rate(11) == pytest.approx(9.758e-4, rel=1e-4)
    assert learning_rate(99) == pytest.approx(1.098e-5, rel=1e-3)


@given(st.floats(1e-4, 1.0), st.integers(12, 300))
def test_against_the_published_stepping(base, epochs):
    """The published loop: a rate in force, replaced after every epoch by the one of that epoch's number."""
    in_force, rates = 1e-6, []
    for epoch in range(epochs):
        rates.append(in_force)
        if epoch < 10:
            in_force = 1e-6 + epoch * (base - 1e-6) / 10
        else:
            in_force = 1e-5 + 0.5 * (base - 1e-5) * (1 + math.cos(math.pi * epoch / epochs))
    assert [learning_rate(epoch, base, epochs) for epoch in range(epochs)] == pytest.approx(rates, rel=1e-12)


def test_bad_input():
    for epoch, epochs, warmup in ((-1, 100, 10), (100, 100, 10), (0, 10, 10)):
        with pytest.raises(ValueError, match="0 <= epoch < epochs"):
            learning_rate(epoch, 1e-3, epochs, warmup)
