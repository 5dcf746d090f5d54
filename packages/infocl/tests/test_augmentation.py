"""Views against torchvision, operation by operation and in distribution; determinism."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torchvision import transforms
from torchvision.transforms import functional

from infocl.augmentation import (
    ADJUSTMENTS,
    ATTEMPTS,
    DRAWS,
    ORDERS,
    SUPERVISED,
    Augmentation,
    Draws,
    Views,
    augment,
    crop_boxes,
    jitter_factors,
    resized_crop,
)

PLAIN = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0)


def images(count=6, height=12, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def draws(count, seed=0):
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


def test_without_any_change_a_view_is_the_image():
    views = augment(images(), draws(6), replace(PLAIN, size=12))
    torch.testing.assert_close(views, images().permute(0, 3, 1, 2) / 255)
    mirrored = augment(images(), draws(6), replace(PLAIN, size=12, flip=1.0))
    torch.testing.assert_close(mirrored, views.flip(-1))
    grey = augment(images(), draws(6), replace(PLAIN, size=12, grey=1.0))
    torch.testing.assert_close(grey, functional.rgb_to_grayscale(views, 3))


@pytest.mark.parametrize("kind", range(4))
def test_each_colour_change_is_torchvisions(kind):
    pixels = torch.rand(20, 3, 5, 7)
    pixels[0] = 0.5  # grey has no hue
    amounts = torch.linspace(-0.5, 0.5, 20) if kind == 3 else torch.linspace(0, 2, 20)
    names = ("brightness", "contrast", "saturation", "hue")
    theirs = getattr(functional, f"adjust_{names[kind]}")
    wanted = torch.stack([theirs(image, float(amount)) for image, amount in zip(pixels, amounts, strict=True)])
    ours = ADJUSTMENTS[kind](pixels, amounts[:, None, None, None])
    torch.testing.assert_close(ours, wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("size", [5, 24, 64])
def test_crops_are_resized_as_torchvision_does(size):
    stored = images(4, 40, 56)
    boxes = torch.tensor([[3, 4, 30, 50], [0, 0, 40, 56], [10, 20, 5, 9], [7, 0, 33, 20]])
    mirrored = torch.tensor([False, True, False, True])
    pixels = stored.permute(0, 3, 1, 2) / 255
    wanted = [
        functional.resized_crop(image, *box.tolist(), [size, size]) for image, box in zip(pixels, boxes, strict=True)
    ]
    wanted = [view.flip(-1) if flip else view for view, flip in zip(wanted, mirrored, strict=True)]
    torch.testing.assert_close(resized_crop(stored, boxes, size, mirrored), torch.stack(wanted), rtol=0, atol=2e-6)


def test_the_whole_view_by_torchvisions_functions():
    config, stored, drawn = Augmentation(size=10), images(40), draws(40)
    boxes = crop_boxes(drawn[:, : 2 * ATTEMPTS + 2], torch.tensor([[12, 12]] * 40), config.scale, config.ratio)
    changes = [
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    ]
    for image, box, row, view in zip(stored, boxes, drawn, augment(stored, drawn, config), strict=True):
        flip, jitter, *strengths, order, grey = row[2 * ATTEMPTS + 2 :]
        wanted = functional.resized_crop(image.permute(2, 0, 1) / 255, *box.tolist(), [10, 10])
        wanted = wanted.flip(-1) if flip < 0.5 else wanted
        if jitter < 0.8:
            factors = jitter_factors(torch.stack(strengths)[None], config)[0]
            for kind in ORDERS[int(order * 24)]:
                wanted = changes[kind](wanted.clamp(0, 1), float(factors[kind]))
        wanted = functional.rgb_to_grayscale(wanted, 3) if grey < 0.2 else wanted
        torch.testing.assert_close(view, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 50), (10, 90), (90, 10)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    torch.manual_seed(0)
    count = 4000
    blank = torch.zeros(1, height, width)
    theirs = torch.tensor(
        [transforms.RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    )
    ours = crop_boxes(
        torch.rand(count, 2 * ATTEMPTS + 2), torch.tensor([[height, width]] * count), (0.08, 1.0), (3 / 4, 4 / 3)
    )
    top, left, tall, wide = ours.unbind(1)
    assert bool(
        (top >= 0).all() and (left >= 0).all() and (top + tall <= height).all() and (left + wide <= width).all()
    )
    for one, other in zip(ours.T.double(), theirs.T.double(), strict=True):
        # Two-sample Kolmogorov-Smirnov distance; 0.0437 is its 0.1 % quantile for 4,000 each
        values = torch.cat([one, other]).unique()
        distance = max(
            abs(float((one <= value).double().mean() - (other <= value).double().mean())) for value in values
        )
        assert distance < 0.0437


def test_factors_orders_and_shares_are_as_published():
    drawn = torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0))
    factors = jitter_factors(drawn, Augmentation(contrast=1.5))
    for column, (low, high) in zip(factors.T, [(0.2, 1.8), (0.0, 2.5), (0.2, 1.8), (-0.2, 0.2)], strict=True):
        assert low <= float(column.min()) < low + 0.001
        assert high - 0.001 < float(column.max()) <= high
        assert float(column.mean()) == pytest.approx((low + high) / 2, abs=0.02)
    assert sorted(map(tuple, ORDERS.tolist())) == sorted(itertools.permutations(range(4)))
    assert (SUPERVISED.brightness, SUPERVISED.hue) == (0.4, 0.1)
    grey = augment(images(4000, 4, 4), draws(4000), Augmentation(size=4, jitter=0.0))
    colourless = (grey.amax(1) - grey.amin(1)).flatten(1).amax(1) < 1e-6
    assert float(colourless.double().mean()) == pytest.approx(0.2, abs=0.025)


def test_a_view_depends_on_seed_epoch_view_and_index_alone():
    one, other = Draws(5, 30), Draws(5, 100)
    rows = torch.tensor([7, 29, 3])
    first = one.rows(2, 1, rows)
    assert torch.equal(first, other.rows(2, 1, torch.arange(100))[rows])
    one.rows(0, 0, rows)
    assert torch.equal(first, one.rows(2, 1, rows))
    for epoch, view, seed in ((1, 1, 5), (2, 0, 5), (2, 1, 6)):
        assert not torch.equal(first, Draws(seed, 30).rows(epoch, view, rows))
    assert 0 <= float(first.min()) <= float(first.max()) < 1


def test_views_are_normalised_and_differ():
    source = Views(images(), Augmentation(size=8), seed=1)
    one, other = source.views(torch.tensor([4, 1]), 0)
    assert one.shape == other.shape == (2, 3, 8, 8)
    assert not torch.equal(one, other)
    alone = source.views(torch.tensor([1]), 0)[0]
    torch.testing.assert_close(alone[0], one[1])
    assert -1 <= float(one.min()) <= float(one.max()) <= 1
    assert len(Views(images(), SUPERVISED, seed=1, count=1).views(torch.tensor([0]), 0)) == 1


def test_images_of_different_sizes_come_as_a_list():
    sizes = [(9, 14), (20, 11), (8, 8)]
    stored = [images(1, *size)[0] for size in sizes]
    views = augment(stored, draws(3), Augmentation(size=7))
    for number, image in enumerate(stored):
        alone = augment(image[None], draws(3)[number : number + 1], Augmentation(size=7))
        torch.testing.assert_close(views[number], alone[0])


@pytest.mark.parametrize("call", [
    lambda: augment(images().float(), draws(6), PLAIN),
    lambda: augment(images()[..., :1], draws(6), PLAIN),
    lambda: augment([images()[0], images()[0, :, :, :2]], draws(2), PLAIN),
    lambda: augment(images(), draws(5), PLAIN),
    lambda: Augmentation(size=0),
    lambda: Augmentation(scale=(0.5, 0.1)),
    lambda: Augmentation(flip=1.5),
    lambda: Augmentation(hue=0.7),
    lambda: Draws(-1, 5),
    lambda: Views(images(), PLAIN, seed=0, labels=torch.zeros(2)),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
