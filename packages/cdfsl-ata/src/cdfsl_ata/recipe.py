"""The laptop experiment (section 17.1): from garments to handwriting, each learner with and without ATA.

A small residual network is pre-trained on Fashion-MNIST, meta-trained on its episodes by one of the methods, and tested
on episodes of domains that were never seen. What was trained once serves all domains and shots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from cdfsl_ata.domains import PASSPORTS, domain_images
from cdfsl_ata.encoders import FeatureWiseTransform, SmallResNet
from cdfsl_ata.evaluation import evaluate
from cdfsl_ata.images import PackedImages, crop_and_flip
from cdfsl_ata.learners import Learner, ProtoNet, RelationNet
from cdfsl_ata.training import AscentConfig, MetaTrainingConfig, PretrainingConfig, meta_train, pretrain
from sextet.cuda import select_device
from sextet.data import FASHION_MNIST
from sextet.episodes import EpisodeSampler
from sextet.recipe import Metrics, Recipe, RunContext, Scores
from sextet.training import read_log

PADDING = 3
MAP_SIZE = 4


@dataclass(frozen=True)
class LaptopConfig:
    """One cell: a learner trained by a method, tested on one domain at one shot.

    Attributes:
        head: `proto` or `relation`.
        transform: whether the encoder has feature-wise transformations in meta-training (FT).
        ascent: the plug-in; by default it does nothing, which is plain training.
        domain: a test domain, or `validation`: images of the source that were not trained on.
        n_way, n_shot, n_query, episodes: the test episodes; their seed is the run's, so that they are the same for
            every method.
        per_class: images of a class in the domain.
        meta: of meta-training; its shots serve both tests. No validation: the last weights are tested.
        pretraining: of the encoder.
    """

    head: str = "proto"
    transform: bool = False
    ascent: AscentConfig = field(default_factory=lambda: AscentConfig(steps=0, p_original=1.0))
    domain: str = "mnist"
    n_way: int = 5
    n_shot: int = 5
    n_query: int = 15
    episodes: int = 600
    per_class: int = 150
    meta: MetaTrainingConfig = field(
        default_factory=lambda: MetaTrainingConfig(n_query=4, epochs=1, episodes_per_epoch=400)
    )
    pretraining: PretrainingConfig = field(
        default_factory=lambda: PretrainingConfig(steps=400, batch_size=64, outputs=10)
    )

    def __post_init__(self) -> None:
        for name, known in (("head", ("proto", "relation")), ("domain", tuple(PASSPORTS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")


def run_laptop(config: LaptopConfig, context: RunContext) -> Metrics:
    """Accuracy over the domain's test episodes, and what the training log says (`training_metrics`)."""
    device = select_device(context.device)
    folder = meta_training_stage(config, context, device)
    learner = make_learner(config)
    learner.load_state_dict(safetensors.torch.load_file(folder / "learner.safetensors"))
    source = PackedImages(*domain_images(config.domain, context.data_root, config.per_class), device=device)
    sampler = EpisodeSampler(source.labels, config.n_way, config.n_shot, config.n_query, seed=context.seed)
    accuracies = evaluate(learner.to(device), source, sampler, episodes=config.episodes)
    return {"accuracy": Scores(tuple(accuracies.tolist())), **training_metrics(folder, config)}


def pretraining_stage(config: LaptopConfig, context: RunContext, device: torch.device) -> Path:
    """Folder of the pre-trained encoder, shared by all methods and heads of a seed."""

    def build(folder: Path) -> None:
        torch.manual_seed(context.seed)
        encoder = SmallResNet()
        pretrain(
            encoder, training_images(context, device), config.pretraining, folder, seed=context.seed, device=device
        )
        safetensors.torch.save_file(encoder.cpu().state_dict(), folder / "encoder.safetensors")

    return context.stage("ata-encoder", {"pretraining": asdict(config.pretraining), "seed": context.seed}, build)


def meta_training_stage(config: LaptopConfig, context: RunContext, device: torch.device) -> Path:
    """Folder of the learner after meta-training by one method."""

    def build(folder: Path) -> None:
        encoder = pretraining_stage(config, context, device)
        torch.manual_seed(context.seed)
        learner = make_learner(config)
        load_encoder(learner.feature, safetensors.torch.load_file(encoder / "encoder.safetensors"))
        augmenter = config.ascent.augmenter(learner)
        images = training_images(context, device)
        meta_train(learner, images, config.meta, folder, seed=context.seed, device=device, augmenter=augmenter)
        safetensors.torch.save_file(learner.cpu().state_dict(), folder / "learner.safetensors")

    names = ("head", "transform", "ascent", "meta", "pretraining")
    key = {name: value for name, value in asdict(config).items() if name in names}
    return context.stage("ata-learner", {**key, "seed": context.seed}, build)


def make_learner(config: LaptopConfig) -> Learner:
    """The learner with fresh weights, for the number of shots it is trained with."""
    norm = FeatureWiseTransform if config.transform else nn.BatchNorm2d
    encoder = SmallResNet(flatten=config.head == "proto", last_norm=norm)
    if config.head == "proto":
        return ProtoNet(encoder, config.meta.n_support)
    return RelationNet(encoder, config.meta.n_support, channels=encoder.dim, size=MAP_SIZE)


def load_encoder(encoder: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put in pre-trained weights; feature-wise transformations keep their own gamma and beta, which have none.

    Raises:
        ValueError: other weights are missing or left over.
    """
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    other = [name for name in missing if name.rpartition(".")[2] not in ("gamma", "beta")]
    if other or unexpected:
        raise ValueError(f"encoder: missing weights {other}, left over {unexpected}")


def training_images(context: RunContext, device: torch.device) -> PackedImages:
    """The source's training images with random crops and flips by the run's seed."""
    images, labels = domain_images("training", context.data_root)
    return PackedImages(images, labels, augment=crop_and_flip(PADDING), seed=context.seed, device=device)


def training_metrics(folder: Path, config: LaptopConfig) -> dict[str, Scores]:
    """From the second half of the training log, one score a step.

    `perturbation_rms`, in standard deviations of the pixels; `loss_over_chance`, the loss on the augmented tasks
    divided by that of equal scores (ln n_way for cross-entropy, (n_way - 1) / n_way^2 for the squared error), which
    must stay clearly below 1; `loss_gain`, the relative gain of the loss in the ascent, at the steps that measured it
    (absent without ascent).
    """
    log = read_log(folder)
    late: list[dict[str, Any]] = log[len(log) // 2 :]
    n_way = config.meta.n_way
    chance = float(torch.tensor(n_way).log()) if config.head == "proto" else (n_way - 1) / n_way**2
    found = {
        "perturbation_rms": [entry["perturbation_rms"] for entry in late],
        "loss_over_chance": [entry["loss"] / chance for entry in late],
        "loss_gain": [
            entry["loss_after"] / entry["loss_before"] - 1
            for entry in late
            if {"loss_after", "loss_before"} <= entry.keys()
        ],
    }
    return {name: Scores(tuple(values), unit="step") for name, values in found.items() if values}


RECIPE = Recipe(
    config=LaptopConfig,
    run=run_laptop,
    data=lambda config: tuple({FASHION_MNIST.name: FASHION_MNIST, config.domain: PASSPORTS[config.domain]}.values()),
    describe="few-shot classification of unseen domains by learners meta-trained on garments, with and without ATA",
)
