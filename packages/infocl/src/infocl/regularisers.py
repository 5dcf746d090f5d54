"""More information of the input in a representation: reconstruction, and the lower-bound estimate (section 3).

Both raise I(z; v), which brings back what views do not share. They take features and images of any method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BANDWIDTH = 0.05
STAGE_WEIGHTS = (0.25, 0.5, 1.0)


def lower_bound(z: Tensor, mu: Tensor, rho: float = BANDWIDTH) -> Tensor:
    """B = -mean_a ln sum_b exp(-rho |z_a - mu_b|^2), the diagonal included (LBE).

    Computed in float32 at least, through |z|^2 + |mu|^2 - 2 z mu, so that nothing larger than [rows, rows] is made.

    Args:
        z: noisy features [rows, dim].
        mu: features [rows, dim] that z is noise around.
        rho: scale of the kernel.

    Returns:
        Scalar; at most rho mean |z_a - mu_a|^2.

    Raises:
        ValueError: shapes that differ, or a `rho` that is not positive.
    """
    if z.ndim != 2 or z.shape != mu.shape:
        raise ValueError(f"z, mu: expected [rows, dim] twice, got {list(z.shape)} and {list(mu.shape)}")
    if rho <= 0:
        raise ValueError(f"rho: expected above 0, got {rho}")
    with torch.autocast(z.device.type, enabled=False):
        z, mu = (part if part.dtype == torch.float64 else part.float() for part in (z, mu))
        squared = z.square().sum(1)[:, None] + mu.square().sum(1) - 2 * z @ mu.T
        return -(-rho * squared.clamp(min=0)).logsumexp(dim=1).mean()


def information_estimate(z: Tensor, mu: Tensor, rho: float = BANDWIDTH) -> Tensor:
    """ln M + B - rho mean |z_a - mu_a|^2: an estimate of I(z; v) in nats, from below and at most ln M (eq. 13)."""
    noise = (z - mu).square().sum(dim=1).mean()
    return math.log(len(z)) + lower_bound(z, mu, rho) - rho * noise


class LowerBoundRegulariser(nn.Module):
    """R = -sum_s w_s B_s over stages of an encoder, with Gaussian noise on each stage's pooled features.

    Args:
        sigma: standard deviation of the noise.
        rho: scale of the kernel.
        weights: of the stages; 0 leaves one out, as on ImageNet (0, 0, 1).
    """

    def __init__(self, sigma: float = 0.1, rho: float = BANDWIDTH, weights: Sequence[float] = STAGE_WEIGHTS) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"sigma: expected at least 0, got {sigma}")
        self.sigma, self.rho, self.weights = sigma, rho, tuple(weights)

    def noisy(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """mu + sigma eps for each stage, fresh noise each time; the last one is what the contrastive branch gets."""
        return [mu + self.sigma * torch.randn_like(mu) for mu in stages]

    def forward(self, views: Sequence[Sequence[Tensor]], noisy_views: Sequence[Sequence[Tensor]]) -> Tensor:
        """The term of a loss.

        Args:
            views: stages [batch, dim] of each view; views are stacked to rows.
            noisy_views: the same with noise, see `noisy`.

        Raises:
            ValueError: another number of stages than of weights.
        """
        if any(len(stages) != len(self.weights) for stages in (*views, *noisy_views)):
            raise ValueError(f"views: expected {len(self.weights)} stages, one a weight, in every view")
        total = views[0][-1].new_zeros(())
        for stage, weight in enumerate(self.weights):
            if weight:
                mu, z = (torch.cat([view[stage] for view in each]) for each in (views, noisy_views))
                total = total - weight * lower_bound(z, mu, self.rho)
        return total


class ReconstructionRegulariser(nn.Module):
    """R = sum over views of the mean squared error between decoder(h) and the view itself.

    Args:
        decoder: features [batch, dim] -> images.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
        """The term of a loss; views are decoded one after the other and their errors are added."""
        pairs = list(zip(features, images, strict=True))
        return torch.stack([F.mse_loss(self.decoder(h), view) for h, view in pairs]).sum()
