from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from bi_adapter_testing.official_data import small_task, write_vtab
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bi_adapter.image_files import pack_files
from bi_adapter.preprocessing import (
    centre_crop,
    crop_and_flip,
    decode_into,
    decoded_images,
    normalised,
    resized,
    through_jpeg,
)
from bi_adapter.vtab import PASSPORTS, TASKS
from sextet.data import DataError, adopt
from sextet.recipe import RunContext


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def test_worked_examples():
    pixels = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    assert torch.allclose(normalised(pixels).flatten(), torch.tensor([0.0, 0.2, 1.0]))
    assert torch.allclose(normalised(pixels, "inception").flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    expected = torch.tensor([-0.485 / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert torch.allclose(normalised(pixels, "imagenet").flatten(), expected)


def test_an_image_of_the_right_size_stays_as_it_is():
    image = noise(24, 24)
    assert np.array_equal(resized(image, 24), np.asarray(image))
    assert resized(noise(30, 10), 16).shape == (16, 16, 3)
    assert resized(noise(9, 9).convert("L"), 8).shape == (8, 8, 3)


def test_resizing_is_what_torchvision_does():
    transforms = pytest.importorskip("torchvision.transforms")
    image = noise(50, 37)
    expected = transforms.Resize((32, 32), interpolation=transforms.InterpolationMode.BICUBIC)(image)
    assert np.array_equal(resized(image, 32), np.asarray(expected))


def test_jpeg_is_pillows_default():
    image = noise(40, 30)
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    assert np.array_equal(through_jpeg(image), Image.open(stream).convert("RGB"))
    assert not np.array_equal(through_jpeg(image), image)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(4, 12), st.integers(0, 5), st.integers(0, 100))
def test_crops_are_windows_of_their_images(batch, side, slack, seed):
    larger = side + slack
    pixels = torch.randint(0, 256, (batch, larger, larger, 3), dtype=torch.uint8)
    crops = crop_and_flip(pixels, side, torch.Generator().manual_seed(seed))
    assert torch.equal(crops, crop_and_flip(pixels, side, torch.Generator().manual_seed(seed)))
    for crop, image in zip(crops, pixels, strict=True):
        windows = [image[t : t + side, x : x + side] for t in range(slack + 1) for x in range(slack + 1)]
        assert any(torch.equal(crop, way) for window in windows for way in (window, window.flip(1)))
    start = slack // 2
    assert torch.equal(centre_crop(pixels, side), pixels[:, start : start + side, start : start + side])


def test_decoding_once_for_all_runs(tmp_path):
    task = TASKS["kitti"]
    passport = small_task(PASSPORTS["kitti"], task)
    adopt(passport, write_vtab(tmp_path / "raw", task), tmp_path / "root")
    context = RunContext(tmp_path / "run", tmp_path / "stages", 0, device="cpu", data_root=tmp_path / "root")
    images = decoded_images(passport, context, 20)
    assert (images.shape, images.dtype) == ((36, 20, 20, 3), np.uint8)
    assert isinstance(images, np.memmap)
    with Image.open(tmp_path / "raw/kitti/images/train800/000003.jpg") as image:
        assert np.array_equal(images[3], resized(image, 20))
    decoded_images(passport, context, 20)
    decoded_images(passport, context, 20, jpeg75=True)
    assert len(list((tmp_path / "stages").glob("decoded-vtab-kitti-*"))) == 2


def test_lossless_sources_can_pass_a_jpeg(tmp_path):
    noise(20, 20).save(tmp_path / "a.png")
    packed = pack_files(tmp_path, ["a.png"])
    for jpeg75, expected in ((False, noise(20, 20)), (True, through_jpeg(noise(20, 20)))):
        decode_into(tmp_path / "out.npy", *packed, 20, jpeg75)
        assert np.array_equal(np.load(tmp_path / "out.npy")[0], expected)


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="expected one of none, imagenet, inception, got 'half'"):
        normalised(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), "half")
    (tmp_path / "a.jpg").write_bytes(b"no image")
    packed, offsets = pack_files(tmp_path, ["a.jpg"])
    with pytest.raises(DataError, match="image 0 is not read"):
        decode_into(tmp_path / "out.npy", packed, offsets, 8)
    with (tmp_path / "b.jpg").open("wb") as file:
        file.truncate((1 << 26) + 1)
    with pytest.raises(DataError, match="expected an image file"):
        pack_files(tmp_path, ["b.jpg"])
    Image.new("L", (15_000, 13_000)).save(tmp_path / "c.png")
    with pytest.raises(DataError, match="image 0"):
        decode_into(tmp_path / "out.npy", *pack_files(tmp_path, ["c.png"]), 8)
