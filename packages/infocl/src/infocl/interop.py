"""Losses and heads of other libraries with our regularisers, and our regularisers in other libraries' loops.

The regularisers take features and images, so that they go into any loop as they are. The other way
round, `TwoViewMethod` brings any projector and two-view criterion, lightly's for instance, into `training.train`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from infocl.methods import Method
from infocl.precision import full_precision

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Two views' projections [batch, dim] -> loss."""


class TwoViewMethod(Method):
    """Any criterion of two views with any of the regularisers; further arguments as of `Method`.

    With a predictor the criterion is taken in both directions, each prediction against the other view's projection
    without gradient, as SimSiam has it.

    Args:
        encoder: images -> pooled outputs of its stages (`taps.StageTaps` makes one of any network).
        projector: [batch, dim] -> [batch, out]; `lightly.models.modules.SimCLRProjectionHead`, for instance.
        criterion: `lightly.loss.NTXentLoss()`, for instance.
        predictor: [batch, out] -> [batch, out], or None.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        criterion: Criterion,
        *args: Any,
        predictor: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, *args, **kwargs)
        self.projector, self.criterion, self.predictor = projector, criterion, predictor

    def base(self, h: Sequence[Tensor], images: Sequence[Tensor], labels: Tensor | None) -> Tensor:  # noqa: ARG002
        """The criterion."""
        one, other = (full_precision(self.projector(each)) for each in h)
        if self.predictor is None:
            return self.criterion(one, other)
        predicted_one, predicted_other = (full_precision(self.predictor(each)) for each in (one, other))
        return (self.criterion(predicted_one, other.detach()) + self.criterion(predicted_other, one.detach())) / 2
