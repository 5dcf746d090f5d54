"""The paper's claim on a laptop (spec 13).

A small ResNet learns from pairs of views, with or without a regulariser. At several lengths of training its features of
other images are kept, and linear probes ask them for what views share and for what they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from infocl.laboratory import Counts, Laboratory, composites_laboratory, needed, photographs_laboratory
from infocl.methods import BarlowTwins, Byol, Method, SimClr
from infocl.networks import Decoder, SmallEncoder
from infocl.probes import converged_probe, reference_probe
from infocl.regularisers import feature_statistics
from infocl.training import TrainingConfig, train
from sextet.cuda import select_device
from sextet.data import CIFAR10, FASHION_MNIST, MNIST, load, recorded_hash
from sextet.recipe import Metrics, Recipe, RunContext, Scores

METHODS: dict[str, Callable[..., Method]] = {"simclr": SimClr, "barlow": BarlowTwins, "byol": Byol}
TASKS = {"composites": ("digit", "garment"), "photographs": ("photographs", "digits", "garments")}
PROBES = ("reference", "converged")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class LaptopConfig:
    """One cell: a method with a regulariser, after so many epochs, asked by a probe for a task.

    Attributes:
        data: `composites` of a digit, which views share, and a garment, which they do not; or `photographs`, CIFAR-10
            in miniature.
        method: `simclr`, `barlow` or `byol`.
        regulariser: `none`, `noise`, `rc` or `lbe`, see `methods.Method`.
        epochs: after which the probe looks; one of `checkpoints`.
        task: of composites `digit` or `garment`; of photographs `photographs`, or transfer to `digits` or `garments`.
        probe: `reference`, as published, last epoch; or `converged`.
        probe_epochs: of the reference probe.
        penalties: that the converged probe chooses from.
        checkpoints: epochs at which features are kept.
        images: images an epoch of training.
        probe_images, test_images: for the probes.
        out: dimension of the projections.
        training: the recipe; lambda is `training.weight`.
    """

    data: str = "composites"
    method: str = "simclr"
    regulariser: str = "none"
    epochs: int = 12
    task: str = "garment"
    probe: str = "converged"
    probe_epochs: int = 40
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    checkpoints: tuple[int, ...] = (4, 8, 12)
    images: int = 8000
    probe_images: int = 5000
    test_images: int = 3000
    out: int = 64
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=12, lr=1e-3, channels_last=True))

    def __post_init__(self) -> None:
        known = {"data": tuple(TASKS), "method": tuple(METHODS), "probe": PROBES, "task": TASKS.get(self.data, ())}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}: expected one of {', '.join(values)}, got {getattr(self, name)!r}")
        if self.epochs not in self.checkpoints or max(self.checkpoints) > self.training.epochs:
            raise ValueError(
                f"epochs: expected one of the checkpoints {list(self.checkpoints)}, none after the last of "
                f"{self.training.epochs} epochs, got {self.epochs}"
            )


def run_laptop(config: LaptopConfig, context: RunContext) -> Metrics:
    """Right or wrong for every test image (`accuracy`), and what the features are like there.

    `norm`: length of each feature vector; `participation_ratio`: how many directions they use.
    """
    features = safetensors.torch.load_file(features_stage(config, context) / f"epoch-{config.epochs}.safetensors")
    known, asked = ((features[f"{config.task}.{split}"], features[f"{config.task}.{split}.labels"]) for split in SPLITS)
    if config.probe == "reference":
        hits = reference_probe(known, asked, 10, seed=context.seed, epochs=config.probe_epochs).hits[-1]
    else:
        hits = converged_probe(known, asked, 10, seed=context.seed, penalties=config.penalties).hits
    return {
        "accuracy": image_scores(hits.double()),
        "norm": image_scores(asked[0].norm(dim=1)),
        "participation_ratio": Scores((float(feature_statistics(asked[0])["participation_ratio"]),), unit="run"),
    }


def image_scores(values: Tensor) -> Scores:
    """One score a test image."""
    return Scores(tuple(values.tolist()), unit="image")


def features_stage(config: LaptopConfig, context: RunContext) -> Path:
    """Folder with `epoch-<n>.safetensors` for each checkpoint: features and labels for each task's probe."""

    def build(folder: Path) -> None:
        laboratory = make_laboratory(config, context)
        torch.manual_seed(context.seed)
        model = make_model(config, laboratory)

        def keep(trained: Method, epoch: int) -> None:
            if epoch in config.checkpoints:
                safetensors.torch.save_file(probe_features(trained, laboratory), folder / f"epoch-{epoch}.safetensors")

        device = select_device(context.device)
        train(model, laboratory.source, config.training, folder, seed=context.seed, device=device, on_epoch=keep)

    return context.stage(f"{config.data}-features", features_identity(config, context), build)


def features_identity(config: LaptopConfig, context: RunContext) -> dict[str, Any]:
    """What the features depend on."""
    probing = ("epochs", "task", "probe", "probe_epochs", "penalties")
    chosen = {name: value for name, value in asdict(config).items() if name not in probing}
    hashes = [recorded_hash(passport, context.data_root) for passport in needed(config.data)]
    return {**chosen, "seed": context.seed, "hashes": hashes}


def make_laboratory(config: LaptopConfig, context: RunContext) -> Laboratory:
    """The setting of a config."""
    counts = Counts(config.images, config.probe_images, config.test_images)
    digits, garments = (load(passport, context.data_root) for passport in (MNIST, FASHION_MNIST))
    if config.data == "composites":
        return composites_laboratory(digits, garments, counts, context.seed)
    others = {"digits": digits, "garments": garments}
    return photographs_laboratory(load(CIFAR10, context.data_root), others, counts, context.seed)


def make_model(config: LaptopConfig, laboratory: Laboratory) -> Method:
    """The method on a fresh small ResNet."""
    encoder = SmallEncoder(laboratory.channels)
    decoder = Decoder(encoder.dim, laboratory.decoder) if config.regulariser == "rc" else None
    return METHODS[config.method](encoder, encoder.dim, config.regulariser, out=config.out, decoder=decoder)


@torch.no_grad()
def probe_features(model: Method, laboratory: Laboratory) -> dict[str, Tensor]:
    """For each task and split noise-free features [n, dim], `<task>.<split>`, and labels, `<task>.<split>.labels`."""
    device = next(model.parameters()).device
    found = {
        name: [torch.cat([model.encoder(part.to(device))[-1].cpu() for part in images.split(500)]) for images in pair]
        for name, pair in laboratory.images.items()
    }
    tensors = {}
    for name, task in laboratory.tasks.items():
        for split, features, labels in zip(SPLITS, found[task.images], (task.train, task.test), strict=True):
            # Several tasks may look at the same features, and files cannot hold a tensor twice
            tensors |= {f"{name}.{split}": features.clone(), f"{name}.{split}.labels": labels}
    return tensors


RECIPE = Recipe(
    config=LaptopConfig,
    run=run_laptop,
    data=lambda config: needed(config.data),
    describe="contrastive learning of a small ResNet, probed for what views share and for what they do not",
)
