"""Meta-training of the published runs and the features it ends with, as stages that runs share (sections 7 and 9.4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from fslstm.augmentation import Preprocessed
from fslstm.datasets import CIFAR_FS, MINI_IMAGENET
from fslstm.evaluation import episode_accuracies
from fslstm.networks import NORMALISATION, load_matching, make_backbone, make_base_learner
from fslstm.pretraining import embed
from fslstm.training import Learner, MetaTrainingConfig, meta_train
from fslstm.transduction import InverseAttention
from sextet.cuda import select_device
from sextet.data import load
from sextet.episodes import EpisodeSampler
from sextet.recipe import RunContext, plain

DATASETS = {"cifar-fs": CIFAR_FS, "mini-imagenet": MINI_IMAGENET}
IMAGE_SIZE = {"cifar-fs": 32, "mini-imagenet": 84}
_PADDING = {"cifar-fs": 4, "mini-imagenet": 8}
_VALIDATION_SEED = 0


@dataclass(frozen=True)
class LearningConfig:
    """What a meta-trained model depends on, its seed and pre-trained weights aside.

    Attributes:
        dataset, backbone, widths, drop_block: data and embedding; empty widths are the published ones.
        head, ridge, cost: the base learner.
        iam, reduction: whether an Inverse Attention Module learns too, and its bottleneck.
        meta: the recipe.
        val_shot, val_query, val_episodes: the validation episodes, the same for every seed.
    """

    dataset: str = "cifar-fs"
    backbone: str = "conv4"
    widths: tuple[int, ...] = ()
    drop_block: float = 0.0
    head: str = "ls_svm"
    ridge: float = 0.1
    cost: float = 0.1
    iam: bool = False
    reduction: int = 8
    meta: MetaTrainingConfig = field(default_factory=MetaTrainingConfig)
    val_shot: int = 5
    val_query: int = 15
    val_episodes: int = 2000


def learning_stage(config: LearningConfig, context: RunContext, pretrained: Path | None) -> Path:
    """Folder of the weights that validated best: `backbone.safetensors` and, with IAM, `attention.safetensors`.

    Args:
        config: what is learnt.
        context: of the run; its seed is the model's.
        pretrained: folder with the `backbone.safetensors` to start from; None to start from scratch.
    """

    def build(folder: Path) -> None:
        torch.manual_seed(context.seed)
        device = select_device(context.device)
        learner = make_learner(config, seed=context.seed)
        if pretrained is not None:
            load_matching(backbone_of(learner), safetensors.torch.load_file(pretrained / "backbone.safetensors"))
        images, labels = split(config, context, "train")
        validate = validation(config, context, device)
        selection = meta_train(
            learner,
            images.to(device),
            labels,
            config.meta,
            folder,
            seed=context.seed,
            device=device,
            validate=validate,
            save_every=500,
        )
        save_weights(backbone_of(learner), folder / "backbone.safetensors")
        if learner.attention is not None:
            save_weights(learner.attention, folder / "attention.safetensors")
        chosen = {"validation_accuracy": selection.score, "epoch": selection.epoch}
        (folder / "selection.json").write_text(json.dumps(chosen) + "\n")

    key = {**plain(config), "seed": context.seed, "pretrained": pretrained.name if pretrained else None}
    return context.stage("meta-training", key, build)


def features_stage(config: LearningConfig, context: RunContext, learnt: Path) -> Path:
    """Folder with `features.safetensors`: features `[n, dim]` of the test images and their labels `[n]`."""

    def build(folder: Path) -> None:
        embedding = make_learner(config, seed=context.seed).embedding
        assert isinstance(embedding, Preprocessed)
        embedding.backbone.load_state_dict(safetensors.torch.load_file(learnt / "backbone.safetensors"))
        images, labels = split(config, context, "test")
        features = embed(embedding, images, device=select_device(context.device))
        safetensors.torch.save_file({"features": features, "labels": labels}, folder / "features.safetensors")

    return context.stage("test-features", {"learnt": learnt.name}, build)


def make_learner(config: LearningConfig, *, seed: int) -> Learner:
    """Embedding with its preprocessing, base learner and attention module, with fresh weights."""
    backbone = make_backbone(config.backbone, IMAGE_SIZE[config.dataset], config.widths, drop_block=config.drop_block)
    mean, std = NORMALISATION[config.backbone]
    embedding = Preprocessed(backbone, mean=mean, std=std, padding=_PADDING[config.dataset], seed=seed)
    attention = InverseAttention(backbone.out_features, config.reduction) if config.iam else None
    return Learner(embedding, make_base_learner(config.head, config.ridge, config.cost), attention)


def backbone_of(learner: Learner) -> nn.Module:
    """The network inside a learner's preprocessing."""
    assert isinstance(learner.embedding, Preprocessed)
    return learner.embedding.backbone


def split(config: LearningConfig, context: RunContext, name: str) -> tuple[Tensor, Tensor]:
    """Images uint8 `[n, side, side, 3]` and labels int64 `[n]` of `train`, `val` or `test`."""
    arrays = load(DATASETS[config.dataset], context.data_root)
    images, labels = (np.array(arrays[f"{name}_{kind}"]) for kind in ("images", "labels"))
    return torch.from_numpy(images), torch.from_numpy(labels)


def validation(config: LearningConfig, context: RunContext, device: torch.device) -> Callable[[Learner], float]:
    """A function that gives a learner's mean accuracy over the validation episodes, inductive or with its IAM."""
    images, labels = split(config, context, "val")
    sampler = EpisodeSampler(
        labels.numpy(), config.meta.n_way, config.val_shot, config.val_query, seed=_VALIDATION_SEED
    )

    def accuracy(learner: Learner) -> float:
        def classify(query: Tensor, support: Tensor, support_labels: Tensor, n_way: int) -> Tensor:
            if learner.attention is not None:
                support = learner.attention(query, support, support_labels, n_way)
            return learner.head(query, support, support_labels, n_way)

        features = embed(learner.embedding, images, device=device)
        found = episode_accuracies(classify, features, sampler, episodes=config.val_episodes, device=device)
        return float(found.mean())

    return accuracy


def save_weights(network: nn.Module, path: Path) -> None:
    """The network's state as safetensors."""
    safetensors.torch.save_file({name: value.cpu() for name, value in network.state_dict().items()}, path)
