"""The paper's experiments: from mini-ImageNet to eight domains, five heads, seven ways to meta-train, fine-tuning.

One run is one cell: pre-training (shared by all cells of an encoder), meta-training (shared by the cells that differ in
the test alone), test on one domain at one shot. The same on open data is a matter of `source` and `domain`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from cdfsl_ata.checkpoints import load_published, read_published
from cdfsl_ata.evaluation import evaluate
from cdfsl_ata.learners import Learner
from cdfsl_ata.lrp import ExplainedLearner
from cdfsl_ata.networks import make_encoder, make_learner
from cdfsl_ata.paper_config import LINEAR, PaperConfig
from cdfsl_ata.paper_data import passports, source_images, target_images
from cdfsl_ata.photographs import StoredPhotographs
from cdfsl_ata.samplers import make_sampler
from cdfsl_ata.training import meta_train, pretrain
from cdfsl_ata.tuned_evaluation import episodic_score, linear_score, tuned_accuracies
from sextet.checkpoint import CheckpointError
from sextet.cuda import autocast, select_device
from sextet.files import write_atomic
from sextet.recipe import Metrics, Recipe, RunContext, Scores, plain
from sextet.training import read_log

VALIDATION_SEED = 0


def run_paper(config: PaperConfig, context: RunContext) -> Metrics:
    """Accuracy over the domain's test episodes, one score an episode, and what the ascent did in training."""
    device = select_device(context.device)
    images, labels = target_images(config.domain, config.source, context.data_root)
    target = StoredPhotographs(images, labels, config.image_size, enlarge=config.enlarge, device=device)
    sampler = make_sampler(
        labels, config.n_way, config.n_shot, config.n_query, context.seed, config.settled.pad_small_classes or 0
    )
    tuning, precision = config.settled_tuning, config.precision
    if config.head == LINEAR:
        encoder = load_pretrained(make_encoder(config.network), pretraining_stage(config, context))
        score = linear_score(encoder.to(device), target, sampler, tuning, precision=precision)
    else:
        folder = meta_training_stage(config, context)
        learner = load_learner(config, folder).to(device)
        if not config.fine_tune:
            with autocast(device, precision):
                accuracies = evaluate(learner, target, sampler, episodes=config.episodes, bn_mode=config.bn_mode)
            return {"accuracy": Scores(tuple(accuracies.tolist())), **ascent_metrics(folder)}
        score = episodic_score(learner, target, sampler, tuning, precision=precision)
    identity = {**plain(config), "seed": context.seed}
    accuracies = tuned_accuracies(
        score, config.episodes, context.directory / "tuned", identity, together=tuning.together
    )
    return {"accuracy": Scores(tuple(accuracies.tolist()))}


def pretraining_stage(config: PaperConfig, context: RunContext) -> Path:
    """Folder of the pre-trained `encoder.safetensors`, which all heads of an encoder start from (section 5)."""
    network = config.network
    form = "maps" if network.on_maps and config.encoder.startswith("Conv") else "any"

    def build(folder: Path) -> None:
        torch.manual_seed(context.seed)
        encoder = make_encoder(network)
        if config.pretrained:
            load_all(encoder, read_published(config.pretrained), config.pretrained)
        else:
            pooled = nn.Sequential(encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten()) if network.on_maps else encoder
            pretrain(
                pooled,
                source_photographs(config, context, "base"),
                config.pretraining,
                folder,
                seed=context.seed,
                device=select_device(context.device),
                precision=config.precision,
            )
        save_weights(encoder, folder / "encoder.safetensors")

    key = {name: getattr(config, name) for name in ("source", "encoder", "image_size", "stem_pool", "precision")}
    if config.pretrained:
        if not Path(config.pretrained).is_file():
            raise CheckpointError(f"pretrained: expected a published checkpoint, and {config.pretrained} is not there")
        key = {"file": hashlib.sha256(Path(config.pretrained).read_bytes()).hexdigest(), "encoder": config.encoder}
    else:
        key |= {"pretraining": plain(config.pretraining), "augmentation": plain(config.augmentation)}
        key |= {"seed": context.seed}
    return context.stage("cdfsl-encoder", {**key, "form": form}, build)


