"""More information of the input in a representation: reconstruction, and the lower-bound estimate (section 3).

Plug-ins for any framework: they take features (and images) and return a term to add to a loss, times lambda, and a log.
Reconstruction and lower bound raise I(z; v), which brings back what views do not share; the baselines of 3.3 remove it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infocl.distributed import gather as gather_rows
from infocl.precision import exact_products, full_precision

KERNEL_SCALE = 0.05
STAGE_WEIGHTS = (0.25, 0.5, 1.0)
MEDIAN_ROWS = 512

Log = dict[str, Tensor]
"""What a regulariser measured on the way: scalars without gradient, by name."""

Stages = Sequence[Tensor]
"""Pooled outputs [batch, channels] of an encoder's stages for one view, the representation last."""


def lower_bound(z: Tensor, mu: Tensor, rho: float | Tensor = KERNEL_SCALE) -> Tensor:
    """B = -mean_a ln sum_b exp(-rho |z_a - mu_b|^2), the diagonal included (LBE, 3.2).

    Computed in float32 at least, through |z|^2 + |mu|^2 - 2 z mu: nothing larger than [rows, rows] is made. What
    that form loses to rounding is won back where it matters: rows are centred first, and the diagonal is exact.

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
    if not isinstance(rho, Tensor) and rho <= 0:
        raise ValueError(f"rho: expected above 0, got {rho}")
    with exact_products(z.device):
        z, mu = full_precision(z), full_precision(mu)
        centre = mu.detach().mean(dim=0)
        z, mu = z - centre, mu - centre
        # [rows, rows], minus the squared distances times rho
        logits = 2 * rho * (z @ mu.T) - rho * mu.square().sum(1)
        logits = logits - rho * z.square().sum(1)[:, None]
        logits = logits.diagonal_scatter(-rho * (z - mu).square().sum(1))
        return -logits.logsumexp(dim=1).mean()


def information_estimate(z: Tensor, mu: Tensor, rho: float | Tensor = KERNEL_SCALE) -> Tensor:
    """ln M + B - rho mean |z_a - mu_a|^2: an estimate of I(z; v) in nats, from below and at most ln M (eq. 13)."""
    return information(lower_bound(z, mu, rho), z, mu, rho)


def information(bound: Tensor, z: Tensor, mu: Tensor, rho: float | Tensor) -> Tensor:
    """The same from a bound that is known already."""
    return math.log(len(z)) + bound - rho * (full_precision(z) - full_precision(mu)).square().sum(dim=1).mean()


def scale_of_bandwidth(bandwidth: float) -> float:
    """rho of a Gaussian kernel exp(-distance^2 / (2 bandwidth^2)); the published 0.05 is a bandwidth of sqrt(10)."""
    if bandwidth <= 0:
        raise ValueError(f"bandwidth: expected above 0, got {bandwidth}")
    return 1 / (2 * bandwidth**2)


@torch.no_grad()
def median_scale(mu: Tensor) -> Tensor:
    """rho whose bandwidth is the median distance of rows [rows, dim], at most `MEDIAN_ROWS` of them."""
    distances = torch.pdist(full_precision(mu[:MEDIAN_ROWS]))
    return 1 / (2 * distances.median().square().clamp(min=1e-12))


@torch.no_grad()
def feature_statistics(h: Tensor) -> Log:
    """Mean `norm` of rows [rows, dim], and their `participation_ratio`: how many directions they use, 1..dim.

    The latter is (tr C)^2 / tr C^2 of the covariance C.
    """
    h = full_precision(h)
    centred = h - h.mean(dim=0)
    gram = centred.T @ centred if h.shape[1] < len(h) else centred @ centred.T
    ratio = gram.trace().square() / gram.square().sum().clamp(min=torch.finfo(h.dtype).tiny)
    return {"norm": h.norm(dim=1).mean(), "participation_ratio": ratio}


class LowerBoundRegularizer(nn.Module):
    """LBE: R = -sum_s w_s B_s over stages of an encoder, with Gaussian noise on each stage's pooled features (3.2).

    Args:
        sigma: standard deviation of the noise.
        rho: scale of the kernel (see `scale_of_bandwidth`), or `median` to follow the median distance of the features.
        weights: of the stages; 0 leaves one out, as on ImageNet (0, 0, 1).
        relative: sigma counts in units of each stage's own spread instead (root mean square deviation, no gradient).
        normalise: work on rows of length 1, so that the term cannot inflate the features.
        gather: in distributed training, take the rows of all processes together.
    """

    def __init__(
        self,
        sigma: float = 0.1,
        rho: float | Literal["median"] = KERNEL_SCALE,
        weights: Sequence[float] = STAGE_WEIGHTS,
        *,
        relative: bool = False,
        normalise: bool = False,
        gather: bool = True,
    ) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"sigma: expected at least 0, got {sigma}")
        if (isinstance(rho, str) and rho != "median") or (not isinstance(rho, str) and rho <= 0):
            raise ValueError(f"rho: expected above 0 or 'median', got {rho!r}")
        if not any(weights):
            raise ValueError("weights: expected at least one stage with a weight other than 0")
        self.sigma, self.rho, self.weights = sigma, rho, tuple(weights)
        self.relative, self.normalise, self.gather = relative, normalise, gather

    def noisy(self, stages: Stages) -> list[Tensor]:
        """mu + sigma eps for each stage, fresh noise each time; the last one is what the contrastive branch gets."""
        if self.sigma == 0:
            return list(stages)
        return [mu + self.sigma * self._unit(mu) * torch.randn_like(mu) for mu in stages]

    def _unit(self, mu: Tensor) -> float | Tensor:
        return (mu.detach() - mu.detach().mean(dim=0)).square().mean().sqrt() if self.relative else 1.0

    def forward(self, views: Sequence[Stages], noisy_views: Sequence[Stages]) -> tuple[Tensor, Log]:
        """The term and its log: `information_<stage>` in nats, `norm` and `participation_ratio` of the last stage.

        Args:
            views: stages [batch, channels] of each view; views are stacked to rows.
            noisy_views: the same with noise, see `noisy`.

        Raises:
            ValueError: another number of stages than of weights; NaN or infinite features (on a GPU, which would have
                to be waited for, the term becomes NaN instead).
        """
        if any(len(stages) != len(self.weights) for stages in (*views, *noisy_views)):
            raise ValueError(f"views: expected {len(self.weights)} stages, one a weight, in every view")
        total, log = views[0][-1].new_zeros(()), {}
        for stage, weight in enumerate(self.weights):
            if weight:
                mu, z = (self._rows([view[stage] for view in each]) for each in (views, noisy_views))
                rho = median_scale(mu) if isinstance(self.rho, str) else self.rho
                bound = lower_bound(z, mu, rho)
                check_finite(bound, f"features of stage {stage}")
                total = total - weight * bound
                log[f"information_{stage}"] = information(bound, z, mu, rho).detach()
        return total, log | feature_statistics(torch.cat([view[-1] for view in views]))

    def _rows(self, parts: Sequence[Tensor]) -> Tensor:
        rows = torch.cat(list(parts))
        rows = F.normalize(rows, dim=1) if self.normalise else rows
        return gather_rows(rows) if self.gather else rows


class ReconstructionRegularizer(nn.Module):
    """RC: R = sum over views of the mean error between decoder(h) and the view itself (3.1).

    Args:
        decoder: features [batch, dim] -> images.
        likelihood: of pixels given features: `gaussian`, the squared error, as published; `laplace`, the absolute one;
            `bernoulli`, the cross-entropy of logits, for images in 0..1.
    """

    def __init__(
        self, decoder: nn.Module, likelihood: Literal["gaussian", "laplace", "bernoulli"] = "gaussian"
    ) -> None:
        super().__init__()
        errors = {"gaussian": F.mse_loss, "laplace": F.l1_loss, "bernoulli": F.binary_cross_entropy_with_logits}
        if likelihood not in errors:
            raise ValueError(f"likelihood: expected one of {', '.join(errors)}, got {likelihood!r}")
        self.decoder, self.error = decoder, errors[likelihood]

    def forward(self, features: Sequence[Tensor], images: Sequence[Tensor]) -> tuple[Tensor, Log]:
        """The term and its log; views are decoded one after the other and their errors are added.

        Args:
            features: representations [batch, dim] of each view.
            images: what to reconstruct, the augmented, normalised view as published, or another image of that size.

        Returns:
            The term, and `reconstruction` (mean error of a view), `information` in nats, `norm`,
            `participation_ratio`. The information is what a Gaussian of the decoder's squared error knows of a view
            more than one of the pixels' own variance: pixels / 2 ln(variance / error), an estimate and no bound.

        Raises:
            ValueError: an image of another shape than the decoder's; NaN or infinite features (see `LowerBound...`).
        """
        errors, informations = [], []
        for h, image in zip(features, images, strict=True):
            decoded = full_precision(self.decoder(h))
            if decoded.shape != image.shape:
                raise ValueError(f"images: expected {list(decoded.shape)}, as decoded, got {list(image.shape)}")
            errors.append(self.error(decoded, image))
            with torch.no_grad():
                ratio = image.var(dim=0, unbiased=False).mean() / F.mse_loss(decoded, image)
                informations.append(image[0].numel() / 2 * ratio.log())
        total = torch.stack(errors).sum()
        check_finite(total, "features")
        log = {"reconstruction": total.detach() / len(errors), "information": torch.stack(informations).mean()}
        return total, log | feature_statistics(torch.cat(list(features)))


class ViewDistanceRegularizer(nn.Module):
    """What removes information that views do not share (3.3): R = MSE of the two views' representations.

    Args:
        sigma: noise on the features that the contrastive branch gets: 0 for IP (inverse predictive loss), 0.1 for MIB
            (multi-view information bottleneck with fixed variances).
    """

    def __init__(self, sigma: float = 0.0) -> None:
        super().__init__()
        self.noise = LowerBoundRegularizer(sigma)

    def noisy(self, stages: Stages) -> list[Tensor]:
        """Features for the contrastive branch."""
        return self.noise.noisy(stages)

    def forward(self, views: Sequence[Stages]) -> tuple[Tensor, Log]:
        """The term of noise-free stages of two views, and `norm` and `participation_ratio`.

        Raises:
            ValueError: not two views; NaN or infinite features (see `LowerBoundRegularizer`).
        """
        if len(views) != 2:
            raise ValueError(f"views: expected two, got {len(views)}")
        total = F.mse_loss(views[0][-1], views[1][-1])
        check_finite(total, "features")
        return total, feature_statistics(torch.cat([view[-1] for view in views]))


def check_finite(value: Tensor, name: str) -> None:
    """Raise ValueError for a scalar that is not finite, where looking at it costs nothing (not on a GPU)."""
    if value.device.type == "cpu" and not bool(torch.isfinite(value)):
        raise ValueError(
            f"{name}: expected finite numbers, got {float(value.detach())}; lower the learning rate or the weight"
        )
