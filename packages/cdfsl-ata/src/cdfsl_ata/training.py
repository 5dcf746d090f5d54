"""Pre-training of an encoder (section 5) and meta-training of a learner, with or without ATA (sections 3 and 6).

Both resume from their folder; what a step draws depends on (seed, step) only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdfsl_ata.augmentation import AdversarialTaskAugmenter, EpisodeLoss
from cdfsl_ata.encoders import fixed_parameters
from cdfsl_ata.images import Ids, generator_of
from cdfsl_ata.random_convolution import KERNEL_SIZES
from sextet.cuda import Precision
from sextet.episodes import Episodes, EpisodeSampler
from sextet.training import Training


class Source(Protocol):
    """Where images come from: `cdfsl_ata.images.PackedImages`, or anything of this form."""

    @property
    def labels(self) -> Ids:
        """[n] class of every row."""
        ...

    def pixels(self, ids: Ids, step: int | None = None) -> Tensor:
        """Normalised float images [k, channels, h, w] on the device; augmented, by `step`, where it is given."""
        ...


def check_positive(**values: float) -> None:
    """Raise ValueError for the first value that is not above 0, by its name."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: expected above 0, got {value}")


@dataclass(frozen=True)
class PretrainingConfig:
    """Adam with cross-entropy on the base classes; the defaults are the published ones.

    Attributes:
        steps: 400 epochs of 38,400 images as a default.
        batch_size: images a step; an epoch's last batch may be smaller.
        lr: of Adam.
        outputs: of the linear layer, at least as many as there are classes (200 for 64 as published; harmless).
    """

    steps: int = 960_000
    batch_size: int = 16
    lr: float = 1e-3
    outputs: int = 200

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, batch_size=self.batch_size, lr=self.lr, outputs=self.outputs)


@dataclass(frozen=True)
class MetaTrainingConfig:
    """Adam on one episode a step; the defaults are the published ones.

    Attributes:
        n_way, n_support, n_query: images an episode.
        epochs, episodes_per_epoch: length of the run; the learner is validated after every epoch.
        lr: of Adam, for encoder and head.
        measure_every: steps between measurements of the loss after the ascent, one forward pass each; results do not
            depend on it.
    """

    n_way: int = 5
    n_support: int = 5
    n_query: int = 16
    epochs: int = 400
    episodes_per_epoch: int = 100
    lr: float = 1e-3
    measure_every: int = 10

    def __post_init__(self) -> None:
        check_positive(
            epochs=self.epochs, episodes_per_epoch=self.episodes_per_epoch, lr=self.lr, measure_every=self.measure_every
        )


@dataclass(frozen=True)
class AscentConfig:
    """Settings of the plug-in, see `AdversarialTaskAugmenter`; `regulariser` "none" and `project` 0 for none."""

    steps: int = 5
    step_size: float = 80.0
    p_original: float = 0.5
    kernel_sizes: tuple[int, ...] = KERNEL_SIZES
    regulariser: str = "none"
    weight: float = 1.0
    normalise: bool = False
    project: float = 0.0
    precision: Precision = "fp32"

    def augmenter(self, episode_loss: EpisodeLoss) -> AdversarialTaskAugmenter:
        """The plug-in for a learner, or for any loss of an episode's images."""
        values: dict[str, Any] = asdict(self)
        values["regulariser"] = None if self.regulariser == "none" else self.regulariser
        values["project"] = self.project or None
        return AdversarialTaskAugmenter(episode_loss, **values)


class BestWeights:
    """The weights with the best validation score so far, the earlier of two equal ones; a part of a run's state.

    Attributes:
        score: the best one; None before the first.
        epoch: its number, counted from 0.
        weights: copies on the CPU.
    """

    def __init__(self) -> None:
        self.score: float | None = None
        self.epoch, self.weights = -1, {}

    def offer(self, model: nn.Module, score: float, epoch: int) -> None:
        """Keep the model's weights if the score is better than all before."""
        if self.score is None or score > self.score:
            self.score, self.epoch = score, epoch
            self.weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"score": self.score, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.score, self.epoch, self.weights = state["score"], state["epoch"], state["weights"]


