"""Whole, valid files for parsers to begin from."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

RNG = np.random.default_rng(0)


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    """Prepares a folder with one file."""
    return lambda folder: put(folder / name, content)


def put(path: Path, content: bytes | str) -> None:
    """Write a file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def png(side: int = 8, width: int | None = None) -> bytes:
    """An image of noise."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = RNG.integers(0, 256, (side, width or side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    """An image of noise."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, format="JPEG")
    return buffer.getvalue()


def tensors() -> dict[str, torch.Tensor]:
    """Features with labels."""
    return {"features": torch.randn(6, 3), "labels": torch.arange(6)}


def torch_file(content: Any) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """What `numpy.savez` writes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    """An array as MNIST's files hold it."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def photographs(folder: Path) -> None:
    """A class folder with a PNG and a JPEG."""
    put(folder / "a/x.png", png())
    put(folder / "a/y.jpg", jpeg())


NPZ = npz(features=np.ones((6, 3), np.float32), labels=np.arange(6))
IMAGES = RNG.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
