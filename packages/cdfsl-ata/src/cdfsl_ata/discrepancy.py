"""How far a task's features have moved: regularisers of the inner maximisation (the paper's ablation)."""

from __future__ import annotations

import torch
from torch import Tensor

BANDWIDTH_FACTOR = 2.0
BANDWIDTHS = 5


def euclid(features: Tensor, origin: Tensor) -> Tensor:
    """mean over images and dimensions of (f(X) - f_0)^2.

    Args:
        features: f(X), [images, dim].
        origin: f_0, [images, dim], row by row the same images before the ascent.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that differ.
    """
    check_same_shape(features, origin)
    return (features - origin).square().mean()


def mmd(features: Tensor, origin: Tensor) -> Tensor:
    """Biased multi-kernel maximum mean discrepancy of two sets of as many vectors.

    With D2 the squared distances within the stacked N = 2n vectors, b = sum(D2) / (N^2 - N) / 2^(5 // 2) (detached)
    and k = sum_{i=0..4} exp(-D2 / (b 2^i)), it is the mean over entries of k_XX + k_YY - k_XY - k_YX.

    Args:
        features: X, [images, dim].
        origin: Y, [images, dim].

    Returns:
        Scalar, at least 0 up to rounding; 0 where the sets are equal.

    Raises:
        ValueError: shapes that differ.
    """
    check_same_shape(features, origin)
    stacked = torch.cat([features, origin])
    distances = (stacked[:, None] - stacked[None]).square().sum(-1)  # [N, N]
    count = len(stacked)
    bandwidth = distances.detach().sum() / (count**2 - count) / BANDWIDTH_FACTOR ** (BANDWIDTHS // 2)
    bandwidth = bandwidth.clamp_min(torch.finfo(bandwidth.dtype).tiny)
    kernel = torch.stack([torch.exp(-distances / (bandwidth * BANDWIDTH_FACTOR**i)) for i in range(BANDWIDTHS)]).sum(0)
    half = count // 2
    return (kernel[:half, :half] + kernel[half:, half:] - kernel[:half, half:] - kernel[half:, :half]).mean()


def check_same_shape(features: Tensor, origin: Tensor) -> None:
    """Raise ValueError unless both are [images, dim]."""
    if features.ndim != 2 or features.shape != origin.shape:
        raise ValueError(
            f"features: expected [images, dim] like the origin's {list(origin.shape)}, got {list(features.shape)}; "
            "pool maps to one vector an image first"
        )
