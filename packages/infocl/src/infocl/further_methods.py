"""MoCo v2, SimSiam and VICReg through the interface of `methods.Method`; the paper does not use them.

Both views pass the online encoder, since the regularisers want the features of both; MoCo's loss is therefore taken in
both directions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infocl.distributed import gather
from infocl.losses import check_pair
from infocl.methods import Method, stages_of
from infocl.networks import head
from infocl.precision import exact_products, full_precision


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """Cross-entropy of each query's own key among that key and the queue; rows are normalised to length 1 (MoCo).

    Args:
        query, key: [batch, dim].
        queue: negatives [n, dim].
        temperature: above 0.
    """
    check_pair(query, key)
    with exact_products(query.device):
        query, key, queue = (F.normalize(full_precision(rows), dim=1) for rows in (query, key, queue))
        logits = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ queue.T], dim=1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


class MoCo(Method):
    """MoCo v2 with a loss in both directions; further arguments as of `Method`.

    The key encoder follows the online one by `momentum` after each step; keys of all processes join the queue.

    Args:
        out: dimension of the projections.
        queue_size: how many keys serve as negatives.
        momentum, temperature: of the key encoder, of the loss.
    """

    queue: Tensor
    position: Tensor

    def __init__(
        self, encoder: nn.Module, dim: int, *args: Any, out: int = 128, queue_size: int = 65536,
        momentum: float = 0.999, temperature: float = 0.2, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(encoder, *args, **kwargs)
        if queue_size < 1 or not 0 <= momentum <= 1:
            raise ValueError(f"expected queue_size >= 1 and momentum in 0..1, got {queue_size} and {momentum}")
        self.projector = head(dim, dim, out, norm=False)
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.momentum, self.temperature = momentum, temperature
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, out), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor], labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """Both directions, averaged; in training the keys then join the queue."""
        one, other = (self.projector(each) for each in h)
        with torch.no_grad():
            keys = [self.key_projector(stages_of(self.key_encoder, view)[-1]) for view in images]
        negatives = self.queue.clone()
        loss = (
            info_nce(one, keys[1], negatives, self.temperature) + info_nce(other, keys[0], negatives, self.temperature)
        ) / 2
        if self.training:
            self.enqueue(torch.cat([gather(key) for key in keys]))
        return loss

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put keys [n, out] in the place of the oldest ones."""
        keys = F.normalize(full_precision(keys), dim=1)[-len(self.queue) :].to(self.queue.dtype)
        places = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[places] = keys
        self.position.copy_((self.position + len(keys)) % len(self.queue))

    @torch.no_grad()
    def after_step(self, epoch: int, epochs: int) -> None:  # noqa: ARG002
        """theta_k <- m theta_k + (1 - m) theta_q."""
        pairs = (self.key_encoder, self.encoder), (self.key_projector, self.projector)
        for target, online in pairs:
            for old, new in zip(target.parameters(), online.parameters(), strict=True):
                old.lerp_(new, 1 - self.momentum)


class SimSiam(Method):
    """Prediction of the other view's projection, without gradient through it; further arguments as of `Method`.

    Args:
        out: dimension of the projections; the predictor is a quarter as wide.
    """

    def __init__(self, encoder: nn.Module, dim: int, *args: Any, out: int = 2048, **kwargs: Any) -> None:
        super().__init__(encoder, *args, **kwargs)
        hidden = [
            nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(),
            nn.Linear(dim, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(),
        ]  # fmt: skip
        self.projector = nn.Sequential(*hidden, nn.Linear(dim, out, bias=False), nn.BatchNorm1d(out, affine=False))
        self.predictor = head(out, max(out // 4, 1), out, norm=True)

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor], labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """-(cos(p_i, z_j) + cos(p_j, z_i)) / 2, in -1..1."""
        one, other = (full_precision(self.projector(each)) for each in h)
        predicted = [full_precision(self.predictor(z)) for z in (one, other)]
        both = F.cosine_similarity(predicted[0], other.detach(), dim=1) + F.cosine_similarity(
            predicted[1], one.detach()
        )
        return -both.mean() / 2


def vicreg(
    z_i: Tensor, z_j: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Tensor:
    """Weighted sum of three terms of [batch, dim] each.

    Invariance: mean squared difference. Variance: how far each column's deviation, sqrt(var + 1e-4), stays below 1,
    mean over columns and views. Covariance: squared off-diagonal covariances over dim, both views added.
    """
    check_pair(z_i, z_j)
    with exact_products(z_i.device):
        z_i, z_j = full_precision(z_i), full_precision(z_j)
        hinges, covariances = [], []
        for z in (z_i, z_j):
            hinges.append(F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean())
            matrix = (z - z.mean(dim=0)).T @ (z - z.mean(dim=0)) / (len(z) - 1)
            covariances.append((matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1])
        spread, overlap = sum(hinges) / 2, sum(covariances)
        return invariance * F.mse_loss(z_i, z_j) + variance * spread + covariance * overlap


class VicReg(Method):
    """Variance, invariance and covariance of an expander's output; further arguments as of `Method`.

    Args:
        out: width of the expander's three layers.
        weights: of invariance, variance, covariance.
    """

    def __init__(
        self, encoder: nn.Module, dim: int, *args: Any, out: int = 8192,
        weights: tuple[float, float, float] = (25.0, 25.0, 1.0), **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(encoder, *args, **kwargs)
        layers = [nn.Linear(dim, out), nn.BatchNorm1d(out), nn.ReLU(), nn.Linear(out, out), nn.BatchNorm1d(out)]
        self.projector, self.weights = nn.Sequential(*layers, nn.ReLU(), nn.Linear(out, out, bias=False)), weights

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor], labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """The VICReg criterion over the rows of all processes."""
        one, other = (gather(self.projector(each)) for each in h)
        return vicreg(one, other, *self.weights)
