"""Closed-form leave-one-out errors of LS-SVM and ridge regression, and the ridge they choose.

For f fitted by A beta = T with A = K + bias J + ridge I, the residual of row i under the fit without it is

    t_i - f^(-i)(x_i) = beta_i / (A^{-1})_ii.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fslstm.validation import check_episode, class_membership, in_full_precision


@in_full_precision
def leave_one_out_residuals(
    support: Tensor,
    support_labels: Tensor,
    n_way: int,
    *,
    ridge: float | Sequence[float] | Tensor = 0.1,
    bias: float = 0.5,
    mask: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    """Residuals of each support row under the one-vs-all LS-SVM fitted without it.

    Args:
        support, support_labels, n_way, mask, validate: as in `fslstm.heads`.
        ridge: one value or G of them; one eigendecomposition serves all.
        bias: coefficient of the all-ones matrix; 0 for ridge regression (on targets +-1, so twice its residuals).

    Returns:
        target minus prediction, `[B, G, n, n_way]` on targets of +-1; zero in padded rows.
    """
    check_episode(None, support, support_labels, n_way, mask, validate=validate)
    ridges = torch.as_tensor(ridge, dtype=support.dtype, device=support.device).reshape(-1)
    if not isinstance(ridge, Tensor) and not bool((ridges > 0).all()):
        raise ValueError(f"ridge: expected positive numbers, got {ridges.tolist()}")
    real = support.new_ones(support.shape[:2]) if mask is None else mask.to(support.dtype)
    targets = (2 * class_membership(support_labels, n_way, mask, support.dtype) - 1) * real[..., None]
    padded = support if mask is None else support.masked_fill(~mask[..., None], 0)
    values, vectors = torch.linalg.eigh(padded @ padded.mT + bias * real[:, :, None] * real[:, None])
    # [B, G, n]: eigenvalues of A^{-1}
    inverse = 1 / (values.clamp_min(0)[:, None] + ridges[:, None])
    beta = torch.einsum("bij,bgj,bjw->bgiw", vectors, inverse, vectors.mT @ targets)
    diagonal = torch.einsum("bij,bgj->bgi", vectors.square(), inverse)
    return beta / diagonal[..., None]


def leave_one_out_ridge(
    support: Tensor,
    support_labels: Tensor,
    n_way: int,
    *,
    grid: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 50.0, 100.0, 1000.0),
    bias: float = 0.5,
    mask: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    """The ridge of each episode with the smallest squared leave-one-out error out of a grid, `[B]`.

    Hand it on as `ls_svm(..., ridge=...)`. With one row a class the left-out class has no row of its own, so the choice
    means little at 1-shot. Arguments as in `leave_one_out_residuals`; raises ValueError for an empty grid.
    """
    if not len(grid):
        raise ValueError("grid: expected at least one ridge, got none")
    residuals = leave_one_out_residuals(
        support, support_labels, n_way, ridge=grid, bias=bias, mask=mask, validate=validate
    )
    best = residuals.square().sum(dim=(2, 3)).argmin(dim=1)
    return torch.as_tensor(grid, dtype=residuals.dtype, device=residuals.device)[best]
