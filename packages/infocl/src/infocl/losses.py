"""Losses of the base methods (section 4); they differ from the original papers where the text says so.

All are computed in float32 at least, whatever the run's precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from infocl.precision import exact_products, full_precision


def nt_xent(z_i: Tensor, z_j: Tensor, temperature: float = 0.5) -> Tensor:
    """SimCLR: cross-entropy of the other view among all 2B - 1 others, cosine similarities over the temperature.

    Args:
        z_i, z_j: projections [batch, dim] of two views.
        temperature: above 0.
    """
    check_pair(z_i, z_j)
    if temperature <= 0:
        raise ValueError(f"temperature: expected above 0, got {temperature}")
    with exact_products(z_i.device):
        z = F.normalize(full_precision(torch.cat([z_i, z_j])), dim=1)
        similarity = z @ z.T / temperature
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        other_view = torch.arange(len(z), device=z.device).roll(len(z_i))
        return F.cross_entropy(similarity.masked_fill(itself, float("-inf")), other_view)


def byol_regression(prediction: Tensor, target: Tensor) -> Tensor:
    """2 - 2 cos, [batch], of [batch, dim] each."""
    check_pair(prediction, target)
    return 2 - 2 * F.cosine_similarity(full_precision(prediction), full_precision(target), dim=1)


def byol_loss(prediction_i: Tensor, prediction_j: Tensor, target_i: Tensor, target_j: Tensor) -> Tensor:
    """Both directions summed, in 0..8: each prediction against the other view's target."""
    return (byol_regression(prediction_i, target_j) + byol_regression(prediction_j, target_i)).mean()


def cross_correlation(z_i: Tensor, z_j: Tensor) -> Tensor:
    """Z_i^T Z_j / B of columns standardised by their unbiased deviation, [dim, dim]; at most (B - 1) / B.

    A column that is constant over the batch gives NaN, as published.
    """
    check_pair(z_i, z_j)
    with exact_products(z_i.device):
        one, other = ((z - z.mean(dim=0)) / z.std(dim=0) for z in map(full_precision, (z_i, z_j)))
        return one.T @ other / len(one)


def barlow_twins(z_i: Tensor, z_j: Tensor, off_diagonal: float = 0.01) -> Tensor:
    """sum_k (C_kk - 1)^2 + off_diagonal sum_{k != l} C_kl^2.

    The published method normalises every row to length 1 before; see `methods.BarlowTwins`.
    """
    correlation = cross_correlation(z_i, z_j)
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum() + off_diagonal * others


def check_pair(one: Tensor, other: Tensor) -> None:
    """Raise ValueError unless both are [batch, dim]."""
    if one.ndim != 2 or one.shape != other.shape:
        raise ValueError(f"views: expected [batch, dim] twice, got {list(one.shape)} and {list(other.shape)}")
