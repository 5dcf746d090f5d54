"""Keeping the weights that validate best, as a part of a resumable run's state."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Selection:
    """The weights of the epoch with the best score so far; the earlier one where two are equal.

    It has a state dict, so that `sextet.training.Training` saves it with the network it selects from.

    Attributes:
        score: the best one; None before the first.
        epoch: its 0-based epoch.
        weights: copies on the CPU.
    """

    def __init__(self) -> None:
        self.score: float | None = None
        self.epoch = -1
        self.weights: dict[str, Any] = {}

    def offer(self, network: nn.Module, score: float, epoch: int) -> None:
        """Take the network's weights if the score is the best so far."""
        if self.score is not None and score <= self.score:
            return
        self.score, self.epoch = score, epoch
        self.weights = {
            name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
            for name, value in network.state_dict().items()
        }

    def restore(self, network: nn.Module) -> None:
        """Put the best weights into the network.

        Raises:
            ValueError: nothing was offered yet.
        """
        if self.score is None:
            raise ValueError("no epoch was validated yet, so there are no best weights")
        network.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"score": self.score, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.score, self.epoch, self.weights = state_dict["score"], state_dict["epoch"], state_dict["weights"]
