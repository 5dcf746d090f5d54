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

from infocl.distributed import gather
from infocl.losses import barlow_twins, byol_loss, nt_xent
from infocl.networks import head
from infocl.precision import full_precision
from infocl.regularisers import (
    Log,
    LowerBoundRegularizer,
    ReconstructionRegularizer,
    Stages,
    ViewDistanceRegularizer,
    feature_statistics,
)

Regularizer = Literal["none", "noise", "rc", "lbe", "ip", "mib"]
REGULARIZERS = ("none", "noise", "rc", "lbe", "ip", "mib")


class Method(nn.Module):
    """What all methods share: encoder, views, and the regularising term.

    Args:
        encoder: images -> pooled outputs of its stages, the last one being the representation.
        regulariser: `none`; `noise`, on the features of the contrastive branch alone (the paper's dagger); `rc`, needs
            a decoder; `lbe`; and, with SimCLR in the paper, `ip` (inverse predictive loss) and `mib` (multi-view
            information bottleneck).
        weight: lambda of the term.
        decoder: for `rc`.
        lower_bound: settings of `lbe`; its sigma is also the noise of `noise` and `mib`.

    Attributes:
        log: what the latest call measured, without gradient: `base`, `regulariser` and the regulariser's own log.

    Raises:
        ValueError: an unknown regulariser, or `rc` without a decoder.
    """

    views = 2
    """How many views a step has."""

    def __init__(
        self,
        encoder: nn.Module,
        regulariser: Regularizer = "none",
        weight: float = 1.0,
        *,
        decoder: nn.Module | None = None,
        lower_bound: LowerBoundRegularizer | None = None,
    ) -> None:
        super().__init__()
        if regulariser not in REGULARIZERS:
            raise ValueError(f"regulariser: expected one of {', '.join(REGULARIZERS)}, got {regulariser!r}")
        if (regulariser == "rc") != (decoder is not None):
            raise ValueError("decoder: needed by the regulariser rc, and by no other")
        self.encoder, self.decoder = encoder, decoder
        self.regulariser, self.weight = regulariser, weight
        self.lower_bound = lower_bound or LowerBoundRegularizer()
        self.log: Log = {}

    @property
    def stochastic(self) -> bool:
        """Whether the contrastive branch gets noisy features."""
        return self.regulariser in ("noise", "lbe", "mib")

    def term(self, views: Sequence[Stages], noisy: Sequence[Stages], images: Sequence[Tensor]) -> tuple[Tensor, Log]:
        """R and its log."""
        if self.regulariser == "rc":
            assert self.decoder is not None
            return ReconstructionRegularizer(self.decoder)([stages[-1] for stages in views], images)
        if self.regulariser == "lbe":
            return self.lower_bound(views, noisy)
        if self.regulariser in ("ip", "mib"):
            return ViewDistanceRegularizer()(views)
        return views[0][-1].new_zeros(()), feature_statistics(torch.cat([stages[-1] for stages in views]))

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """The method's own loss of the representations [batch, dim] of each view."""
        raise NotImplementedError

    def forward(self, *images: Tensor, labels: Tensor | None = None, noise: Sequence[Stages] | None = None) -> Tensor:
        """The loss of one or two views [batch, channels, h, w].

        Args:
            images: the views.
            labels: [batch], for supervised training.
            noise: for tests and for reproducing a step: what is added to each stage of each view; drawn by default.

        Raises:
            ValueError: another number of views than `views`, fewer than two images, views that do not fit each other,
                an encoder that gives no stages, features that are not finite.
        """
        check_views(images, self.views)
        views = [stages_of(self.encoder, view) for view in images]
        noisy: list[list[Tensor]] = views
        if self.stochastic:
            if noise is None:
                noisy = [self.lower_bound.noisy(stages) for stages in views]
            else:
                noisy = [[mu + eps for mu, eps in zip(*pair, strict=True)] for pair in zip(views, noise, strict=True)]
        base = self.base([stages[-1] for stages in noisy], images, labels)
        term, log = self.term(views, noisy, images)
        self.log = {"base": base.detach(), "regulariser": term.detach(), **log}
        return base + self.weight * term

    def after_step(self, epoch: int, epochs: int) -> None:
        """Called after each optimiser step, with the 0-based epoch it belongs to; nothing to do by default."""


def check_views(images: Sequence[Tensor], count: int) -> None:
    """Raise ValueError unless there are `count` views of as many images, at least two, each."""
    if len(images) != count:
        raise ValueError(f"views: expected {count}, got {len(images)}")
    if len({len(view) for view in images}) != 1:
        raise ValueError(f"views: expected as many images in each, got {[len(view) for view in images]}")
    if len(images[0]) < 2:
        raise ValueError("views: expected at least two images in a batch, got one, which has nothing to differ from")


def stages_of(encoder: nn.Module, view: Tensor) -> list[Tensor]:
    """Pooled outputs of an encoder's stages [batch, channels], in float32 at least.

    Raises:
        ValueError: the encoder gives something else than a list of [batch, channels].
    """
    stages = encoder(view)
    if isinstance(stages, Tensor) or not all(isinstance(stage, Tensor) and stage.ndim == 2 for stage in stages):
        found = f"one tensor {list(stages.shape)}" if isinstance(stages, Tensor) else type(stages).__name__
        raise ValueError(
            f"encoder: expected a list of its stages' pooled outputs [batch, channels], got {found}; wrap it as "
            "StageTaps(encoder, ['layer2', 'layer3', 'layer4']) with the names of its own stages"
        )
    return [full_precision(stage) for stage in stages]


class SimClr(Method):
    """NT-Xent on a projector of two linear layers; further arguments as of `Method`."""

    def __init__(
        self, encoder: nn.Module, dim: int, *args: Any, out: int = 128, temperature: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(encoder, *args, **kwargs)
        self.projector, self.temperature = head(dim, dim, out, norm=False), temperature

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor], labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """NT-Xent."""
        one, other = (gather(self.projector(each)) for each in h)
        return nt_xent(one, other, self.temperature)


class BarlowTwins(Method):
    """Decorrelation of projections normalised to length 1; further arguments as of `Method`."""

    def __init__(
        self, encoder: nn.Module, dim: int, *args: Any, out: int = 1024, off_diagonal: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(encoder, *args, **kwargs)
        self.projector, self.off_diagonal = head(dim, dim, out, norm=True), off_diagonal

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor], labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """The Barlow Twins criterion."""
        one, other = (gather(F.normalize(full_precision(self.projector(each)), dim=1)) for each in h)
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

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor], labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """Both directions."""
        one, other = (self.predictor(self.projector(each)) for each in h)
        with torch.no_grad():
            target_one, target_other = (self.target_projector(stages_of(self.target_encoder, v)[-1]) for v in images)
        return byol_loss(one, other, target_one, target_other)

    def after_step(self, epoch: int, epochs: int) -> None:
        """Move the target, by the published schedule."""
        self.update_target(target_momentum(epoch, epochs))

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

    views = 1

    def __init__(self, encoder: nn.Module, dim: int, classes: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(encoder, *args, **kwargs)
        self.predictor = nn.Linear(dim, classes)

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor], labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """Cross-entropy."""
        if labels is None:
            raise ValueError("labels: supervised training needs some; call `model(images, labels=labels)`")
        return F.cross_entropy(full_precision(self.predictor(h[0])), labels)
