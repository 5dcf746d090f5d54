"""Losses in full precision inside a half-precision run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sextet.cuda import float32_island, tf32


def full_precision(values: Tensor) -> Tensor:
    """float32, or float64 where it is that already."""
    return values if values.dtype == torch.float64 else values.float()


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Matrix products inside are neither autocast nor rounded to TF32; convert inputs with `full_precision`."""
    with float32_island(device), tf32(False):
        yield
