"""The paper's claim on a laptop: composites of a digit that views share and a garment that they do not (spec 13).

A small ResNet learns from pairs of views, with or without a regulariser. At several lengths of training its features of
other composites are kept, and linear probes ask them for the digit and for the garment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from infocl.composites import Composites, CompositeViews, Halves, composites, halves
from infocl.methods import BarlowTwins, Byol, Method, SimClr
from infocl.networks import Decoder, DecoderPlan, SmallEncoder
from infocl.probes import converged_probe, reference_probe
from infocl.regularisers import feature_statistics
from infocl.training import TrainingConfig, train
from sextet.cuda import select_device
from sextet.data import FASHION_MNIST, MNIST, load, recorded_hash
from sextet.recipe import Metrics, Recipe, RunContext, Scores

METHODS: dict[str, Callable[..., Method]] = {"simclr": SimClr, "barlow": BarlowTwins, "byol": Byol}
TASKS = ("digit", "garment")
PROBES = ("reference", "converged")
DECODER = DecoderPlan((64, 2, 4), ((32, 2), (16, 2), (1, 2)))


@dataclass(frozen=True)
class LaptopConfig:
    """One cell: a method with a regulariser, after so many epochs, asked by a probe for a task.

    Attributes:
        method: `simclr`, `barlow` or `byol`.
        regulariser: `none`, `noise`, `rc` or `lbe`, see `methods.Method`.
        epochs: after which the probe looks; one of `checkpoints`.
        task: `digit`, what views share; or `garment`, what they do not.
        probe: `reference`, as published, last epoch; or `converged`.
        probe_epochs: of the reference probe.
        penalties: that the converged probe chooses from.
        checkpoints: epochs at which features are kept.
        images: composites an epoch of training.
        probe_images, test_images: composites for the probes.
        out: dimension of the projections.
        training: the recipe; lambda is `training.weight`.
    """

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
        for name, known in (("method", tuple(METHODS)), ("task", TASKS), ("probe", PROBES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.epochs not in self.checkpoints or max(self.checkpoints) > self.training.epochs:
            raise ValueError(
                f"epochs: expected one of the checkpoints {list(self.checkpoints)}, none after the last of "
                f"{self.training.epochs} epochs, got {self.epochs}"
            )


def run_laptop(config: LaptopConfig, context: RunContext) -> Metrics:
    """Right or wrong for every test composite (`accuracy`), and what the features are like there.

    `norm`: length of each feature vector; `participation_ratio`: how many directions they use.
    """
    features = safetensors.torch.load_file(features_stage(config, context) / f"epoch-{config.epochs}.safetensors")
    train_rows, test_rows = ((features[split], features[f"{split}_{config.task}"]) for split in ("train", "test"))
    if config.probe == "reference":
        hits = reference_probe(train_rows, test_rows, 10, seed=context.seed, epochs=config.probe_epochs).hits[-1]
    else:
        hits = converged_probe(train_rows, test_rows, 10, seed=context.seed, penalties=config.penalties).hits
    return {
        "accuracy": image_scores(hits.double()),
        "norm": image_scores(features["test"].norm(dim=1)),
        "participation_ratio": Scores((float(feature_statistics(features["test"])["participation_ratio"]),), "run"),
    }


def image_scores(values: Tensor) -> Scores:
    """One score a test image."""
    return Scores(tuple(values.tolist()), unit="image")


def features_stage(config: LaptopConfig, context: RunContext) -> Path:
    """Folder with `epoch-<n>.safetensors` for each checkpoint: features and labels of the probes' composites."""

    def build(folder: Path) -> None:
        device = select_device(context.device)
        pools = make_pools(config, context)
        torch.manual_seed(context.seed)
        model = make_model(config)

        def keep(trained: Method, epoch: int) -> None:
            if epoch in config.checkpoints:
                tensors = probe_features(trained, pools.probe, "train") | probe_features(trained, pools.test, "test")
                safetensors.torch.save_file(tensors, folder / f"epoch-{epoch}.safetensors")

        views = CompositeViews(pools.digits, pools.garments, seed=context.seed)
        train(model, views, config.training, folder, seed=context.seed, device=device, on_epoch=keep)

    return context.stage("composites", features_identity(config, context), build)


def features_identity(config: LaptopConfig, context: RunContext) -> dict[str, Any]:
    """What the features depend on."""
    names = ("method", "regulariser", "checkpoints", "images", "probe_images", "test_images", "out", "training")
    chosen = {name: value for name, value in asdict(config).items() if name in names}
    data = [recorded_hash(passport, context.data_root) for passport in (MNIST, FASHION_MNIST)]
    return {**chosen, "seed": context.seed, "data": data}


@dataclass(frozen=True, eq=False)
class Pools:
    """Digits and garments to train on, and composites for the probes, none of which was trained on."""

    digits: Halves
    garments: Halves
    probe: Composites
    test: Composites


def make_pools(config: LaptopConfig, context: RunContext) -> Pools:
    """The seed decides which images train and how halves are paired; the test images are the same for all seeds."""
    digits, garments = (load(passport, context.data_root) for passport in (MNIST, FASHION_MNIST))
    sources = ((digits, 2 * context.seed), (garments, 2 * context.seed + 1))
    pools = [halves(arrays, "train", config.images, seed=seed) for arrays, seed in sources]
    probe = [halves(a, "train", config.probe_images, start=config.images, seed=seed) for a, seed in sources]
    test = [halves(arrays, "test", config.test_images, seed=number) for number, arrays in enumerate((digits, garments))]
    return Pools(*pools, composites(*probe), composites(*test))


def make_model(config: LaptopConfig) -> Method:
    """The method on a fresh small ResNet."""
    encoder = SmallEncoder()
    decoder = Decoder(encoder.dim, DECODER) if config.regulariser == "rc" else None
    return METHODS[config.method](encoder, encoder.dim, config.regulariser, out=config.out, decoder=decoder)


@torch.no_grad()
def probe_features(model: Method, data: Composites, split: str) -> dict[str, Tensor]:
    """Noise-free features [n, dim] of composites, with both labels, under names that begin with `split`."""
    device = next(model.parameters()).device
    features = torch.cat([model.encoder(part.to(device))[-1].cpu() for part in data.images.split(500)])
    return {split: features, f"{split}_digit": data.digits, f"{split}_garment": data.garments}


RECIPE = Recipe(
    config=LaptopConfig,
    run=run_laptop,
    data=lambda _: (MNIST, FASHION_MNIST),
    describe="contrastive learning on composites of a shared digit and a private garment, probed for both",
)
