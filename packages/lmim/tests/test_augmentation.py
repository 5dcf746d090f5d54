"""Random crops, flips, and the order of an epoch (section 6)."""

from __future__ import annotations

import pytest
import torch

from lmim.augmentation import ATTEMPTS, Crops, EpochOrder, crop_boxes, resized_crops


def boxes_of(count, scale=(0.2, 1.0), aspect=1.0, seed=0):
    draws = torch.rand(count, 2 * ATTEMPTS + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return crop_boxes(draws, aspect, scale)


def test_worked_example():
    """The upper right quarter of an image, mirrored, at its own resolution."""
    image = torch.arange(16.0, dtype=torch.float64).view(1, 1, 4, 4)
    box = torch.tensor([[0.25, 0.75, 0.5, 0.5]], dtype=torch.float64)
    found = resized_crops(image, box, torch.tensor([True]), 2)
    torch.testing.assert_close(found, image[:, :, :2, 2:].flip(3))


def test_the_whole_image_is_the_image():
    images = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    whole = torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64).expand(3, -1)
    flips = torch.tensor([False, True, False])
    found = resized_crops(images, whole, flips, 8)
    torch.testing.assert_close(found[flips], images[flips].flip(3))
    torch.testing.assert_close(found[~flips], images[~flips])


@pytest.mark.parametrize("aspect", [0.6, 1.0, 1.5])
def test_boxes_lie_inside_with_the_area_and_shape_asked_for(aspect):
    boxes = boxes_of(4000, aspect=aspect)
    centre, extent = boxes[:, :2], boxes[:, 2:]
    assert bool((centre - extent / 2 >= -1e-12).all())
    assert bool((centre + extent / 2 <= 1 + 1e-12).all())
    area, shape = extent.prod(dim=1), extent[:, 1] / extent[:, 0] / aspect
    assert 0.2 <= float(area.min()) < 0.21
    assert 0.75 - 1e-9 <= float(shape.min()) < 0.76
    assert 1.32 < float(shape.max()) <= 4 / 3 + 1e-9


def test_areas_are_those_of_torchvision():
    """Same distribution of box sizes as RandomResizedCrop, by their means over many boxes."""
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(torch.empty(1, 1000, 1000), [0.2, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(3000)]
    ).double()
    ours = boxes_of(3000)[:, 2:] * 1000
    torch.testing.assert_close(ours.mean(dim=0), theirs.mean(dim=0), rtol=0.02, atol=0)
    torch.testing.assert_close(ours.prod(dim=1).std(), theirs.prod(dim=1).std(), rtol=0.05, atol=0)


def test_where_no_attempt_fits_the_largest_central_box_is_taken():
    draws = torch.full((1, 2 * ATTEMPTS + 2), 0.999, dtype=torch.float64)  # all of the area, and wide
    found = crop_boxes(draws, 1.0, (1.0, 1.0))
    assert found.tolist() == [[0.5, 0.5, 1.0, 1.0]]
    tall = crop_boxes(draws, 2.0, (1.0, 1.0))[0]
    assert tall.tolist() == pytest.approx([0.5, 0.5, 2 / 3, 1.0])


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    order = EpochOrder(10, 3, seed=1)
    first = torch.cat([order(number) for number in range(3)])
    assert len(set(first.tolist())) == 9
    second = torch.cat([order(number) for number in range(3, 6)])
    assert not first.equal(second)
    assert order(1).equal(EpochOrder(10, 3, seed=1)(1))
    assert not EpochOrder(10, 3, seed=2)(0).equal(first[:3])


def test_a_batch_depends_on_its_number_alone():
    images = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8)
    crops = Crops(images, 4, 3, mean=(0.5,) * 3, std=(0.25,) * 3, size=6)
    seventh, eighth = crops(7), crops(8)
    assert seventh.shape == (4, 3, 6, 6)
    assert seventh.dtype == torch.float32
    assert not seventh.equal(eighth)
    assert crops(7).equal(seventh)
    assert Crops(images, 4, 3, mean=(0.5,) * 3, std=(0.25,) * 3, size=6)(7).equal(seventh)


@pytest.mark.parametrize("batch", [0, 11])
def test_bad_input(batch):
    with pytest.raises(ValueError, match="expected 1 to 10"):
        EpochOrder(10, batch, seed=0)
