"""Gradients in float64, rounding in float32 against the naive formulation, and training in bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from infocl_testing.tiny_networks import Tiny
from sextet_testing.numerics import assert_as_exact, assert_near_full_precision
from torch import nn

from infocl.augmentation import Augmentation, Views
from infocl.further_methods import info_nce, vicreg
from infocl.losses import barlow_twins, byol_loss, nt_xent
from infocl.methods import SimClr
from infocl.regularisers import (
    ReconstructionRegularizer,
    ViewDistanceRegularizer,
    information_estimate,
    lower_bound,
)
from infocl.training import TrainingConfig, train
from sextet.training import read_log


def rows(count, dim, seed=0, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    # float32 numbers, so that both dtypes mean the same
    return (scale * torch.randn(count, dim, generator=generator) + shift).double()


@pytest.mark.parametrize(
    ("loss", "views"),
    [(nt_xent, 2), (barlow_twins, 2), (byol_loss, 4), (vicreg, 2), (info_nce, 3), (information_estimate, 2)],
)
def test_gradcheck(loss, views):
    assert torch.autograd.gradcheck(loss, [rows(5, 3, seed).requires_grad_() for seed in range(views)])


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_gradcheck_of_reconstruction(likelihood):
    decoder = nn.Linear(3, 4).double()
    regulariser = ReconstructionRegularizer(decoder, likelihood)
    images = [rows(5, 4, seed).sigmoid() for seed in (2, 3)]
    features = [rows(5, 3, seed).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda *h: regulariser(h, images)[0], features)


def test_gradcheck_of_view_distance():
    features = [rows(5, 3, seed).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda *h: ViewDistanceRegularizer()([[each] for each in h])[0], features)


def naive_bound(z, mu):
    return -(-0.05 * (z[:, None] - mu).square().sum(2)).logsumexp(1).mean()


def naive_nt_xent(z_i, z_j):
    z = F.normalize(torch.cat([z_i, z_j]), dim=1)
    kernel = (F.cosine_similarity(z[:, None], z, dim=2) / 0.5).exp()
    others = kernel.sum(dim=1) - kernel.diagonal()
    return -(kernel.diagonal(len(z_i)).repeat(2) / others).log().mean()


@pytest.mark.parametrize(("ours", "naive"), [(lower_bound, naive_bound), (nt_xent, naive_nt_xent)])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_float32_is_as_exact_as_the_naive_form(ours, naive, shift):
    trials = []
    for seed in range(6):
        for scale in (1e-2, 1.0, 30.0):
            one = rows(48, 64, seed, scale, shift).float()
            other = one + 0.1 * scale * rows(48, 64, seed + 100).float()
            trials.append((ours(other, one), naive(other, one), naive(other.double(), one.double())))
    assert_as_exact(trials)


def trained(folder, precision):
    torch.manual_seed(0)
    model = SimClr(Tiny(), 8, "lbe", out=8)
    images = torch.randint(0, 256, (24, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = TrainingConfig(epochs=8, batch_size=12, lr=1e-2, save_every=100, precision=precision)
    train(model, Views(images, Augmentation(size=4), seed=3), config, folder, seed=1, device=torch.device("cpu"))
    return torch.tensor([entry["base"] for entry in read_log(folder)]), model


def test_training_in_bfloat16_is_near_float32(tmp_path):
    full, half = (trained(tmp_path / precision, precision) for precision in ("fp32", "bf16"))
    assert_near_full_precision(full, half, tolerance=0.05)
