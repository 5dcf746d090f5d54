"""The heads beside other libraries: learn2learn tasks and learners, easy-few-shot-learning's classifier interface, timm
and torchvision models as embeddings, features that were extracted before.

learn2learn and easy-few-shot-learning are met through their interfaces alone, so neither has to be installed.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fslstm.evaluation import episode_accuracies
from fslstm.modules import Head
from fslstm.transduction import classifier
from fslstm.validation import check_labels
from sextet.checkpoint import load_foreign
from sextet.episodes import EpisodeSampler
from sextet.recipe import suggestion

_CLASSIFIERS = ("fc", "classifier", "head", "heads")


@dataclass(frozen=True)
class EpisodeBatch:
    """A batch of few-shot tasks as heads and `training.Learner` take them.

    Attributes:
        query: `[B, m, ...]`.
        support: `[B, n, ...]`, in class order.
        support_labels: `[B, n]` int64 in `0..n_way-1`.
        query_labels: `[B, m]` likewise.
        n_way: number of classes of every task.
    """

    query: Tensor
    support: Tensor
    support_labels: Tensor
    query_labels: Tensor
    n_way: int


def episode_batch(tasks: Iterable[tuple[Tensor, Tensor]], n_shot: int) -> EpisodeBatch:
    """Split learn2learn tasks into support and query, and stack them.

        episodes = episode_batch([taskset.sample() for _ in range(8)], n_shot=5)
        logits = learner(episodes.query, episodes.support, episodes.support_labels, episodes.n_way)

    The first `n_shot` rows of each class are its support, the others its queries; classes count from 0 in the order of
    their labels. The rows need not be grouped by class, nor the labels be consecutive.

    Args:
        tasks: (data `[k, ...]`, labels `[k]` integers) of each task.
        n_shot: support rows a class.

    Raises:
        ValueError: no task, a class without enough rows, or tasks of different size.
    """
    splits = [_split(data, labels, n_shot) for data, labels in tasks]
    if not splits:
        raise ValueError("tasks: expected at least one, got none")
    sizes = {(split.n_way, split.query.shape[1:], split.support.shape[1:]) for split in splits}
    if len(sizes) > 1:
        found = sorted({(split.n_way, split.query.shape[1]) for split in splits})
        raise ValueError(f"tasks: expected the same way, rows and data shape in all, got (way, queries) {found}")
    fields = ("query", "support", "support_labels", "query_labels")
    return EpisodeBatch(
        **{name: torch.cat([getattr(split, name) for split in splits]) for name in fields}, n_way=splits[0].n_way
    )


def _split(data: Tensor, labels: Tensor, n_shot: int) -> EpisodeBatch:
    """One task as a batch of one."""
    if n_shot < 1:
        raise ValueError(f"n_shot: expected at least 1, got {n_shot}")
    if labels.ndim != 1 or len(labels) != len(data) or labels.is_floating_point():
        raise ValueError(f"labels: expected {len(data)} integers, got {labels.dtype} {list(labels.shape)}")
    names, positions, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"labels: expected at least 2 classes in a task, got {names.tolist()}")
    if int(counts.min()) <= n_shot:
        raise ValueError(
            f"n_shot: expected more than {n_shot} rows of every class, that is at least one query, "
            f"got {int(counts.min())} of class {int(names[counts.argmin()])}"
        )
    # [k]: rows grouped by class, each at its place within the class
    order = positions.argsort(stable=True)
    place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[positions[order]]
    support, query = order[place < n_shot], order[place >= n_shot]
    return EpisodeBatch(
        data[query][None], data[support][None], positions[support][None], positions[query][None], len(names)
    )


class SupportSetClassifier(nn.Module):
    """Embedding and head behind the interface of easy-few-shot-learning's `FewShotClassifier`.

        classifier.process_support_set(support_images, support_labels)
        scores = classifier(query_images)

    The head is fitted within `forward`, because transduction needs the queries, and gradients pass through the fit to
    the embedding. For one support set and many batches of queries `head.fit` gives a linear layer.

    Args:
        backbone: inputs `[rows, ...]` -> features `[rows, dim]`, see `embedding`; None for ready-made features.
        head: the base learner.
        attention: the Inverse Attention Module (section 5), or None.
        rounds: of the Pseudo Support Module (section 6), which has no gradient and acts in evaluation mode only.
    """

    def __init__(
        self, backbone: nn.Module | None, head: Head, *, attention: nn.Module | None = None, rounds: int = 0
    ) -> None:
        super().__init__()
        if rounds < 0:
            raise ValueError(f"rounds: expected 0 or more, got {rounds}")
        self.backbone = nn.Identity() if backbone is None else backbone
        self.head, self.attention, self.rounds = head, attention, rounds
        self._support: tuple[Tensor, Tensor, int] | None = None

    def process_support_set(self, support_images: Tensor, support_labels: Tensor) -> None:
        """Embed and keep a support set: inputs `[n, ...]`, labels `[n]` that cover `0..way-1`.

        Raises:
            ValueError: labels of another form, or classes without rows.
        """
        if support_labels.ndim != 1 or not len(support_labels):
            raise ValueError(f"support_labels: expected [rows], at least one, got {list(support_labels.shape)}")
        n_way = int(support_labels.max()) + 1
        check_labels(support_labels[None], n_way, None, (1, len(support_images)))
        self._support = self.compute_features(support_images), support_labels, n_way

    def compute_features(self, images: Tensor) -> Tensor:
        """Features `[rows, dim]` of inputs `[rows, ...]`; ValueError where the backbone gives anything else."""
        return _checked_features(self.backbone(images))

    def forward(self, query_images: Tensor) -> Tensor:
        """Logits `[m, way]` of inputs `[m, ...]`; raises a ValueError before `process_support_set`."""
        if self._support is None:
            raise ValueError("support set: expected one before queries; call process_support_set or adapt first")
        support, labels, n_way = self._support
        rounds = 0 if self.training else self.rounds
        query = self.compute_features(query_images)
        return classifier(self.head, self.attention, rounds)(query[None], support[None], labels[None], n_way)[0]

    def is_transductive(self) -> bool:
        """Whether a query's logits depend on the other queries."""
        return self.attention is not None or self.rounds > 0


