"""Gradients in float64, rounding in float32 against the naive formulation, and training in bfloat16."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sextet_testing.numerics import assert_as_exact, assert_near_full_precision
from torch import nn

from lmim import LocalMim, SparseSwin, SwinLocalMim
from lmim.config import PretrainingConfig
from lmim.pretraining import pretrain
from lmim.targets import hog_targets, normalised, orientation_map, pyramid, sobel
from sextet.training import read_log


def small(**changes):
    torch.manual_seed(0)
    settings = {"decoder_dim": 8, "decoder_heads": 2, "bins": 4, "channels": 1}
    return LocalMim(16, 4, 8, 7, 2, **(settings | changes))


def test_gradcheck_of_normalised_pixels():
    assert torch.autograd.gradcheck(normalised, torch.randn(3, 5, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("changes", [{}, {"decoder_depth": 2}, {"target": "pixels", "taps": (2,), "scales": (1,)}])
def test_gradcheck_of_the_losses(changes):
    model = small(**changes).double()
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.rand(*shape, generator=generator).double() for shape in ((2, 1, 16, 16), (2, 16)))
    module = Losses(model)

    def losses(vector):
        parts = vector.split([value.numel() for value in module.parameters()])
        given = {
            name: part.view_as(value) for part, (name, value) in zip(parts, module.named_parameters(), strict=True)
        }
        return torch.func.functional_call(module, given, (images, noise))

    # One vector: a fast check of each tensor by itself takes as many passes as there are tensors
    assert torch.autograd.gradcheck(losses, nn.utils.parameters_to_vector(module.parameters()), fast_mode=True)


class Losses(nn.Module):
    """The losses of hidden cells as a module's forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, noise):
        return self.model.losses(images, 0.75, noise)


def photographs(seed, scale, shift, size=32):
    """Smooth images with noise, [2, 3, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, 3, size // 4, size // 4, generator=generator)
    smooth = F.interpolate(coarse, scale_factor=4, mode="bilinear")
    return scale * (smooth + 0.1 * torch.randn(2, 3, size, size, generator=generator)) + shift


SCALES = [(1.0, 0.0), (1e-3, 0.0), (255.0, 0.0), (1.0, 30.0)]


def naive_sobel(images):
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=images.dtype)
    padded = F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    return [F.conv2d(padded, weight[None, None]).view_as(images) for weight in (kernel, kernel.T)]


def naive_hog(images, cell, bins):
    gx, gy = naive_sobel(images)
    magnitude = (gx.square() + gy.square()).sqrt()
    index = torch.floor(torch.atan2(gx, gy) / math.pi * bins).long() % bins
    maps = F.one_hot(index, bins).movedim(-1, 2) * magnitude[:, :, None]
    pooled = F.avg_pool2d(maps.flatten(0, 1), cell).unflatten(0, (len(images), -1))
    return F.normalize(pooled, dim=2).flatten(3).flatten(1, 2).mT


@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_float32_gradients_of_images_are_as_exact_as_by_convolution(scale, shift):
    trials = []
    for seed in range(6):
        images = photographs(seed, scale, shift)
        for ours, naive, exact in zip(sobel(images), naive_sobel(images), naive_sobel(images.double()), strict=True):
            trials.append((ours, naive, exact))
    assert_as_exact(trials)


@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_float32_pyramid_is_as_exact_as_pooling_from_pixels(scale, shift):
    """One bin for all orientations, where no pixel can fall on an edge between two."""
    trials = []
    for seed in range(6):
        images = photographs(seed, scale, shift)
        exact = F.avg_pool2d(orientation_map(images.double(), 1).flatten(0, 1), 16).flatten()
        naive = F.avg_pool2d(orientation_map(images, 1).flatten(0, 1), 16).flatten()
        trials.append((pyramid(orientation_map(images, 1), (4, 8, 16))[2].flatten(), naive, exact))
    assert_as_exact(trials)


@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_float32_hog_is_as_exact_as_the_naive_one_but_for_pixels_on_an_edge(scale, shift):
    """Rounding may carry a pixel over an edge between bins: such cells are counted, the others compared."""
    errors, edges = [], []
    for seed in range(6):
        images = photographs(seed, scale, shift)
        exact = naive_hog(images.double(), 8, 9)
        cells = torch.stack(
            [
                (found - exact).abs().amax(dim=2)
                for found in (hog_targets(images, (4, 8), 9)[1], naive_hog(images, 8, 9))
            ]
        )
        crossed = cells > 1e-3
        edges.append(crossed.sum(dim=(1, 2)))
        errors.append(cells[:, ~crossed.any(dim=0)])
    ours, naive = torch.cat(errors, dim=1)
    for measure in (torch.median, torch.amax):
        assert measure(ours) <= 2 * measure(naive) + torch.finfo(torch.float32).eps
    ours, naive = torch.stack(edges).sum(dim=0)
    assert ours <= 2 * naive + 1


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_float32_losses_of_hidden_cells_are_as_exact_as_those_of_all_cells(scale):
    trials = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        model = small(target="pixels")
        images, noise = torch.randn(2, 1, 16, 16, generator=generator), torch.rand(2, 16, generator=generator)
        images = scale * images
        ours, naive = model.losses(images, 0.75, noise), model(images, 0.75, noise).losses
        trials.append((ours, naive, model.double()(images.double(), 0.75, noise.double()).losses.detach()))
    assert_as_exact(trials)


def swin():
    torch.manual_seed(0)
    encoder = SparseSwin(1, 4, (2, 2, 2, 2), (1, 2, 2, 4))
    return SwinLocalMim(encoder, decoder_dims=(8,) * 4, decoder_heads=2, bins=4)


def trained(folder, precision, make, shape):
    images = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    config = PretrainingConfig(epochs=6, warmup_epochs=1, batch=8, base_lr=0.3, lr_min=0.0, precision=precision)
    model = make()
    pretrain(
        model, lambda _: images, config, folder, steps_per_epoch=2, seed=5, device=torch.device("cpu"), save_every=100
    )
    return torch.tensor([entry["loss"] for entry in read_log(folder)]), model


@pytest.mark.parametrize(("make", "shape"), [(small, (1, 16, 16)), (swin, (3, 56, 56))])
def test_training_in_bfloat16_is_near_float32(make, shape, tmp_path):
    full, half = (trained(tmp_path / precision, precision, make, shape) for precision in ("fp32", "bf16"))
    assert_near_full_precision(full, half, tolerance=0.05)
