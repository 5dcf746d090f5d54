"""Meta-training: the embedding, the attention module and the scale learn through the base learner (section 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fslstm.modules import Head, ScaledHead
from fslstm.objective import PUBLISHED_DECAY, smoothed_cross_entropy
from fslstm.selection import Selection
from sextet.episodes import Episodes, EpisodeSampler
from sextet.training import Training, step_decay


@dataclass(frozen=True)
class MetaTrainingConfig:
    """The published recipe; `steps_per_epoch` 1000 gives its 60 epochs.

    Attributes:
        n_way, n_shot, n_query: the training episodes.
        episodes_per_step: episodes in one gradient step.
        epochs, steps_per_epoch: length of the run.
        lr: of the embedding; 0 keeps it as it is.
        attention_lr: of the Inverse Attention Module.
        scale_lr: of the scale of the logits (and a learnable ridge or bias).
        momentum, weight_decay: of Nesterov's method; the decay acts on everything, the scale included.
        label_smoothing: probability taken from the true class and spread over the others.
        decay: epoch -> multiplier of all learning rates from there on.
    """

    n_way: int = 5
    n_shot: int = 5
    n_query: int = 6
    episodes_per_step: int = 8
    epochs: int = 60
    steps_per_epoch: int = 1000
    lr: float = 5e-3
    attention_lr: float = 1e-2
    scale_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    decay: tuple[tuple[int, float], ...] = PUBLISHED_DECAY


class Learner(nn.Module):
    """Embedding, optional Inverse Attention Module, base learner and learnable scale (section 3).

    Args:
        embedding: inputs [rows, ...] -> features [rows, dim]; `nn.Identity()` for ready-made features.
        head: the base learner; its logits are multiplied by a learnable scale (section 4.6).
        attention: the Inverse Attention Module, or None.
    """

    def __init__(self, embedding: nn.Module, head: Head, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding, self.attention = embedding, attention
        self.head = ScaledHead(head)

    def forward(self, query: Tensor, support: Tensor, support_labels: Tensor, n_way: int) -> Tensor:
        """Scaled logits [batch, m, way] of query inputs [batch, m, ...] given support inputs [batch, n, ...].

        Support and query pass the embedding apart: batch statistics are of one kind of images each.
        """
        support, query = self.embed(support), self.embed(query)
        if self.attention is not None:
            support = self.attention(query, support, support_labels, n_way)
        return self.head(query, support, support_labels, n_way)

    def embed(self, inputs: Tensor) -> Tensor:
        """Features [batch, rows, dim] of inputs [batch, rows, ...]."""
        return self.embedding(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])


def meta_train(
    learner: Learner,
    inputs: Tensor,
    labels: Tensor,
    config: MetaTrainingConfig,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    validate: Callable[[Learner], float] | None = None,
    save_every: int = 100,
    title: str = "meta-training",
) -> Selection:
    """Train `learner` in place on episodes of the base classes; resumes from `folder`.

    Args:
        learner: what is trained; with `validate` it ends with the weights that validated best.
        inputs: [n, ...] images or features, on the CPU or on `device`.
        labels: [n] int64 classes, on the CPU.
        config: the recipe.
        folder: checkpoints and log.
        seed: episodes, dropout.
        device: where to compute.
        validate: score of the learner in evaluation mode, more is better; called after every epoch.
        save_every: steps between checkpoints.
        title: of the progress bar.

    Returns:
        Which epoch was selected, with its score; empty without `validate`.
    """
    torch.manual_seed(seed)
    learner.to(device).train()
    sampler = EpisodeSampler(labels.numpy(), config.n_way, config.n_shot, config.n_query, seed=seed)
    optimizer = make_optimizer(learner, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step_decay(step // config.steps_per_epoch, dict(config.decay))
    )
    selection = Selection()

    def episodes_of(step: int) -> Episodes:
        return sampler.batch(step * config.episodes_per_step, config.episodes_per_step)

    def rows_of(step: int) -> NDArray[np.int64]:
        return np.concatenate([episodes_of(step).support_ids, episodes_of(step).query_ids], axis=1)

    with Training(
        folder,
        steps=config.epochs * config.steps_per_epoch,
        state={"learner": learner, "optimizer": optimizer, "schedule": schedule, "selection": selection},
        config={**asdict(config), "seed": seed},
        save_every=save_every,
        device=device,
        progress=title,
        rows=rows_of,
    ) as training:
        for step in training:
            episodes = episodes_of(step)
            support, query = (
                inputs[torch.from_numpy(ids).to(inputs.device)].to(device)
                for ids in (episodes.support_ids, episodes.query_ids)
            )
            support_labels = torch.from_numpy(episodes.support_labels).to(device)
            query_labels = torch.from_numpy(episodes.query_labels).to(device)
            logits = learner(query, support, support_labels, config.n_way)
            loss = smoothed_cross_entropy(logits, query_labels, config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            training.log(loss=loss, accuracy=(logits.argmax(-1) == query_labels).double().mean())
            if validate is not None and (step + 1) % config.steps_per_epoch == 0:
                score = validate(learner.eval())
                learner.train()
                selection.offer(learner, score, epoch=step // config.steps_per_epoch)
                training.log(validation=score)
    if validate is not None:
        selection.restore(learner)
    return selection


def make_optimizer(learner: Learner, config: MetaTrainingConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum and a learning rate each for embedding, attention and scale.

    An embedding with learning rate 0 is left out altogether (weight decay would move it) and its gradients with it.
    """
    groups: list[dict] = [{"params": list(learner.head.parameters()), "lr": config.scale_lr}]
    if config.lr > 0:
        groups.append({"params": list(learner.embedding.parameters()), "lr": config.lr})
    else:
        learner.embedding.requires_grad_(False)
    if learner.attention is not None:
        groups.append({"params": list(learner.attention.parameters()), "lr": config.attention_lr})
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=True)
