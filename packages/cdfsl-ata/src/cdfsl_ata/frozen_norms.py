"""A cheaper inner loop: in the ascent, batch normalisation by running statistics is a constant affine map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cdfsl_ata.encoders import FeatureWiseTransform

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FrozenNorms(nn.Module):
    """A learner for `AdversarialTaskAugmenter` whose pixel gradients cost less; they are the same up to rounding.

    y = (x - mean) / sqrt(var + eps) w + b is x s + t with constants s and t once the mode is evaluation. The library's
    kernel computes the sums for the gradients of w and b in the backward pass all the same; this does not. Weights are
    shared with the learner and read at every call. Normalisations without running statistics, or in training mode, are
    left as they are; so are subclasses of batch normalisation other than this package's, whose forward may do more. Not
    for compiled learners: a compiler fuses the normalisation itself.

        augment = AdversarialTaskAugmenter(FrozenNorms(learner), ...)

    Args:
        learner: images of an episode -> its loss; `features`, where it has them, serve regularisers.
    """

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, images: Tensor) -> Tensor:
        """The learner's loss of images [n_way, n_support + n_query, channels, h, w]."""
        with frozen_norms(self.learner):
            return self.learner(images)

    def features(self, images: Tensor) -> Tensor:
        """The learner's features, [n_images, dim]."""
        with frozen_norms(self.learner):
            return self.learner.features(images)  # pyright: ignore[reportCallIssue]


@contextmanager
def frozen_norms(model: nn.Module) -> Iterator[None]:
    """Inside, every batch normalisation in evaluation mode with running statistics applies its constant affine map.

    No gradient reaches its weight and bias there.
    """
    frozen = [module for module in model.modules() if can_be_frozen(module)]
    for module in frozen:
        module.forward = affine_map(module)
    try:
        yield
    finally:
        for module in frozen:
            del module.forward  # the class's own shows again


def can_be_frozen(module: nn.Module) -> bool:
    """Whether this is a plain batch normalisation, or a feature-wise transformation, that uses running statistics."""
    known = type(module) in (*NORMS, FeatureWiseTransform) and "forward" not in vars(module)
    return known and not module.training and getattr(module, "running_mean", None) is not None


def affine_map(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """x [batch, channels, ...] -> x s + t for a batch normalisation's present statistics and weights."""
    assert isinstance(module, NORMS)
    assert module.running_var is not None
    assert module.running_mean is not None
    scale = torch.rsqrt(module.running_var + module.eps)
    shift = -module.running_mean * scale
    if module.affine:
        scale, shift = scale * module.weight.detach(), shift * module.weight.detach() + module.bias.detach()

    def apply(x: Tensor) -> Tensor:
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul(shift.view(shape).to(x), x, scale.view(shape).to(x))

    return apply
