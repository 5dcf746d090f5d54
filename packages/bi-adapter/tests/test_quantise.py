"""Quantisation in the loop: values, and the published gradient (§2.2, §11.2-4)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bi_adapter.codebooks import codebook
from bi_adapter.layers import QuantLinear
from bi_adapter.packing import decode
from bi_adapter.quantise import QUANTISERS, encode, fake_quantize, initial_step, level_index, nearest_index

BITS = {"nf4": 4, "sign": 1}


def matrix(rows=6, columns=9, seed=0, offset=0.02):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.05 * weight + offset


def step_of(name, weight, bits, per_row=False):
    return initial_step(weight, bits, per_row) if QUANTISERS[name].learned_step else None


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_the_nearest_level_by_brute_force(bits):
    z = torch.randn(500, dtype=torch.float64) * 2
    levels, thresholds = (part.double() for part in codebook("converged", bits))
    nearest = (z[:, None] - levels).abs().argmin(1)
    index = level_index(z, thresholds).long()
    # Thresholds are kept in float32: only numbers next to one may differ
    different = (index != nearest) & ((z[:, None] - thresholds).abs().min(1).values > 1e-6)
    assert not different.any()
    assert (index.sort().values == index[z.argsort()]).all()
    assert torch.equal(level_index(levels, thresholds).long(), torch.arange(2**bits))


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_an_index_is_a_byte(bits):
    assert level_index(torch.zeros(3), codebook("converged", bits).thresholds).dtype == torch.uint8


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("per_row", [False, True])
def test_uniform_levels_go_from_the_smallest_weight_to_the_largest(bits, per_row):
    weight = matrix(offset=3.0)
    rows = weight if per_row else weight.view(1, -1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    levels = low + (high - low) * torch.arange(2**bits) / (2**bits - 1)  # [rows or 1, 2^bits]
    nearest = (rows[..., None] - levels[:, None]).abs().argmin(-1)
    found = fake_quantize(weight, bits, quantiser="uniform", per_row=per_row)
    torch.testing.assert_close(found, levels.gather(1, nearest).view_as(weight), rtol=1e-9, atol=1e-9)


def test_signs_times_the_mean_magnitude():
    weight = matrix()
    torch.testing.assert_close(fake_quantize(weight, 1, quantiser="sign"), weight.sign() * weight.abs().mean())
    by_row = fake_quantize(weight, 1, quantiser="sign", per_row=True)
    torch.testing.assert_close(by_row, weight.sign() * weight.abs().mean(1, keepdim=True))


@pytest.mark.parametrize(("bits", "share"), [(1, 2.0), (3, 1.0), (5, 0.5)])
def test_a_learned_step_starts_at_a_share_of_the_mean_magnitude(bits, share):
    weight = matrix()
    torch.testing.assert_close(initial_step(weight, bits, False), share * weight.abs().mean().view(1, 1))
    torch.testing.assert_close(initial_step(weight, bits, True), share * weight.abs().mean(1, keepdim=True))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_surrogate_with_a_constant_residual_has_this_gradient(bits):
    """W_eff = W' s + m + const with W' = (W - m) / (s + eps): autograd through it, the residual Q - W' held."""
    weight = matrix().requires_grad_()
    upstream = torch.randn(6, 9, dtype=torch.float64)
    found = torch.autograd.grad(fake_quantize(weight, bits), weight, upstream)[0]
    m, s = weight.mean(), weight.std()
    standard = (weight - m) / (s + 1e-5)
    levels, thresholds = codebook("converged", bits)
    value = levels.double()[level_index(standard.detach(), thresholds.double()).int()]
    effective = (standard + (value - standard).detach()) * s + m
    torch.testing.assert_close(fake_quantize(weight, bits), effective, rtol=0, atol=1e-15)
    wanted = torch.autograd.grad(effective, weight, upstream)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_gradients_by_finite_differences_of_the_surrogate():
    weight, upstream = matrix(3, 4), torch.randn(3, 4, dtype=torch.float64)
    index, (m0, s0) = nearest_index(weight, 2)
    levels = codebook("converged", 2).levels.double()
    residual = levels[index.int()] - (weight - m0) / (s0 + 1e-5)

    def surrogate(w):
        return (((w - w.mean()) / (w.std() + 1e-5) + residual) * w.std() + w.mean()).mul(upstream).sum()

    leaf = weight.clone().requires_grad_()
    found = torch.autograd.grad((fake_quantize(leaf, 2) * upstream).sum(), leaf)[0]
    for position in range(12):
        shift = torch.zeros(12, dtype=torch.float64)
        shift[position] = 1e-6
        shift = shift.view(3, 4)
        slope = (surrogate(weight + shift) - surrogate(weight - shift)) / 2e-6
        assert float(slope) == pytest.approx(float(found.view(-1)[position]), rel=1e-6, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4]))
