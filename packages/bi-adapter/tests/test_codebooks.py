"""Levels for normal numbers (§11.1-2 of the specification: analytic identities and brute force)."""

from __future__ import annotations

import math

import pytest
import torch

from bi_adapter.codebooks import (
    Codebook,
    codebook,
    converged_codebook,
    expected_absolute_error,
    expected_squared_error,
    lloyd_max_codebook,
    midpoints,
    nf4_codebook,
    published_codebook,
)
from bi_adapter.quantise import level_index


def test_one_bit_in_closed_form():
    level = float(torch.special.ndtri(torch.tensor(0.75, dtype=torch.float64)))
    assert converged_codebook(1).levels.tolist() == pytest.approx([-level, level], abs=1e-7)
    assert converged_codebook(1).thresholds.tolist() == [0.0]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_converged_codebook_is_a_fixed_point_sorted_and_odd(bits):
    levels, thresholds = converged_codebook(bits)
    assert (levels.diff() > 0).all()
    torch.testing.assert_close(levels, -levels.flip(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(thresholds, midpoints(levels.double()).float(), rtol=0, atol=1e-6)
    edges = torch.cat([torch.tensor([-math.inf]), thresholds, torch.tensor([math.inf])]).double()
    mass = torch.special.ndtr(edges)
    medians = torch.special.ndtri((mass[:-1] + mass[1:]) / 2)
    torch.testing.assert_close(levels.double(), medians, rtol=0, atol=2e-6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_no_level_can_be_moved_for_less_error(bits):
    best = converged_codebook(bits)
    smallest = expected_absolute_error(best)
    for k in range(2**bits):
        for step in (-0.05, 0.05):
            levels = best.levels.clone()
            levels[k] += step
            assert expected_absolute_error(Codebook(levels, midpoints(levels))) > smallest


@pytest.mark.parametrize("bits", [1, 3])
def test_lloyd_max_has_the_least_squared_error(bits):
    squared = lloyd_max_codebook(bits)
    assert expected_squared_error(squared) < expected_squared_error(converged_codebook(bits))
    assert expected_absolute_error(squared) > expected_absolute_error(converged_codebook(bits))
    # Max (1960), table I
    assert expected_squared_error(squared) == pytest.approx({1: 0.3634, 3: 0.03454}[bits], abs=5e-5)


def test_errors_by_integration():
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    for bits in (1, 2, 4):
        levels, thresholds = converged_codebook(bits)
        distance = (z - levels.double()[level_index(z, thresholds.double()).int()]).abs()
        found = torch.trapezoid(torch.stack([distance, distance.square()]) * density, z)
        assert expected_absolute_error(converged_codebook(bits)) == pytest.approx(float(found[0]), abs=1e-6)
        assert expected_squared_error(converged_codebook(bits)) == pytest.approx(float(found[1]), abs=1e-6)


def test_error_falls_with_bits_to_the_high_resolution_limit():
    errors = [expected_absolute_error(converged_codebook(bits)) for bits in range(1, 9)]
    assert errors == sorted(errors, reverse=True)
    # (integral of sqrt(density))^2 / (4 K) = sqrt(8 pi) / (4 K)
    assert errors[-1] * 256 == pytest.approx(math.sqrt(8 * math.pi) / 4, rel=0.01)


def test_the_published_rounds_have_not_converged_at_eight_bits():
    for bits in (1, 2, 4):
        torch.testing.assert_close(published_codebook(bits).levels, converged_codebook(bits).levels, rtol=0, atol=2e-6)
    assert int((published_codebook(8).levels.abs() < 1e-6).sum()) == 98
    assert expected_absolute_error(published_codebook(8)) > 2 * expected_absolute_error(converged_codebook(8))


def test_nf4_is_the_published_table():
    levels = nf4_codebook(4).levels
    assert levels[[0, 7, 15]].tolist() == [-1.0, 0.0, 1.0]
    assert levels[[1, 8]].tolist() == pytest.approx([-0.6961928, 0.0795803], abs=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_levels_of_equal_probability_are_the_medians_of_their_cells(bits):
    levels, thresholds = codebook("equal-probability", bits)
    mass = (torch.arange(2**bits, dtype=torch.float64) + 0.5) / 2**bits
    torch.testing.assert_close(torch.special.ndtr(levels.double()), mass, rtol=0, atol=1e-7)
    torch.testing.assert_close(thresholds, midpoints(levels.double()).float(), rtol=0, atol=1e-6)


def test_uniform_levels_and_signs():
    assert codebook("uniform", 2).levels.tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert codebook("uniform", 2).thresholds.tolist() == [-1, 0, 1]
    assert codebook("uniform", 3).levels.tolist() == [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
    assert [part.tolist() for part in codebook("sign", 1)] == [[-1, 1], [0]]


@pytest.mark.parametrize("bits", [0, 9])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match="1 to 8 bits"):
        codebook("converged", bits)


def test_unknown_levels():
    with pytest.raises(ValueError, match="codebook"):
        codebook("golden", 1)
