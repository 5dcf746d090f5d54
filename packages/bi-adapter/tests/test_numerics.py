"""Gradients in float64, rounding in float32 against the naive formulation, and training in bfloat16.

What a quantiser does to its latents has a straight-through gradient, which test_quantise.py checks as published.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sextet_testing.numerics import assert_as_exact, assert_near_full_precision
from torch import nn

from bi_adapter import QuantLinear
from bi_adapter.layers import Bottleneck
from bi_adapter.packing import PACKED_BITS, StoredMatrix, decode, packed_linear
from bi_adapter.quantise import encode, fake_quantize
from bi_adapter.training import FineTuning, fine_tune
from sextet.training import read_log


def quantised(rows, columns, bits):
    layer = QuantLinear(columns, rows, bits)
    layer.set_latent(torch.randn(rows, columns, generator=torch.Generator().manual_seed(2)))
    return layer.double()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 32])
def test_gradcheck_of_an_adapter_in_its_input(bits, relu):
    torch.manual_seed(0)
    adapter = Bottleneck(quantised(4, 6, bits), quantised(5, 4, bits), scale=0.7, dropout=0.0, relu=relu)
    assert torch.autograd.gradcheck(adapter, torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True))


def test_gradcheck_of_full_precision_latents():
    torch.manual_seed(0)
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda latent: fake_quantize(latent, 32), weight)


def trials_of(bits, offset, per_row, wide):
    """Products with the packed form and with decoded weights; the latter are the exact ones in float64."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        for scale in (1e-3, 1.0, 1e2):
            latent = scale * (torch.randn(16, wide, generator=generator) + offset)
            x = torch.randn(8, wide, generator=generator) + 0.5
            stored = encode(latent, bits, per_row=per_row)
            yield packed_linear(x, stored), F.linear(x, decode(stored)), exact_product(x, stored)


def exact_product(x, stored: StoredMatrix):
    """In float64 from what is stored: its levels, offsets and scales."""
    return packed_linear(x.double(), stored)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("bits", PACKED_BITS)
def test_float32_products_with_the_packed_form_are_as_exact_as_with_weights(bits, offset, per_row):
    assert_as_exact(trials_of(bits, offset, per_row, 96))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_float32_values_are_as_exact_as_level_by_level(bits):
    """The value of an entry is its level times the scale plus the offset, whatever the scale of the matrix."""
    trials = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        for scale in (1e-4, 1.0, 1e4):
            weight = scale * (torch.randn(8, 32, generator=generator) + 0.3)
            exact = fake_quantize(weight.double(), bits)
            # Which level is nearest may be decided by rounding for entries on a threshold: they are left out
            standard = (weight - weight.mean()) / (weight.std() + 1e-5)
            levels = ((exact - weight.double().mean()) / weight.double().std()).float()
            naive = levels * weight.std() + weight.mean()
            found = fake_quantize(weight, bits)
            same = ((found.double() - exact).abs() < 1e-3 * float(weight.std())) & standard.isfinite()
            assert same.float().mean() > 0.99
            trials.append((found[same], naive[same], exact[same]))
    assert_as_exact(trials)


class Toy(nn.Module):
    """A frozen layer and a head of 1-bit or plain weights that learns."""

    def __init__(self, bits):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(5, 16).requires_grad_(False)
        self.adapter, self.head = QuantLinear(16, 16, bits), nn.Linear(16, 3)
        self.adapter.set_latent(0.3 * torch.randn(16, 16))

    def forward(self, x):
        hidden = self.frozen(x).tanh()
        return self.head(hidden + self.adapter(hidden))


def trained(folder, precision, bits):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(40, 5, generator=generator)
    config = FineTuning(epochs=8, batch_size=20, lr=0.02, warmup=1, precision=precision)
    model = Toy(bits)
    fine_tune(
        model, lambda rows, _: inputs[rows], inputs[:, :3].argmax(1), config, folder, seed=3, device=torch.device("cpu")
    )
    return torch.tensor([entry["loss"] for entry in read_log(folder)]), model


@pytest.mark.parametrize("bits", [1, 32])
def test_training_in_bfloat16_is_near_float32(bits, tmp_path):
    full, half = (trained(tmp_path / precision, precision, bits) for precision in ("fp32", "bf16"))
    assert_near_full_precision(full, half, tolerance=0.05)