def test_sums_of_the_gradient(seed, bits):
    """Shifts pass through, and scales up to epsilon (Euler, degree 1)."""
    weight = matrix(5, 7, seed).requires_grad_()
    upstream = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    effective = fake_quantize(weight, bits)
    grad = torch.autograd.grad(effective, weight, upstream)[0]
    assert float(grad.sum()) == pytest.approx(float(upstream.sum()), abs=1e-9)
    mean = weight.detach().mean()
    centred, moved = weight.detach() - mean, effective.detach() - mean
    assert float((centred * grad).sum()) == pytest.approx(float((upstream * moved).sum()), rel=2e-3, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 50), st.floats(-3, 3), st.sampled_from([1, 2, 3, 8]))
@example(141, 3.0, 0.0, 8)
def test_equivariance_and_the_number_of_values(seed, scale, shift, bits):
    weight = matrix(5, 8, seed) * 10
    # The epsilon beside the deviation does not scale with it; a weight that it moves across a threshold says nothing
    thresholds = codebook("converged", bits).thresholds.double()
    centred, std = weight - weight.mean(), weight.std()
    one, other = (level_index(centred / (std + epsilon), thresholds) for epsilon in (1e-5, 1e-5 / scale))
    assume(torch.equal(one, other))
    effective = fake_quantize(weight, bits)
    assert len(effective.unique()) <= 2**bits
    torch.testing.assert_close(
        fake_quantize(scale * weight + shift, bits), scale * effective + shift, rtol=0, atol=0.02
    )
    order = torch.randperm(8)
    torch.testing.assert_close(fake_quantize(weight[:, order], bits), effective[:, order])


@pytest.mark.parametrize("name", sorted(QUANTISERS))
@pytest.mark.parametrize("per_row", [False, True])
def test_what_is_stored_is_what_is_computed(name, per_row):
    bits = BITS.get(name, 2)
    weight = matrix().float()
    step = step_of(name, weight, bits, per_row)
    effective = fake_quantize(weight, bits, quantiser=name, per_row=per_row, step=step)
    stored = encode(weight, bits, quantiser=name, per_row=per_row, step=step)
    assert stored.stats.shape == (6 if per_row else 1, 2)
    torch.testing.assert_close(decode(stored), effective, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(QUANTISERS))
