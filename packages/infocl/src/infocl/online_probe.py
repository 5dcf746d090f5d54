"""A linear classifier that learns beside the pre-training without touching it, to watch a run."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infocl.methods import Method


class OnlineProbe(nn.Module):
    """A linear classifier that learns beside the pre-training without touching it.

    Add `loss(h, labels)` to the loss of a step and its parameters to the optimiser: the features are detached.

    Args:
        dim: of the features.
        classes: number of them.
        momentum: of the running accuracy over steps.
    """

    def __init__(self, dim: int, classes: int, momentum: float = 0.99) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False)
        self.layer = nn.Linear(dim, classes)
        self.momentum = momentum
        self.register_buffer("running_accuracy", torch.zeros(()))
        self.running_accuracy: Tensor

    def loss(self, h: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of h [batch, dim], without gradient to h; updates `running_accuracy`."""
        logits = self.layer(self.norm(h.detach().float()))
        with torch.no_grad():
            accuracy = (logits.argmax(dim=1) == labels).float().mean()
            self.running_accuracy.lerp_(accuracy, 1 - self.momentum)
        return F.cross_entropy(logits, labels)

    def forward(self, h: Tensor) -> Tensor:
        """Logits [batch, classes]."""
        return self.layer(self.norm(h.float()))


def add_online_probe(method: Method, dim: int, classes: int, momentum: float = 0.99) -> OnlineProbe:
    """Let a probe learn with a method from now on: in its optimiser, its checkpoints and its log (`online_accuracy`).

    The images that train must come with labels (`augmentation.Views` with `labels`); the method itself does not look at
    them. What the encoder learns stays the same, bit for bit.

    Args:
        method: any; its first view is probed.
        dim: of its representation.
        classes: number of labels.
        momentum: of the accuracy that is logged.
    """
    probe = OnlineProbe(dim, classes, momentum)
    method.add_module("online_probe", probe)
    seen: list[Tensor] = []

    def remember(encoder: nn.Module, _inputs: Any, stages: list[Tensor]) -> None:
        if encoder.training:
            seen.append(stages[-1].detach())

    def add_loss(model: nn.Module, _inputs: Any, named: dict[str, Any], loss: Tensor) -> Tensor | None:
        views, labels = list(seen), named.get("labels")
        seen.clear()
        if not model.training:
            return None
        if labels is None:
            raise ValueError("labels: the online probe needs some; give the images with labels")
        added = probe.loss(views[0], labels)
        method.log = {**method.log, "online_accuracy": probe.running_accuracy}
        return loss + added

    method.encoder.register_forward_hook(remember)
    method.register_forward_hook(add_loss, with_kwargs=True)
    return probe
