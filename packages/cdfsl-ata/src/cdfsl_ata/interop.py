"""Learners of learn2learn and easyfsl as episode losses for the plug-in, and timm models as encoders.

    learner = MamlLearner(learn2learn.algorithms.MAML(network, lr=0.01), n_support=5)
    learner = EasyFslLearner(easyfsl.methods.PrototypicalNetworks(encoder), n_support=5)
    learner = FittedLearner(encoder, learn2learn.nn.PrototypicalClassifier, n_support=5)
    augmenter = AdversarialTaskAugmenter(learner, steps=5, step_size=80.0)
    loss = learner(augmenter(images).images)

Both libraries are met through their interfaces alone, so neither has to be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdfsl_ata.learners import Learner, query_labels
from sextet.recipe import suggestion


class WrappedLearner(nn.Module):
    """Base of learners whose scoring is another library's: images of an episode to scores, and to a loss.

    Args:
        n_support: images a class in the support set; may be changed between episodes.

    Raises:
        ValueError: `n_support` below 1.
    """

    def __init__(self, n_support: int) -> None:
        super().__init__()
        if n_support < 1:
            raise ValueError(f"n_support: expected at least 1, got {n_support}")
        self.n_support = n_support

    def forward(self, images: Tensor) -> Tensor:
        """Cross-entropy of the queries, scalar, of images [n_way, n_support + n_query, channels, h, w]."""
        scores = self.scores(images)
        return F.cross_entropy(scores, query_labels(scores))

    def scores(self, images: Tensor) -> Tensor:
        """[n_way n_query, n_way], class by class; a callable for `cdfsl_ata.evaluation.episode_accuracies`.

        Raises:
            ValueError: an episode without queries, or of another form.
        """
        if images.ndim != 5 or images.shape[1] <= self.n_support:
            raise ValueError(
                f"images: expected [n_way, {self.n_support} + n_query, channels, h, w] with queries, "
                f"got {list(images.shape)}"
            )
        support, query = images[:, : self.n_support], images[:, self.n_support :]
        labels = torch.arange(len(images), device=images.device).repeat_interleave(self.n_support)
        return self.classify(support.flatten(0, 1), labels, query.flatten(0, 1))

    def classify(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Scores [m, n_way] of queries [m, channels, h, w], given support images [n, channels, h, w], labels [n]."""
        raise NotImplementedError


class MamlLearner(WrappedLearner):
    """A MAML-type learner: a clone takes some gradient steps on the support set and scores the queries.

    In the ascent and in training the gradient passes through those steps (unless the algorithm is of first order), so
    support pixels are moved by what they do to the adapted network.

    A clone of learn2learn has buffers of its own, so the running statistics of batch normalisation never leave their
    start, and the ascent, in evaluation mode, would see those: use `track_running_stats=False`, or another
    normalisation.

    Args:
        algorithm: `learn2learn.algorithms.MAML`, `MetaSGD`, `GBML`, or anything with `clone()` and `adapt(loss)`.
        n_support: see `WrappedLearner`.
        adaptation_steps: gradient steps on the support set.
        objective: (scores [n, n_way], labels [n]) -> loss of the support set.
    """

    def __init__(
        self,
        algorithm: nn.Module,
        n_support: int,
        adaptation_steps: int = 1,
        objective: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        super().__init__(n_support)
        if adaptation_steps < 0:
            raise ValueError(f"adaptation_steps: expected at least 0, got {adaptation_steps}")
        self.algorithm: Any = algorithm
        self.adaptation_steps, self.objective = adaptation_steps, objective

    def classify(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `WrappedLearner`; adapts under `torch.no_grad` too."""
        with torch.enable_grad():
            adapted = self.algorithm.clone()
            for _ in range(self.adaptation_steps):
                adapted.adapt(self.objective(adapted(support), labels))
        return adapted(query)


class EasyFslLearner(WrappedLearner):
    """A classifier with easyfsl's `process_support_set(images, labels)` and `forward(images)`.

    Support and queries pass the encoder apart, so in training mode their batch statistics are apart, other than in this
    package's learners. Methods that keep gradients from the support set or the queries (those for inference alone)
    cannot be augmented; the plug-in says so.

    Args:
        classifier: `easyfsl.methods.PrototypicalNetworks` and the like.
        n_support: see `WrappedLearner`.
    """

    def __init__(self, classifier: nn.Module, n_support: int) -> None:
        super().__init__(n_support)
        self.classifier: Any = classifier

    def classify(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `WrappedLearner`."""
        self.classifier.process_support_set(support, labels)
        return self.classifier(query)

    def features(self, images: Tensor) -> Tensor:
        """[n_way (n_support + n_query), dim], for a regulariser of the ascent."""
        return self.classifier.compute_features(images.flatten(0, 1))


class FittedLearner(Learner):
    """An encoder, and a classifier that is fitted to the support set's features in every episode.

    Args:
        feature, n_support: see `Learner`.
        fit: (support features [n, dim], labels [n]) -> classifier, which maps features [m, dim] to scores [m, n_way];
            for example `learn2learn.nn.PrototypicalClassifier`. Differentiable in the features.
    """

    def __init__(
        self, feature: nn.Module, fit: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]], n_support: int
    ) -> None:
        super().__init__(feature, n_support)
        self.fit = fit

    def head(self, z: Tensor) -> Tensor:
        """Scores of vectors [n_way, n_support + n_query, dim]."""
        support, query = self.split(z)
        labels = torch.arange(len(z), device=z.device).repeat_interleave(self.n_support)
        return self.fit(support.flatten(0, 1), labels)(query.flatten(0, 1))


def timm_encoder(name: str, *, maps: bool = False, pretrained: bool = False, **options: Any) -> nn.Module:
    """The timm model `name` without its classifier: images -> [n, dim], or [n, channels, h', w'] with `maps`.

    Args:
        name: of the model.
        maps: whether to leave out the pooling, as RelationNet and TPN need it; for convolutional models.
        pretrained: whether timm should load its weights.
        options: for `timm.create_model`, such as `img_size` of a vision transformer.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm knows no such model, or its output without pooling is no map.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError('timm is not installed; try: pip install "cdfsl-ata[timm]"') from error
    if not timm.is_model(name):
        raise ValueError(f"name: expected a timm model, got {name!r}{suggestion(name, timm.list_models())}")
    if not maps:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    model = timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="", **options)
    side = options.get("img_size", 224)
    with torch.no_grad():
        shape = model.eval()(torch.zeros(1, options.get("in_chans", 3), side, side)).shape
    if len(shape) != 4 or shape[1] != model.num_features:
        raise ValueError(f"name: expected a model with maps [n, {model.num_features}, h, w], {name} has {list(shape)}")
    return model.train()