class HeadLearner(SupportSetClassifier):
    """A closed-form head in learn2learn's clone-and-adapt loop.

        learner = model.clone()
        learner.adapt(support, support_labels)
        loss = smoothed_cross_entropy(learner(query), query_labels)
        loss.backward()

    Where MAML's `adapt` takes a loss and one step, this takes the support set and solves; the outer loop trains the
    embedding through the solution. Also survives `learn2learn.clone_module`. Arguments as in `SupportSetClassifier`.
    """

    def clone(self) -> HeadLearner:
        """A learner with the same parameters (adapting never changes them) and a support set of its own."""
        learner = copy.copy(self)
        learner._support = None
        return learner

    def adapt(self, support: Tensor, labels: Tensor) -> None:
        """Fit to a support set: inputs `[n, ...]`, labels `[n]` that cover `0..way-1`."""
        self.process_support_set(support, labels)


class Embedding(nn.Module):
    """A model without its classifier: images `[B, channels, height, width]` -> features `[B, dim]`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, dim]`; raises a ValueError where the model gives anything else."""
        return _checked_features(self.model(images))


def embedding(model: nn.Module) -> Embedding:
    """A copy of a timm or torchvision classification model that returns the features its last layer would classify.

    timm models drop their classifier themselves. Of torchvision's, the last linear (or 1x1 convolution) layer under
    `fc`, `classifier`, `head` or `heads` is taken out. Networks of this package need no such treatment.

    Raises:
        ValueError: no such layer.
    """
    model = copy.deepcopy(model)
    if hasattr(model, "reset_classifier"):
        model.reset_classifier(0)  # pyright: ignore[reportCallIssue]
        return Embedding(model)
    owner = next((name for name in _CLASSIFIERS if isinstance(getattr(model, name, None), nn.Module)), None)
    layers = [] if owner is None else _classifying_layers(model.get_submodule(owner), owner)
    if not layers:
        raise ValueError(
            f"model: expected timm's, or a linear layer under one of {', '.join(_CLASSIFIERS)} as in torchvision, "
            f"found neither in {type(model).__name__}; a module that returns features [batch, dim] can be used as it is"
        )
    parent, _, name = layers[-1].rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Identity())
    return Embedding(model)


