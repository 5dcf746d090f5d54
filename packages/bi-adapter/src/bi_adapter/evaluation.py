"""Which test images a model gets right, and what is made of that: the published selection, and an honest one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bi_adapter.training import Draw
from sextet import cuda


@torch.no_grad()
def hits(
    model: nn.Module,
    draw: Draw,
    labels: Tensor,
    *,
    batch_size: int = 256,
    device: torch.device,
    precision: cuda.Precision = "fp32",
) -> Tensor:
    """1 for every image classified right, else 0; uint8 [n] on the CPU. Leaves the model in evaluation mode.

    Args:
        model: input -> logits [batch, classes].
        draw: makes the input of some rows, without augmentation.
        labels: [n] int64, on the CPU.
        batch_size: the result does not depend on it but for rounding.
        device: where to compute.
        precision: of the forward pass.
    """
    model.to(device).eval()
    generator = torch.Generator()
    with cuda.autocast(device, precision):
        answers = [
            model(draw(rows, generator)).argmax(-1).cpu() for rows in torch.arange(len(labels)).split(batch_size)
        ]
    return (torch.cat(answers) == labels).to(torch.uint8)


class BestOnTest:
    """The test result of the best of several evaluations, the earliest where several are equal.

    This is the published selection: ten evaluations on the test set, the best one reported. It flatters, so it is a
    protocol of its own here and never the default. It has a state dict, so that a resumed run goes on with it.

    Attributes:
        hits: uint8 [n] of the best evaluation; None before the first.
        epoch: after how many epochs that was.
    """

    def __init__(self) -> None:
        self.hits: Tensor | None = None
        self.epoch = 0

    def offer(self, hits: Tensor, epoch: int) -> None:
        """Take an evaluation if it is the best so far."""
        if self.hits is None or int(hits.sum()) > int(self.hits.sum()):
            self.hits, self.epoch = hits, epoch

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"hits": self.hits, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.hits, self.epoch = state_dict["hits"], state_dict["epoch"]


def best_scale(accuracies: Mapping[float, float]) -> float:
    """The scale with the best validation accuracy, the smallest where several are equal.

    Raises:
        ValueError: there are none.
    """
    if not accuracies:
        raise ValueError("scales: expected at least one to choose from")
    return min(accuracies, key=lambda scale: (-accuracies[scale], scale))
