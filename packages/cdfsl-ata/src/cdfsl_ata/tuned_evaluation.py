"""Evaluation with fine-tuning: every task trains a copy of its own on pseudo samples of its support set (section 9).

Tasks are done a group at a time, one after the other or stacked, and saved on the way; a run that is called again
continues.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cdfsl_ata.evaluation import evaluation_mode
from cdfsl_ata.finetuning import (
    PseudoAugmentation,
    adam,
    classification_loss,
    dampened_sgd,
    episode_loss,
    fine_tune_episodes,
    fine_tune_linear,
    pseudo_set,
)
from cdfsl_ata.images import generator_of
from cdfsl_ata.learners import Learner, query_labels
from cdfsl_ata.stacking import fine_tune_stacked
from cdfsl_ata.training import Source, episode_images
from sextet.cuda import Precision, autocast
from sextet.episodes import EpisodeSampler
from sextet.training import Training

Score = Callable[[Sequence[int]], list[float]]
"""Tasks -> the accuracy of each."""
PseudoOrder = Literal["published", "support-first"]
TunedMode = Literal["train", "eval"]


@dataclass(frozen=True)
class TuningConfig:
    """Fine-tuning on pseudo samples; the defaults are the published ones.

    Attributes:
        n_pseudo: augmented copies a task, a multiple of the number of support images.
        order: of a pseudo episode: `published` has each image followed by its copies, so that at 5 shots copies serve
            as support and images as queries; `support-first` has all images as support.
        mode: in which the tuned network classifies the queries: `train`, with the statistics of the episode, or `eval`.
            The linear classifier is always tested in evaluation mode.
        steps: pseudo episodes of a meta-trained learner, one step each.
        lr: of Adam in those steps.
        linear_epochs, linear_batch, linear_lr: of encoder and linear classifier, by SGD on pseudo sets.
        together: tasks that are tuned at once, stacked; the same as one by one, up to rounding.
    """

    n_pseudo: int = 75
    order: PseudoOrder = "published"
    mode: TunedMode = "train"
    steps: int = 50
    lr: float = 1e-3
    linear_epochs: int = 50
    linear_batch: int = 4
    linear_lr: float = 0.01
    together: int = 1

    def __post_init__(self) -> None:
        if self.together < 1:
            raise ValueError(f"together: expected at least 1 task at a time, got {self.together}")


class Accuracies:
    """Accuracies of the tasks done so far; the state of an evaluation."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"values": list(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.values = list(state["values"])