def test_every_quantiser_learns(name):
    """The nearest levels to a fixed target: the distance falls."""
    bits, target = BITS.get(name, 2), matrix(8, 8, 3).float()
    torch.manual_seed(0)
    layer = QuantLinear(8, 8, bits, quantiser=name)
    layer.eval()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = (layer.effective_weight() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_stochastic_rounding_is_right_on_average():
    weight = matrix().double().clamp(-0.05, 0.09)
    levels = codebook("converged", 2).levels.double()
    standard = (weight - weight.mean()) / (weight.std() + 1e-5)
    inside = (standard > levels[0]) & (standard < levels[-1])
    draws = torch.stack(
        [fake_quantize(weight, 2, quantiser="stochastic", noise=torch.rand_like(weight)) for _ in range(4000)]
    )
    error = (draws.mean(0) - weight)[inside].abs().max()
    assert float(error) < 0.1 * float(weight.std())


def test_sixteen_and_thirty_two_bits_are_plain():
    weight = matrix().float().requires_grad_()
    assert fake_quantize(weight, 32) is weight
    half = fake_quantize(weight, 16)
    assert torch.equal(half, weight.half().float())
    assert torch.equal(torch.autograd.grad(half.sum(), weight)[0], torch.ones(6, 9))


@pytest.mark.parametrize("bits", [1, 2])
def test_a_value_on_a_threshold_belongs_to_the_level_below(bits):
    thresholds = codebook("converged", bits).thresholds
    assert level_index(thresholds, thresholds).tolist() == list(range(len(thresholds)))


def test_the_epsilon_is_added_to_the_scale():
    """Entries of a matrix that spreads as little as epsilon count half: 1 and -1 become 1/2 and -1/2."""
    weight = 1e-5 * torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    levels, thresholds = (part.double() for part in codebook("converged", 2))
    scale = weight.std()
    wanted = levels[level_index(weight / (scale + 1e-5), thresholds).int()] * scale
    assert not torch.equal(levels[level_index(weight / scale, thresholds).int()] * scale, wanted)
    torch.testing.assert_close(fake_quantize(weight, 2), wanted)


@pytest.mark.parametrize("bits", [2, 4])
def test_the_gradient_of_a_learned_step_is_damped(bits):
    """By sqrt(entries 2^(bits - 1)), and is sum(Q - W' inside, Q outside) before that (LSQ)."""
    weight, limit = matrix(), 2 ** (bits - 1)
    step = initial_step(weight, bits, False).requires_grad_()
    (found,) = torch.autograd.grad(fake_quantize(weight, bits, quantiser="learned-step", step=step).sum(), step)
    standard, value = weight / step.detach(), fake_quantize(weight, bits, quantiser="learned-step", step=step).detach()
    inside = standard.abs() <= limit
    wanted = (value / step.detach() - standard * inside).sum() / (weight.numel() * limit) ** 0.5
    torch.testing.assert_close(found, wanted.view(1, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 4, 16, 32])
def test_the_effective_weights_have_the_type_of_the_latent_ones(dtype, bits):
    weight = matrix().to(dtype).requires_grad_()
    effective = fake_quantize(weight, bits)
    effective.sum().backward()
    assert effective.dtype == weight.grad.dtype == dtype


def test_what_is_stored_has_no_gradient():
    assert not encode(matrix().requires_grad_(), 2).stats.requires_grad


def test_constant_statistics_do_not_carry_gradients():
    weight, upstream = matrix().requires_grad_(), torch.randn(6, 9, dtype=torch.float64)
    grad = torch.autograd.grad(fake_quantize(weight, 1, statistic_gradients=False), weight, upstream)[0]
    s = weight.std()
    torch.testing.assert_close(grad, upstream * (s / (s + 1e-5)))


def test_a_constant_matrix_stays_finite():
    weight = torch.full((3, 4), 0.5, requires_grad=True)
    effective = fake_quantize(weight, 1)
    torch.testing.assert_close(effective, torch.full((3, 4), 0.5))
    assert torch.autograd.grad(effective.sum(), weight)[0].isfinite().all()


@pytest.mark.parametrize(
    ("weight", "options", "said"),
    [
        (torch.randn(1, 1), {}, "one entry"),
        (torch.randn(4, 1), {"per_row": True}, "one entry"),
        (torch.randn(4), {}, "expected a matrix"),
        (torch.randn(4, 4), {"quantiser": "ternary"}, "quantiser: expected one of"),
        (torch.randn(4, 4), {"codebook_kind": "best"}, "codebook"),
        (torch.randn(4, 4), {"quantiser": "learned-step"}, "step: missing"),
        (torch.randn(4, 4), {"step": torch.ones(1, 1)}, "step: only"),
    ],
)
def test_bad_input(weight, options, said):
    with pytest.raises(ValueError, match=said):
        fake_quantize(weight, 1, **options)


def test_under_autocast_statistics_stay_in_full_precision():
    torch.manual_seed(0)
    layer, x = QuantLinear(16, 8, 1), torch.randn(3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
