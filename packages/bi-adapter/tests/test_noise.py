from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bi_adapter.noise import (
    PTQ_STRENGTH,
    loss_surface,
    mean_under_noise,
    noisy,
    random_direction,
    replaced,
    tuned_matrices,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_noise_is_relative_to_the_spread():
    weight = 3 + 0.5 * torch.randn(400, 500)
    added = noisy(weight, 0.2, generator()) - weight
    assert float(added.std()) == pytest.approx(0.2 * float(weight.std()), rel=0.02)
    assert abs(float(added.mean())) < 1e-3
    start = weight - 0.01 * torch.randn(400, 500)
    added = noisy(weight, 0.2, generator(), start) - weight
    assert float(added.std()) == pytest.approx(0.002, rel=0.03)


def test_strengths_of_quantisation():
    assert [round(PTQ_STRENGTH[bits], 3) for bits in (1, 2, 4)] == [0.615, 0.359, 0.109]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(2, 9), st.sampled_from([torch.float32, torch.float64]))
def test_directions_have_the_weights_norm(rows, columns, dtype):
    weight = torch.randn(rows, columns, dtype=dtype)
    direction = random_direction(weight, generator())
    assert direction.dtype == dtype
    assert float(direction.norm()) == pytest.approx(float(weight.norm()), rel=1e-5)
    assert torch.equal(noisy(weight, 0.0, generator()), weight)


def toy():
    model = nn.Sequential()
    model.add_module("blocks", nn.Linear(3, 4))
    model.add_module("frozen", nn.Linear(4, 4).requires_grad_(False))
    model.add_module("head", nn.Linear(4, 2))
    return model


def test_tuned_matrices_are_those_that_learn_but_the_head():
    assert list(tuned_matrices(toy())) == ["blocks.weight"]
    with pytest.raises(ValueError, match="found none"):
        tuned_matrices(toy().requires_grad_(False))


def test_the_mean_over_draws_by_hand_and_the_weights_come_back():
    model = toy()
    parameters = tuned_matrices(model)
    before = parameters["blocks.weight"].detach().clone()
    found = mean_under_noise(lambda: parameters["blocks.weight"].detach(), parameters, 0.3, draws=3, seed=5)
    expected = [noisy(before, 0.3, generator(5 * 1_000_003 + draw)).double() for draw in range(3)]
    assert torch.allclose(found, sum(expected) / 3)
    assert torch.equal(parameters["blocks.weight"], before)
    calls = []
    mean_under_noise(lambda: calls.append(1) or torch.zeros(1), parameters, 0.0, draws=3, seed=0)
    assert len(calls) == 1

    def fails():
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError), replaced(parameters, {"blocks.weight": torch.zeros(4, 3)}):
        fails()
    assert torch.equal(parameters["blocks.weight"], before)


def test_noise_on_the_update():
    parameters = tuned_matrices(toy())
    start = {"blocks.weight": parameters["blocks.weight"].detach() - 1e-3 * torch.randn(4, 3)}
    value = parameters["blocks.weight"].detach().double()
    found = mean_under_noise(
        lambda: parameters["blocks.weight"].detach(), parameters, 1.0, draws=1, seed=0, start=start
    )
    assert 0 < float((found - value).abs().max()) < 1e-2


def test_the_surface_of_a_quadratic():
    weight = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    parameters = {"w": weight}
    coordinates = [-1.0, 0.0, 0.5]
    surface = loss_surface(lambda: float((weight.detach() ** 2).sum()), parameters, coordinates, seed=1)
    assert surface[1, 1] == pytest.approx(float((weight.detach() ** 2).sum()))
    directions = generator(1)
    one, other = (random_direction(weight.detach(), directions) for _ in range(2))
    for i, a in enumerate(coordinates):
        for j, b in enumerate(coordinates):
            assert surface[i, j] == pytest.approx(float(((weight.detach() + a * one + b * other) ** 2).sum()))


def test_bad_input():
    for strength, draws in ((-1.0, 1), (1.0, 0)):
        with pytest.raises(ValueError, match="strength >= 0 and draws >= 1"):
            mean_under_noise(lambda: torch.zeros(1), {}, strength, draws=draws, seed=0)
    assert math.isclose(PTQ_STRENGTH[2] ** 2, 0.129045)