def tuned_accuracies(
    score: Score, episodes: int, folder: Path, config: Mapping[str, Any], *, together: int = 1, save_every: int = 20
) -> Tensor:
    """Accuracy of every task, [episodes] float64 in 0..1; resumes from `folder`.

    Args:
        score: of a group of tasks; `episodic_score` or `linear_score`.
        episodes: how many tasks.
        folder: of the run.
        config: what identifies it, plain values.
        together: tasks a group.
        save_every: groups between checkpoints.
    """
    done = Accuracies()
    with Training(
        folder,
        steps=-(-episodes // together),
        state={"accuracies": done},
        config=config,
        save_every=save_every,
        progress="fine-tuning and testing",
    ) as groups:
        for group in groups:
            found = score(range(group * together, min(episodes, (group + 1) * together)))
            done.values += found
            groups.log(accuracy=sum(found) / len(found))
    return torch.tensor(done.values, dtype=torch.float64)


def episodic_score(
    learner: Learner, source: Source, sampler: EpisodeSampler, config: TuningConfig, *, precision: Precision = "fp32"
) -> Score:
    """A function that tunes copies of a meta-trained learner to tasks and tests each on its own.

    Args:
        learner: where every task starts; it stays as it is but for `n_support`, which becomes the sampler's.
        source: images of the target.
        sampler: draws the tasks.
        config: how.
        precision: of tuning and test.
    """
    learner.n_support = sampler.n_shot
    statistics = "episode" if config.mode == "train" else "eval"

    def pseudo_episodes(task: int, support: Tensor) -> Iterator[Tensor]:
        augment = PseudoAugmentation(generator_of(sampler.seed, task, 3))
        return (pseudo_set(support, config.n_pseudo, augment, config.order) for _ in range(config.steps))

    def score(tasks: Sequence[int]) -> list[float]:
        images = [episode_images(source, sampler[task]) for task in tasks]
        models = [copy.deepcopy(learner) for _ in tasks]
        pairs = zip(tasks, images, strict=True)
        streams = [pseudo_episodes(task, own[:, : sampler.n_shot]) for task, own in pairs]
        with autocast(images[0].device, precision):
            if len(models) == 1:
                fine_tune_episodes(models[0], streams[0], lr=config.lr)
            else:
                batches = ((torch.stack(parts),) for parts in zip(*streams, strict=True))
                fine_tune_stacked(models, episode_loss, batches, partial(adam, lr=config.lr))
            found = []
            for model, own in zip(models, images, strict=True):
                with torch.no_grad(), evaluation_mode(model, statistics):
                    found.append(accuracy(model.scores(own)))
        return found

    return score


def linear_score(
    encoder: nn.Module, source: Source, sampler: EpisodeSampler, config: TuningConfig, *, precision: Precision = "fp32"
) -> Score:
    """A function that tunes copies of a pre-trained encoder, each with a fresh linear layer, to tasks and tests them.

    Args:
        encoder: images -> [n, dim]; where every task starts; it stays as it is.
        source, sampler, config, precision: see `episodic_score`.
    """
    device = next(encoder.parameters()).device
    with torch.no_grad():
        dim = encoder.eval()(source.pixels(sampler[0].support_ids[0, :1])).shape[1]

    def model_of(task: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_of(sampler.seed, task, 4).initial_seed())
            return nn.Sequential(copy.deepcopy(encoder), nn.Linear(dim, sampler.n_way).to(device))

    def score(tasks: Sequence[int]) -> list[float]:
        images = [episode_images(source, sampler[task]) for task in tasks]
        models = [model_of(task) for task in tasks]
        pairs = zip(tasks, images, strict=True)
        streams = [
            pseudo_batches(own[:, : sampler.n_shot], config, generator_of(sampler.seed, task, 3)) for task, own in pairs
        ]
        with autocast(images[0].device, precision):
            if len(models) == 1:
                fine_tune_linear(models[0], streams[0], lr=config.linear_lr)
            else:
                optimizer = partial(dampened_sgd, lr=config.linear_lr)
                fine_tune_stacked(models, classification_loss, stacked(streams), optimizer)
            with torch.no_grad():
                queries = (own[:, sampler.n_shot :].flatten(0, 1) for own in images)
                return [accuracy(model.eval()(own)) for model, own in zip(models, queries, strict=True)]

    return score


def stacked(streams: Sequence[Iterable[tuple[Tensor, Tensor]]]) -> Iterator[tuple[Tensor, ...]]:
    """Batches of several tasks, one step of all at a time: tensors [tasks, ...]."""
    for parts in zip(*streams, strict=True):
        yield tuple(map(torch.stack, zip(*parts, strict=True)))


def pseudo_batches(
    support: Tensor, config: TuningConfig, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (images [n, channels, h, w], labels [n]): every epoch a new pseudo set, shuffled.

    Args:
        support: [n_way, n_support, channels, h, w].
        config: how many.
        generator: on the CPU.
    """
    augment = PseudoAugmentation(generator)
    for _ in range(config.linear_epochs):
        images = pseudo_set(support, config.n_pseudo, augment, config.order)
        labels = torch.arange(len(images), device=images.device).repeat_interleave(images.shape[1])
        order = torch.randperm(len(labels), generator=generator).to(images.device)
        for rows in order.split(config.linear_batch):
            yield images.flatten(0, 1)[rows], labels[rows]


def accuracy(scores: Tensor) -> float:
    """Share of queries [n_way n_query], class by class, whose score is highest for their own class."""
    return float((scores.argmax(dim=1) == query_labels(scores)).double().mean())
