"""SimCLR, BYOL, Barlow Twins and supervised training with a regulariser each (sections 3 and 4).

L = L_base + weight R. Views go through every network one after the other, so that batch statistics are each view's own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infocl.losses import barlow_twins, byol_loss, nt_xent
from infocl.networks import head
from infocl.regularisers import LowerBoundRegulariser, ReconstructionRegulariser

Regulariser = Literal["none", "rc", "lbe", "ip", "mib"]
Stages = list[Tensor]


class Method(nn.Module):
    """What all methods share: encoder, views, and the regularising term.

    Args:
        encoder: images -> pooled outputs of its stages, the last one being the representation.
        regulariser: `none`; `rc`, needs a decoder; `lbe`; and, with SimCLR in the paper, `ip` (inverse predictive
            loss) and `mib` (multi-view information bottleneck).
        weight: lambda of the term.
        decoder: for `rc`.
        lower_bound: settings of `lbe`; its sigma is also the noise of `mib`.

    Raises:
        ValueError: an unknown regulariser, or `rc` without a decoder.
    """

    def __init__(
        self,
        encoder: nn.Module,
        regulariser: Regulariser = "none",
        weight: float = 1.0,
        *,
        decoder: nn.Module | None = None,
        lower_bound: LowerBoundRegulariser | None = None,
    ) -> None:
        super().__init__()
        if regulariser not in ("none", "rc", "lbe", "ip", "mib"):
            raise ValueError(f"regulariser: expected none, rc, lbe, ip or mib, got {regulariser!r}")
        if (regulariser == "rc") != (decoder is not None):
            raise ValueError("decoder: needed by the regulariser rc, and by no other")
        self.encoder, self.decoder = encoder, decoder
        self.regulariser, self.weight = regulariser, weight
        self.lower_bound = lower_bound or LowerBoundRegulariser()

    @property
    def stochastic(self) -> bool:
        """Whether the contrastive branch gets noisy features."""
        return self.regulariser in ("lbe", "mib")

    def term(self, views: Sequence[Stages], noisy: Sequence[Stages], images: Sequence[Tensor]) -> Tensor:
        """R."""
        if self.regulariser == "rc":
            assert self.decoder is not None
            return ReconstructionRegulariser(self.decoder)([stages[-1] for stages in views], images)
        if self.regulariser == "lbe":
            return self.lower_bound(views, noisy)
        if self.regulariser in ("ip", "mib"):
            return F.mse_loss(views[0][-1], views[1][-1])
        return views[0][-1].new_zeros(())

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
        """The method's own loss of the representations [batch, dim] of each view."""
        raise NotImplementedError

    def forward(self, *images: Tensor, noise: Sequence[Stages] | None = None) -> Tensor:
        """The loss of one or two views [batch, 3, h, w].

        Args:
            images: the views.
            noise: for tests and for reproducing a step: what is added to each stage of each view; drawn by default.
        """
        views: list[Stages] = [self.encoder(view) for view in images]
        noisy = views
        if self.stochastic:
            if noise is None:
                noisy = [self.lower_bound.noisy(stages) for stages in views]
            else:
                noisy = [[mu + eps for mu, eps in zip(*pair, strict=True)] for pair in zip(views, noise, strict=True)]
        loss = self.base([stages[-1] for stages in noisy], images)
        return loss + self.weight * self.term(views, noisy, images) if self.regulariser != "none" else loss


class SimClr(Method):
    """NT-Xent on a projector of two linear layers; further arguments as of `Method`."""

    def __init__(
        self, encoder: nn.Module, dim: int, *args: Any, out: int = 128, temperature: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(encoder, *args, **kwargs)
        self.projector, self.temperature = head(dim, dim, out, norm=False), temperature

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """NT-Xent."""
        one, other = (self.projector(each) for each in h)
        return nt_xent(one, other, self.temperature)


class BarlowTwins(Method):
    """Decorrelation of projections normalised to length 1; further arguments as of `Method`."""

    def __init__(
        self, encoder: nn.Module, dim: int, *args: Any, out: int = 1024, off_diagonal: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(encoder, *args, **kwargs)
        self.projector, self.off_diagonal = head(dim, dim, out, norm=True), off_diagonal

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """The Barlow Twins criterion."""
        one, other = (F.normalize(self.projector(each), dim=1) for each in h)
        return barlow_twins(one, other, self.off_diagonal)


class Byol(Method):
    """Prediction of a slowly moving target network; further arguments as of `Method`.

    After each optimiser step call `update_target`. The target sees clean features, in training mode with statistics of
    its own; only parameters are averaged.
    """

    def __init__(self, encoder: nn.Module, dim: int, *args: Any, out: int = 128, **kwargs: Any) -> None:
        super().__init__(encoder, *args, **kwargs)
        self.projector, self.predictor = head(dim, dim, out, norm=True), head(out, out, out, norm=True)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
        """Both directions."""
        one, other = (self.predictor(self.projector(each)) for each in h)
        with torch.no_grad():
            target_one, target_other = (self.target_projector(self.target_encoder(view)[-1]) for view in images)
        return byol_loss(one, other, target_one, target_other)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """theta_t <- m theta_t + (1 - m) theta_o."""
        for target, online in (
            (self.target_encoder, self.encoder), (self.target_projector, self.projector)
        ):  # fmt: skip
            for old, new in zip(target.parameters(), online.parameters(), strict=True):
                old.mul_(momentum).add_(new, alpha=1 - momentum)


def target_momentum(epoch: float, epochs: int, start: float = 0.996) -> float:
    """m = 1 - (1 - start) (cos(pi epoch / epochs) + 1) / 2."""
    return 1 - (1 - start) * (math.cos(math.pi * epoch / epochs) + 1) / 2


class Supervised(Method):
    """Cross-entropy of a linear classifier on one view; further arguments as of `Method`."""

    def __init__(self, encoder: nn.Module, dim: int, classes: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(encoder, *args, **kwargs)
        self.predictor = nn.Linear(dim, classes)
        self.labels: Tensor | None = None

    def loss(self, images: Tensor, labels: Tensor, noise: Stages | None = None) -> Tensor:
        """The loss of images [batch, 3, h, w] with labels [batch]."""
        self.labels = labels
        try:
            return self(images, noise=None if noise is None else [noise])
        finally:
            self.labels = None

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """Cross-entropy."""
        if self.labels is None:
            raise ValueError("labels: supervised training needs some; call `loss(images, labels)`")
        return F.cross_entropy(self.predictor(h[0]), self.labels)