def _classifying_layers(module: nn.Module, prefix: str) -> list[str]:
    """Names of the linear and convolution layers of a module, in order."""
    return [name for name, layer in module.named_modules(prefix=prefix) if isinstance(layer, nn.Linear | nn.Conv2d)]


def timm_embedding(name: str, *, pretrained: bool = False, **options: Any) -> Embedding:
    """The timm model `name` as an embedding; `options` go to `timm.create_model` (`in_chans`, `img_size`, ...).

    Raises:
        ImportError: timm is not installed.
        ValueError: timm knows no such model.
    """
    timm = _require("timm", extra="timm")
    if not timm.is_model(name):
        raise ValueError(f"name: expected a timm model, got {name!r}{suggestion(name, timm.list_models())}")
    return Embedding(timm.create_model(name, pretrained=pretrained, num_classes=0, **options))


def load_features(path: str | Path) -> tuple[Tensor, Tensor]:
    """`features` `[n, d]` (floating point, as stored) and `labels` `[n]` (int64) from an .npz or .safetensors file.

    Nothing in the file is executed: pickled arrays are refused.

    Raises:
        ValueError: another suffix, an unreadable file, a missing array, or arrays of another form.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"path: expected a file ending in .npz or .safetensors, got {path.name!r}")
    tensors = load_foreign(path)
    missing = {"features", "labels"} - tensors.keys()
    if missing:
        raise ValueError(f"{path.name}: expected arrays `features` and `labels`, got {sorted(tensors)}")
    features, labels = tensors["features"], tensors["labels"]
    if features.ndim != 2 or not features.is_floating_point() or not bool(torch.isfinite(features).all()):
        found = f"{features.dtype} {list(features.shape)}"
        raise ValueError(f"{path.name}: features: expected finite floating point [n, d], got {found}")
    if labels.shape != features.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        found = f"{labels.dtype} {list(labels.shape)}"
        raise ValueError(f"{path.name}: labels: expected one integer for each of {len(features)} rows, got {found}")
    return features, labels.long()


@dataclass(frozen=True)
class EpisodeAccuracy:
    """Accuracy over test episodes.

    Attributes:
        mean: in 0..1.
        half_width: of the 95% interval, 1.96 standard errors over the episodes.
        accuracies: `[episodes]`, for paired comparison with another head on the same episodes.
    """

    mean: float
    half_width: float
    accuracies: Tensor


def evaluate_features(
    features: Tensor,
    labels: Tensor,
    head: Head,
    *,
    n_way: int = 5,
    n_shot: int = 1,
    n_query: int = 15,
    episodes: int = 10_000,
    rounds: int = 0,
    attention: nn.Module | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> EpisodeAccuracy:
    """Mean accuracy and its interval of a head on features that were extracted before (section 10).

    Args:
        features: `[n, d]`.
        labels: `[n]` integers.
        head: the base learner.
        n_way, n_shot, n_query: the episodes; transductive results depend on `n_query`.
        episodes: how many, at least 2; the same seed gives the same ones to every head.
        rounds: of the Pseudo Support Module.
        attention: a trained Inverse Attention Module in evaluation mode.
        seed: of the episodes.
        device: where to compute; None for the features' device.

    Raises:
        ValueError: too few classes, rows or episodes.
    """
    if episodes < 2:
        raise ValueError(f"episodes: expected at least 2 for an interval, got {episodes}")
    sampler = EpisodeSampler(labels.cpu().numpy(), n_way, n_shot, n_query, seed=seed)
    classify = classifier(head, attention, rounds)
    accuracies = episode_accuracies(
        classify, features, sampler, episodes=episodes, device=features.device if device is None else device
    )
    return EpisodeAccuracy(float(accuracies.mean()), 1.96 * float(accuracies.std()) / episodes**0.5, accuracies)


def _checked_features(features: Any) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim != 2:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"backbone: expected features [rows, dim], got {found}; "
            "pool and flatten feature maps, and switch auxiliary outputs off"
        )
    return features


def _require(module: str, *, extra: str) -> Any:
    """Import an optional library, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is not installed; try: pip install "fslstm[{extra}]"') from error
