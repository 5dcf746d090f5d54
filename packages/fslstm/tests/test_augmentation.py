from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from fslstm.augmentation import DRAWS, ORDERS, Preprocessed, augment, crop, flip, jitter, uniform_draws
from sextet.data import to_float

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def pictures(n=4, side=16, seed=0):
    """Smooth colourful pictures uint8 [n, side, side, 3]: means and greys of the pictures differ."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.integers(0, 256, (n, 3, 4, 4))).float()
    smooth = nn.functional.interpolate(coarse, size=side, mode="bilinear", align_corners=False)
    return smooth.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def test_worked_example():
    image = torch.tensor([[[1, 1, 1], [2, 2, 2]], [[3, 3, 3], [4, 4, 4]]], dtype=torch.uint8)[None]
    assert crop(image, torch.tensor([[1, 1]]), 1)[0, ..., 0].tolist() == [[1, 2], [3, 4]]
    assert crop(image, torch.tensor([[0, 0]]), 1)[0, ..., 0].tolist() == [[0, 0], [0, 1]]
    assert crop(image, torch.tensor([[2, 1]]), 1)[0, ..., 0].tolist() == [[3, 4], [0, 0]]
    assert flip(image.permute(0, 3, 1, 2), torch.tensor([True]))[0, 0].tolist() == [[2, 1], [4, 3]]


def test_draws_in_the_middle_leave_the_image_as_it_is():
    images = pictures()
    draws = torch.full((4, DRAWS), 0.5, dtype=torch.float64)
    expected = images.permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(augment(images, draws, padding=4), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_jitter_is_that_of_torchvision_in_every_order(order):
    images = pictures().permute(0, 3, 1, 2).float() / 255
    factors = 0.6 + 0.8 * torch.rand(4, 3)
    found = jitter(images, factors, torch.tensor(order).expand(4, 3))
    changes = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)
    for image, strengths, result in zip(images, factors.tolist(), found, strict=True):
        for kind in order:
            image = changes[kind](image, strengths[kind])
        torch.testing.assert_close(result, image, atol=2e-6, rtol=0)


def test_the_distribution_is_that_of_torchvision():
    """Mean and spread of every pixel over many augmentations of one picture."""
    n, side, padding = 4000, 8, 2
    picture = pictures(1, side)
    ours = augment(picture.expand(n, -1, -1, -1), uniform_draws(0, 0, n), padding=padding)
    pipeline = v2.Compose([
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomCrop(side, padding=padding),
        v2.ColorJitter(0.4, 0.4, 0.4),
        v2.RandomHorizontalFlip(),
    ])  # fmt: skip
    torch.manual_seed(0)
    theirs = torch.stack([pipeline(picture[0].permute(2, 0, 1)) for _ in range(n)])
    error = (ours.var(0) / n + theirs.var(0) / n).sqrt()
    # 192 pixels: the largest of as many standard normal deviations stays below 4.5
    assert ((ours.mean(0) - theirs.mean(0)) / error).abs().max() < 4.5
    assert (ours.std(0) / theirs.std(0) - 1).abs().max() < 0.08
    assert ours.min() >= 0
    assert ours.max() <= 1


def test_every_corner_order_and_side_is_equally_likely():
    draws = uniform_draws(3, 1, 90_000)
    corners = (draws[:, :2] * 9).long()
    for values, kinds in ((corners[:, 0], 9), (corners[:, 1], 9), ((draws[:, 5] * 6).long(), 6)):
        share = torch.bincount(values, minlength=kinds) / len(draws)
        assert len(share) == kinds
        assert (share - 1 / kinds).abs().max() < 0.005
    assert (draws[:, 6] < 0.5).double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert np.abs(np.corrcoef(draws.numpy().T) - np.eye(DRAWS)).max() < 0.02
    assert sorted(ORDERS) == sorted(itertools.permutations(range(3)))


def test_draws_depend_on_seed_and_call_alone():
    assert torch.equal(uniform_draws(1, 2, 5), uniform_draws(1, 2, 5))
    assert torch.equal(uniform_draws(1, 2, 3), uniform_draws(1, 2, 5)[:3])
    distinct = [uniform_draws(*key, 5) for key in ((0, 0), (0, 1), (1, 0))]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(distinct, 2))


def test_images_of_a_batch_are_augmented_one_by_one():
    images, draws = pictures(6), uniform_draws(0, 0, 6)
    together = augment(images, draws, padding=3)
    alone = torch.cat([augment(images[i : i + 1], draws[i : i + 1], padding=3) for i in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(2, 9), st.integers(2, 9), st.integers(0, 4), st.integers(0, 2**32))
def test_shapes_and_range(n, height, width, padding, seed):
    images = torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8)
    found = augment(images, uniform_draws(seed, 0, n), padding=padding)
    assert found.shape == (n, 3, height, width)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1


def test_preprocessing_only_normalises_in_evaluation():
    images = pictures()
    network = Preprocessed(nn.Flatten(), mean=MEAN, std=STD, padding=4).eval()
    torch.testing.assert_close(network(images), to_float(images, MEAN, STD).flatten(1))
    assert network.calls == 0


def test_preprocessing_draws_anew_in_every_call_and_continues_after_a_resume():
    images = pictures()
    network, again = (Preprocessed(nn.Flatten(), mean=MEAN, std=STD, padding=4, seed=7) for _ in range(2))
    first, second = network(images), network(images)
    assert not torch.equal(first, second)
    state = network.state_dict()
    third = network(images)
    again.load_state_dict(state)
    assert torch.equal(again(images), third)