def meta_training_stage(config: PaperConfig, context: RunContext) -> Path:
    """Folder of the `learner.safetensors` that validated best, and of the log of its training (section 6)."""
    encoder = pretraining_stage(config, context)

    def build(folder: Path) -> None:
        torch.manual_seed(context.seed)
        device = select_device(context.device)
        learner = make_learner(config.network, config.meta.n_support, transform=config.method == "ft")
        load_pretrained(learner.feature, encoder)
        best = meta_train(
            ExplainedLearner(learner) if config.method == "lrp" else learner,  # pyright: ignore[reportArgumentType]
            source_photographs(config, context, "base"),
            config.meta,
            folder,
            seed=context.seed,
            device=device,
            augmenter=config.ascent.augmenter(learner) if config.ascent else None,
            validate=validation(config, context, learner),
            precision=config.precision,
            save_every=config.episodes_per_epoch,
        )
        save_weights(learner, folder / "learner.safetensors")
        chosen = {"validation_accuracy": best.score, "epoch": best.epoch}
        write_atomic(folder / "selection.json", json.dumps(chosen).encode())

    key = {
        "encoder": encoder.name,
        "network": plain(config.network),
        "transform": config.method == "ft",
        "explained": config.method == "lrp",
        "ascent": plain(config.ascent) if config.ascent else None,
        "meta": plain(config.meta),
        "augmentation": plain(config.augmentation),
        "val_episodes": config.val_episodes,
        "precision": config.precision,
        "source": config.source,
        "enlarge": config.enlarge,
        "seed": context.seed,
    }
    return context.stage("cdfsl-learner", key, build)


def validation(config: PaperConfig, context: RunContext, learner: Learner) -> Callable[[int], float]:
    """A function from an epoch to the learner's mean accuracy over that epoch's validation episodes, in eval mode."""
    source = source_photographs(config, context, "val")
    meta = config.meta
    sampler = make_sampler(source.labels, meta.n_way, meta.n_support, meta.n_query, VALIDATION_SEED, 0)

    def score(epoch: int) -> float:
        count = config.val_episodes
        with autocast(source.device, config.precision):
            found = evaluate(learner, source, sampler, episodes=count, start=epoch * count, embed_once=False)
        return float(found.mean())

    return score


def source_photographs(config: PaperConfig, context: RunContext, split: Literal["base", "val"]) -> StoredPhotographs:
    """Images of the source; those of `base` are augmented where a training step is given."""
    return StoredPhotographs(
        *source_images(config.source, split, context.data_root),
        config.image_size,
        augmentation=config.augmentation if split == "base" else None,
        enlarge=config.enlarge,
        seed=context.seed,
        device=select_device(context.device),
    )


def load_pretrained(encoder: nn.Module, folder: Path) -> nn.Module:
    """The encoder with the weights of a pre-training stage."""
    return load_all(encoder, safetensors.torch.load_file(folder / "encoder.safetensors"), folder)


def load_learner(config: PaperConfig, folder: Path) -> Learner:
    """The plain learner of a meta-training stage: feature-wise transformations have no part in a test."""
    learner = make_learner(config.network, config.meta.n_support)
    load_all(learner, safetensors.torch.load_file(folder / "learner.safetensors"), folder)
    return learner


def load_all(module: nn.Module, weights: Mapping[str, Tensor], where: Path | str) -> nn.Module:
    """The module with published or stored weights, of which none may be missing.

    Raises:
        CheckpointError: a tensor is missing, or has another shape.
    """
    loaded = load_published(module, weights)
    if loaded.missing:
        raise CheckpointError(f"{where}: lacks {', '.join(loaded.missing[:3])}, which this network needs")
    return module


def save_weights(module: nn.Module, path: Path) -> None:
    """A module's state as safetensors."""
    weights = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    safetensors.torch.save_file(weights, path)


def ascent_metrics(folder: Path) -> dict[str, Scores]:
    """Of the second half of meta-training: `perturbation_rms` a step and, where it was measured, `loss_gain`.

    The gain is relative, and useful at 0.1 to 0.5; the training loss must stay clearly below ln n_way (section 17).
    Empty for methods without the ascent.
    """
    log = read_log(folder)
    late = [entry for entry in log[len(log) // 2 :] if "perturbation_rms" in entry]
    measured = [entry for entry in late if "loss_after" in entry]
    found = {
        "perturbation_rms": tuple(entry["perturbation_rms"] for entry in late),
        "loss_gain": tuple(entry["loss_after"] / entry["loss_before"] - 1 for entry in measured),
    }
    return {name: Scores(values, unit="step") for name, values in found.items() if values}


PAPER = Recipe(
    config=PaperConfig,
    run=run_paper,
    data=lambda config: passports(config.source, config.domain),
    describe="the paper's experiments: meta-training on one source, few-shot tests on domains that were never seen",
)
