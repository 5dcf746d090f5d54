"""Features of images by a frozen encoder (7.3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from infocl.methods import stages_of
from infocl.preprocessing import Statistics
from infocl.stored_images import packed_pixels
from sextet import cuda
from sextet.data import to_float
from sextet.data.photographs import Fit, PhotographList

BATCH = 500


@torch.no_grad()
def encode(
    encoder: nn.Module,
    images: Tensor | np.ndarray,
    statistics: Statistics,
    *,
    device: torch.device,
    precision: cuda.Precision = "fp32",
    batch_size: int = BATCH,
) -> Tensor:
    """Representations h [n, dim], float32 on the CPU, of uint8 images [n, h, w, 3].

    The encoder is left in evaluation mode; no noise is added to what it gives.

    Args:
        encoder: images -> pooled outputs of its stages, the last of which is h.
        images: as stored.
        statistics: mean and deviation to normalise with.
        device: where to compute.
        precision: of the encoder.
        batch_size: images at once.
    """
    encoder.to(device).eval()
    parts = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        pixels = to_float(
            part.to(device) if isinstance(part, Tensor) else torch.from_numpy(np.array(part)).to(device), *statistics
        )
        with cuda.autocast(device, precision):
            parts.append(stages_of(encoder, pixels)[-1].float().cpu())
    return torch.cat(parts)


def encode_photographs(
    encoder: nn.Module,
    photographs: PhotographList,
    side: int,
    statistics: Statistics,
    *,
    device: torch.device,
    fit: Fit = "squash",
    resize: int | None = None,
    precision: cuda.Precision = "fp32",
    batch_size: int = BATCH,
) -> Tensor:
    """The same of photographs, decoded batch by batch: no more than a batch is in memory.

    Args:
        encoder, statistics, device, precision, batch_size: as of `encode`.
        photographs: which.
        side, fit, resize: as of `photographs.fitted`; 7.3 squashes, 7.4 crops 224 of 256.
    """
    parts = []
    for start in range(0, len(photographs), batch_size):
        rows = np.arange(start, min(start + batch_size, len(photographs)))
        pixels = packed_pixels(photographs.subset(rows), side, fit=fit, resize=resize)
        parts.append(encode(encoder, pixels, statistics, device=device, precision=precision, batch_size=batch_size))
    return torch.cat(parts)
