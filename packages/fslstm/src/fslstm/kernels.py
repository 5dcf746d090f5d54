"""Kernel matrices between rows of features."""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = ("linear", "cosine", "rbf")


def kernel_matrix(first: Tensor, second: Tensor, kernel: str = "linear", gamma: float | None = None) -> Tensor:
    """k(x_i, y_j) for rows `[B, p, d]` and `[B, q, d]`, as `[B, p, q]`.

    Args:
        first, second: features.
        kernel: `"linear"` <x, y>, `"cosine"` <x, y> / (|x| |y|), or `"rbf"` exp(-gamma |x - y|^2).
        gamma: of the RBF kernel only, > 0; default 1 / d.

    Raises:
        ValueError: for another kernel name, or a gamma that is not positive or not used.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel: expected one of {KERNELS}, got {kernel!r}")
    if gamma is not None and (kernel != "rbf" or gamma <= 0):
        raise ValueError(f"gamma: expected a positive number, with kernel='rbf' only; got {gamma} with {kernel!r}")
    if kernel == "cosine":
        first, second = (torch.nn.functional.normalize(rows, dim=-1) for rows in (first, second))
    if kernel != "rbf":
        return first @ second.mT
    centre = second.detach().mean(dim=-2, keepdim=True)  # no distance depends on it, digits of the squares below do
    first, second = first - centre, second - centre
    inner = first @ second.mT
    squared = first.square().sum(-1)[..., :, None] + second.square().sum(-1)[..., None, :] - 2 * inner
    return torch.exp(-(gamma or 1 / first.shape[-1]) * squared.clamp_min(0))
