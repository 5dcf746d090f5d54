"""LARS as the published ImageNet runs had it, and as it is meant (7.2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Lars(torch.optim.Optimizer):
    """SGD with momentum whose steps are scaled to each parameter's norm.

    g <- grad + decay p;  q = eta |p| / |g|;  u <- momentum u + lr q g;  p <- p - u.

    Args:
        params: as of any optimiser.
        lr, momentum, weight_decay, eta: see above.
        published: apply decay and scaling to all parameters, so that one that is exactly zero never moves; else vectors
            get neither, and the factor is 1 where a norm is 0.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        eta: float = 1e-3,
        *,
        published: bool = False,
    ) -> None:
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or eta <= 0:
            raise ValueError(
                f"expected lr, decay >= 0, momentum in [0, 1), eta > 0, got {lr}, {weight_decay}, {momentum}, {eta}"
            )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "published": published}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: ARG002
        """One step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                plain = p.ndim <= 1 and not group["published"]
                g = p.grad if plain else p.grad + group["weight_decay"] * p
                ratio = g.new_ones(()) if plain else group["eta"] * p.norm() / g.norm()
                if not group["published"]:
                    ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(group["lr"] * ratio * g)
                p.sub_(buffer)
