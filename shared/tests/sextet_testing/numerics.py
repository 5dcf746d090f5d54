"""What all packages ask of rounding: float32 beside the naive formulation, bfloat16 beside float32."""

from __future__ import annotations

import torch


def assert_as_exact(trials, times=2.0, roundings=1):
    """Median and worst error of ours at most twice (`times`) the naive one's, up to one rounding of the result.

    Args:
        trials: (ours, naive, exact) of each seed and scale; errors count relative to the largest exact entry.
    """
    errors = torch.tensor(
        [[float((each.detach().double() - exact).abs().max() / exact.abs().max()) for each in (ours, naive)]
         for ours, naive, exact in trials]
    )  # fmt: skip
    for ours, naive in (errors.median(dim=0).values, errors.amax(dim=0)):
        # Written so that NaN fails
        assert ours <= times * naive + roundings * torch.finfo(torch.float32).eps, errors


def assert_near_full_precision(full, half, tolerance):
    """Losses [steps] of both precisions fall and end near each other; parameters stay float32 and finite."""
    for losses in (full[0], half[0]):
        quarter = max(1, len(losses) // 4)
        assert bool(losses.isfinite().all())
        assert losses[-quarter:].mean() < losses[:quarter].mean()
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in half[1].parameters())
    assert not torch.equal(full[0], half[0])
    assert float((full[0] - half[0]).abs().max() / full[0].abs().max()) < tolerance
