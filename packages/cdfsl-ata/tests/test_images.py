"""Packed images and their augmentation."""

import numpy as np
import pytest
import torch

from cdfsl_ata.images import PackedImages, crop_and_flip, generator_of
from cdfsl_ata.transforms import MEAN, STD


def grey(n: int = 6, size: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_worked_example() -> None:
    source = PackedImages(torch.full((2, 1, 2, 2), 255, dtype=torch.uint8), np.array([0, 1]))
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    pixels = source.pixels(np.array([1]))
    assert pixels.shape == (1, 3, 2, 2)
    torch.testing.assert_close(pixels[0, :, 0, 1], expected)


def test_augmentation_depends_on_seed_and_step_only() -> None:
    images, labels, rows = grey(), np.zeros(6, np.int64), np.arange(6)
    one, same, other = (PackedImages(images, labels, augment=crop_and_flip(2), seed=seed) for seed in (1, 1, 2))
    one.pixels(rows, 0)
    assert torch.equal(one.pixels(rows, 7), same.pixels(rows, 7))
    assert not torch.equal(one.pixels(rows, 7), one.pixels(rows, 8))
    assert not torch.equal(one.pixels(rows, 7), other.pixels(rows, 7))
    assert torch.equal(one.pixels(rows), PackedImages(images, labels).pixels(rows))


def test_every_crop_is_one_of_the_possible_ones() -> None:
    images = grey(200, 4).float().expand(-1, 3, -1, -1)
    changed = crop_and_flip(1)(images, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    crops = [padded[:, :, row : row + 4, column : column + 4] for row in range(3) for column in range(3)]
    possible = torch.stack(crops + [crop.flip(3) for crop in crops])
    matches = (possible == changed).flatten(2).all(2)
    assert bool(matches.any(0).all())
    assert bool(matches.any(1).all())  # 200 images, 18 ways: each occurs
    assert torch.equal(crop_and_flip(0)(images, torch.Generator().manual_seed(3)).sum(3), images.sum(3))


def test_streams_of_a_step_differ() -> None:
    draws = {float(torch.rand((), generator=generator_of(3, step, stream))) for step in range(9) for stream in range(4)}
    assert len(draws) == 36


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 3, 3), [0, 1], "expected uint8"),
        (torch.zeros(2, 2, 3, 3, dtype=torch.uint8), [0, 1], "1 or 3"),
        (torch.zeros(2, 3, 3, 3, dtype=torch.uint8), [0], "expected 2, one an image, got 1"),
    ],
)
def test_bad_images(images: torch.Tensor, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackedImages(images, np.array(labels))