class ShuffledRows:
    """Rows of one step after another: every row once an epoch, in an order that depends on (seed, epoch) only."""

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.steps_per_epoch = -(-n // batch_size)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, step: int) -> Ids:
        """[batch_size] rows, or fewer at the end of an epoch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(self.n, generator=generator_of(self.seed, epoch, 1)).numpy()
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


def pretrain(
    encoder: nn.Module,
    source: Source,
    config: PretrainingConfig,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    precision: Precision = "fp32",
    save_every: int = 1000,
) -> nn.Linear:
    """Train `encoder` in place as a classifier of the base classes; resumes from `folder`.

    Args:
        encoder: images [batch, channels, h, w] -> [batch, dim].
        source: the base classes' images, labels counted from 0.
        config: the recipe.
        folder: checkpoints and log.
        seed: of the linear layer and the order of images.
        device: where to compute.
        precision: of the forward pass.
        save_every: steps between checkpoints.

    Returns:
        The linear layer, [outputs, dim], on `device`.

    Raises:
        ValueError: more classes than outputs, or an encoder that gives maps.
    """
    classes = int(source.labels.max()) + 1
    if config.outputs < classes:
        raise ValueError(f"outputs: expected at least {classes}, one a class, got {config.outputs}")
    torch.manual_seed(seed)
    encoder.to(device).eval()
    with torch.no_grad():
        shape = list(encoder(source.pixels(np.arange(1))).shape)
    if len(shape) != 2:
        raise ValueError(f"encoder: expected outputs [batch, dim], got {shape}; flatten or pool its maps")
    classifier = nn.Linear(shape[1], config.outputs).to(device)
    nn.init.zeros_(classifier.bias)
    encoder.train()
    optimizer = torch.optim.Adam([*encoder.parameters(), *classifier.parameters()], lr=config.lr)
    rows = ShuffledRows(len(source.labels), config.batch_size, seed)
    with Training(
        folder,
        steps=config.steps,
        state={"encoder": encoder, "classifier": classifier, "optimizer": optimizer},
        config={**asdict(config), "seed": seed},
        save_every=save_every,
        device=device,
        precision=precision,
        progress="pre-training",
        rows=lambda step: rows[step],
    ) as training:
        for step in training:
            ids = rows[step]
            with training.autocast():
                logits = classifier(encoder(source.pixels(ids, step)))
                loss = F.cross_entropy(logits, torch.from_numpy(source.labels[ids]).to(device))
            training.backward(loss)
            training.optimizer_step(optimizer)
            training.log(loss=loss)
    return classifier


def meta_train(
    learner: nn.Module,
    source: Source,
    config: MetaTrainingConfig,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    augmenter: AdversarialTaskAugmenter | None = None,
    validate: Callable[[int], float] | None = None,
    precision: Precision = "fp32",
    save_every: int = 100,
) -> BestWeights:
    """Train `learner` in place, each step on one episode or on the harder one that the augmenter makes of it.

    Args:
        learner: called on images [n_way, n_support + n_query, channels, h, w] it gives the episode's loss.
        source: the base classes' images.
        config: the recipe.
        folder: checkpoints and log (loss, perturbation RMS, loss before and after the ascent); resumes from there.
        seed: of the episodes and of everything a step draws.
        device: where to compute.
        augmenter: the plug-in, made for the same learner; None for plain training.
        validate: epoch, counted from 0 -> score, more is better; called after every epoch. The learner ends with the
            weights that scored best, without it with the last ones. It must leave the learner as it was.
        precision: of the training pass; that of the ascent is the augmenter's own.
        save_every: steps between checkpoints.

    Returns:
        The best score and its epoch; empty without `validate`.

    Raises:
        AscentDiverged: pixels overflowed; the last checkpoint is from before.
    """
    torch.manual_seed(seed)
    learner.to(device).train()
    sampler = EpisodeSampler(source.labels, config.n_way, config.n_support, config.n_query, seed=seed)
    fixed = fixed_parameters(learner)
    optimizer = torch.optim.Adam([value for value in learner.parameters() if value not in fixed], lr=config.lr)
    best = BestWeights()
    with Training(
        folder,
        steps=config.epochs * config.episodes_per_epoch,
        state={"learner": learner, "optimizer": optimizer, "best": best},
        config={**asdict(config), "seed": seed},
        save_every=save_every,
        device=device,
        precision=precision,
        progress="meta-training",
        rows=lambda step: episode_ids(sampler[step]),
    ) as training:
        for step in training:
            images, logged = episode_images(source, sampler[step], step), {}
            if augmenter is not None:
                measure = step % config.measure_every == 0
                task = augmenter(images, generator_of(seed, step, 2), measure=measure)
                images, logged = task.images, task.log()
            with training.autocast():
                loss = learner(images)
            training.backward(loss)
            training.optimizer_step(optimizer)
            if validate is not None and (step + 1) % config.episodes_per_epoch == 0:
                epoch = step // config.episodes_per_epoch
                score = validate(epoch)
                best.offer(learner, score, epoch)
                logged["validation"] = score
            training.log(loss=loss, **logged)
    if best.score is not None:
        learner.load_state_dict(best.weights)
    return best


def episode_ids(episode: Episodes) -> Ids:
    """[n_way, n_support + n_query] rows of the first episode of a batch, a class's support before its queries."""
    n_way = episode.classes.shape[1]
    parts = [ids[0].reshape(n_way, -1) for ids in (episode.support_ids, episode.query_ids)]
    return np.concatenate(parts, axis=1)


def episode_images(source: Source, episode: Episodes, step: int | None = None) -> Tensor:
    """Images [n_way, n_support + n_query, channels, h, w] of an episode; augmented where `step` is given."""
    ids = episode_ids(episode)
    return source.pixels(ids.reshape(-1), step).unflatten(0, ids.shape)
