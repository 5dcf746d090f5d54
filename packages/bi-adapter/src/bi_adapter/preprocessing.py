"""From image files to the backbone's input: resized once, kept as uint8 in a cache, normalised on the device."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bi_adapter.image_files import open_packed
from sextet.data import Passport, load, recorded_hash, to_float
from sextet.recipe import RunContext

if TYPE_CHECKING:
    from PIL.Image import Image

NORMALISATION: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of each way; `none` is the paper's on VTAB-1K, `inception` that of the backbone's training."""


def resized(image: Image, side: int) -> np.ndarray:
    """The whole image at side x side, bicubic, aspect ratio ignored, uint8 [side, side, 3]."""
    from PIL import Image as pillow

    return np.asarray(image.convert("RGB").resize((side, side), pillow.Resampling.BICUBIC))


def through_jpeg(image: Image) -> Image:
    """The image as it comes back from a JPEG of Pillow's default quality (75, chroma at half resolution).

    VTAB-1K circulates so encoded, even where the source is lossless: a small but real effect.
    """
    from PIL import Image as pillow

    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=75)
    return pillow.open(stream).convert("RGB")


def normalised(pixels: Tensor, how: str = "none") -> Tensor:
    """Images float32 [batch, 3, height, width] of pixels uint8 [batch, height, width, 3].

    Args:
        pixels: on any device.
        how: `none` (divided by 255 and nothing else), `imagenet` or `inception`.

    Raises:
        ValueError: another way.
    """
    if how not in NORMALISATION:
        raise ValueError(f"normalise: expected one of {', '.join(NORMALISATION)}, got {how!r}")
    return to_float(pixels, *NORMALISATION[how])


def crop_and_flip(pixels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A random crop of each image and a mirrored one every other time, uint8 [batch, side, side, 3].

    Args:
        pixels: uint8 [batch, larger, larger, 3].
        side: of the crops.
        generator: on the CPU; the only source of randomness.
    """
    slack = pixels.shape[1] - side
    tops, lefts = torch.randint(slack + 1, (2, len(pixels)), generator=generator).tolist()
    mirror = (torch.rand(len(pixels), generator=generator) < 0.5).tolist()
    crops = [image[top : top + side, left : left + side] for image, top, left in zip(pixels, tops, lefts, strict=True)]
    return torch.stack([crop.flip(1) if flip else crop for crop, flip in zip(crops, mirror, strict=True)])


def centre_crop(pixels: Tensor, side: int) -> Tensor:
    """The middle of each image, uint8 [batch, side, side, 3]."""
    start = (pixels.shape[1] - side) // 2
    return pixels[:, start : start + side, start : start + side]


def decode_into(path: Path, packed: np.ndarray, offsets: np.ndarray, side: int, jpeg75: bool = False) -> None:
    """Decode all packed images into the `.npy` file `path`, uint8 [n, side, side, 3], written as it grows.

    Args:
        path: replaced where it is there.
        packed, offsets: the files.
        side: what each image is resized to.
        jpeg75: whether each passes `through_jpeg` first, for sources that are not yet as VTAB-1K circulates.

    Raises:
        DataError: an image is damaged.
    """
    n = len(offsets) - 1
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, side, side, 3))

    def one(row: int) -> None:
        image = open_packed(packed, offsets, row)
        out[row] = resized(through_jpeg(image) if jpeg75 else image, side)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(one, range(n)):
            pass
    out.flush()


def decoded_images(passport: Passport, context: RunContext, side: int, *, jpeg75: bool = False) -> np.ndarray:
    """All images of a dataset at side x side, uint8 [n, side, side, 3], memory-mapped and read-only.

    Decoded once and shared by all runs; the cache is identified by the dataset's content hash, side and encoding.

    Args:
        passport: of a dataset with `packed` and `offsets`.
        context: of the run.
        side, jpeg75: see `decode_into`.
    """
    arrays = load(passport, context.data_root)

    def build(folder: Path) -> None:
        decode_into(folder / "images.npy", arrays["packed"], arrays["offsets"], side, jpeg75)

    content = {"content": recorded_hash(passport, context.data_root), "side": side, "jpeg75": jpeg75}
    folder = context.stage(f"decoded-{passport.name}", content, build)
    return np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
