from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cdfsl_ata.photographs import (
    AugmentationConfig,
    StoredPhotographs,
    centred,
    crop_boxes,
    grey,
    jitter,
    resized_crops,
)
from cdfsl_ata.transforms import MEAN, STD, centred_pixels, colour_jitter


def pictures(count=3, side=20, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def in_unit(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255


def test_grey_and_jitter_by_hand():
    pixel = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    assert grey(pixel).item() == pytest.approx(0.299 + 0.2935)
    assert jitter(pixel, torch.tensor([[0.5, 1.0, 1.0]])).flatten().tolist() == pytest.approx([0.5, 0.25, 0.0])
    assert jitter(pixel, torch.tensor([[1.0, 1.0, 0.0]])).flatten().tolist() == pytest.approx([0.5925] * 3)


def test_jitter_is_the_published_one_up_to_rounding():
    """PIL's enhancers cut off to whole grey levels three times, and the later ones stretch what is lost."""
    images = pictures(4, 16)
    uniform = np.random.default_rng(1).random((4, 3))
    ours = jitter(in_unit(images), torch.from_numpy(1 + 0.4 * (2 * uniform - 1)))
    theirs = [np.asarray(colour_jitter(Image.fromarray(i), u)) for i, u in zip(images, uniform, strict=True)]
    assert (255 * ours - torch.from_numpy(np.stack(theirs)).permute(0, 3, 1, 2)).abs().max() < 4.5


def test_a_crop_of_the_whole_image_is_the_image():
    images = in_unit(pictures(2, 9))
    boxes = torch.tensor([[0, 0, 9, 9]]).expand(2, -1)
    assert torch.allclose(resized_crops(images, boxes, 9), images)


def test_crops_are_interpolated_within_their_box():
    """Against interpolation of each box cut out on its own."""
    images = in_unit(pictures(4, 13))
    boxes = torch.tensor([[0, 0, 5, 7], [3, 2, 10, 4], [12, 12, 1, 1], [1, 0, 12, 13]])
    found = resized_crops(images, boxes, 8)
    for image, (top, left, high, wide), crop in zip(images, boxes.tolist(), found, strict=True):
        alone = image[None, :, top : top + high, left : left + wide]
        expected = F.interpolate(alone, (8, 8), mode="bilinear", align_corners=False)
        assert torch.allclose(crop, expected[0], atol=1e-9)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_boxes_lie_inside(height, width, seed):
    boxes = crop_boxes(20, height, width, 0.08, 4 / 3, torch.Generator().manual_seed(seed))
    top, left, high, wide = boxes.unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert min(high.min(), wide.min()) >= 1
    assert (top + high).max() <= height
    assert (left + wide).max() <= width


def test_boxes_are_distributed_as_torchvisions():
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    blank = torch.zeros(3, 257, 257)
    theirs = torch.tensor([RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    ours = crop_boxes(4000, 257, 257, 0.08, 4 / 3, torch.Generator().manual_seed(1))
    for column in range(4):
        for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
            first, second = (boxes[:, column].double().quantile(quantile) for boxes in (ours, theirs))
            assert abs(first - second) < 10


def test_boxes_that_never_fit_are_centred():
    boxes = crop_boxes(3, 4, 100, 1.0, 4 / 3, torch.Generator().manual_seed(0))
    assert boxes.tolist() == [[0, 47, 4, 5]] * 3


def test_centre_is_the_published_preparation():
    """Resize to 1.15 times the size and cut out the middle; torch's antialiasing is PIL's up to rounding."""
    pixels = pictures(1, 40)[0]
    ours = centred(in_unit(pixels[None]), 24, 1.15)[0].float()
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    theirs = centred_pixels(Image.fromarray(pixels), 24)
    assert (ours - (theirs * std + mean)).abs().max() < 1.1 / 255


def test_nothing_is_resized_where_the_stored_size_is_the_enlarged_one():
    images = in_unit(pictures(2, 27))
    assert torch.equal(centred(images, 24, 1.15), images[..., 2:26, 2:26])
    assert torch.equal(centred(images, 27, 1.0), images)


def test_a_source_augments_by_seed_and_step_alone():
    images, labels = pictures(6, 20), np.arange(6)
    source = StoredPhotographs(images, labels, 16, augmentation=AugmentationConfig(), seed=3)
    first = source.pixels(np.array([4, 1]), 7)
    torch.rand(9)
    assert first.shape == (2, 3, 16, 16)
    assert torch.equal(source.pixels(np.array([4, 1]), 7), first)
    assert not torch.equal(source.pixels(np.array([4, 1]), 8), first)
    other = StoredPhotographs(images, labels, 16, augmentation=AugmentationConfig(), seed=4)
    assert not torch.equal(other.pixels(np.array([4, 1]), 7), first)
    plain = source.pixels(np.array([4, 1]))
    assert torch.equal(plain, StoredPhotographs(images, labels, 16).pixels(np.array([4, 1])))


def test_augmentation_without_changes_is_a_resize():
    images = pictures(2, 12)
    still = AugmentationConfig(area=1.0, aspect=1.0, jitter=0.0, flip=0.0)
    values = still(in_unit(images), 12, torch.Generator().manual_seed(0))
    assert torch.allclose(values, in_unit(images))
    flipped = AugmentationConfig(area=1.0, aspect=1.0, jitter=0.0, flip=1.0)
    assert torch.allclose(flipped(in_unit(images), 12, torch.Generator()), in_unit(images).flip(3))


def test_grey_images_and_memory_maps(tmp_path):
    images = pictures(4, 10, channels=1)
    np.save(tmp_path / "images.npy", images)
    mapped = StoredPhotographs(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(4), 8)
    values = mapped.pixels(np.array([2, 2, 0]))
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    channels = values * std + mean
    assert torch.allclose(channels[:, 0], channels[:, 2], atol=1e-6)
    assert torch.equal(values, StoredPhotographs(images, np.arange(4), 8).pixels(np.array([2, 2, 0])))


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (pictures(2).astype(np.float32), [0, 1], {}, "expected uint8"),
        (pictures(2, channels=3)[..., :2], [0, 1], {}, "expected uint8"),
        (pictures(2)[:, :9], [0, 1], {}, "expected squares"),
        (pictures(2), [0], {}, "labels: expected 2"),
        (pictures(2), [0, 1], {"enlarge": 0.9}, "enlarge"),
    ],
)
def test_bad_input(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        StoredPhotographs(images, np.array(labels), 8, **options)
