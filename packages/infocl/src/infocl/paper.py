"""The paper's own experiments: pre-training, then linear probes on the source and on the transfer suite.

One run is one cell. Pre-training is shared by all cells that differ in the evaluation alone, features by all probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from infocl.crop_probe import CropProbeConfig
from infocl.detection_export import DETECTION, average_precision, export_detection
from infocl.knn import knn_hits
from infocl.passports import DATASETS
from infocl.pretraining import PretrainingConfig, pretrain
from infocl.training import TrainingConfig
from infocl.transfer import Pretrained, converged_hits, crop_probe_hits, features, reference_hits
from sextet.checkpoint import load_foreign
from sextet.data import Passport, recorded_hash
from sextet.recipe import Metrics, Recipe, RunContext, Scores, plain

TRANSFER = ("dtd", "mnist", "fashionmnist", "cu_birds", "vgg_flower", "traffic_sign")
"""The six sets whose unweighted mean Figures 4 and 5 show."""

PROTOCOLS = ("ours", "as-published", "converged", "knn")


class Published(NamedTuple):
    """What the published command lines set for each method and dataset (7.1).

    Attributes:
        batch_size: images a step.
        rc, lbe: lambda of either term.
        lbe_sigma: noise of LBE.
    """

    batch_size: int
    rc: float
    lbe: float
    lbe_sigma: float = 0.1


PUBLISHED: dict[tuple[str, str], Published] = {
    ("simclr", "CIFAR10"): Published(256, 1.0, 1.0),
    ("simclr", "STL-10"): Published(256, 1.0, 1.0),
    ("simclr", "ImageNet"): Published(1024, 0.1, 1.0),
    ("byol", "CIFAR10"): Published(128, 0.1, 0.1),
    ("byol", "STL-10"): Published(256, 0.1, 0.1),
    ("barlow", "CIFAR10"): Published(128, 1.0, 1.0),
    ("barlow", "STL-10"): Published(256, 1.0, 1.0),
    ("supervised", "CIFAR10"): Published(256, 0.001, 0.1, 0.01),
    ("supervised", "CIFAR100"): Published(256, 0.01, 1.0, 0.01),
}
VIEW_DISTANCE = 5e-4
"""lambda of IP and MIB."""


@dataclass(frozen=True)
class PaperConfig:
    """One cell of the paper's tables. None, 0 or an empty text stand for the published value.

    Attributes:
        data: what is pre-trained on: `CIFAR10`, `CIFAR100`, `STL-10`, `ImageNet`.
        method: `simclr`, `byol`, `barlow`, `supervised`.
        regulariser: `none`, `noise`, `rc`, `lbe`, `ip`, `mib`.
        weight: lambda.
        sigma, rho, stage_weights: of LBE.
        epochs, batch_size, precision: of pre-training.
        at_epoch: look at the encoder after so many of the epochs.
        checkpoints: epochs at which other cells look at the same run.
        evaluate_on: `source`; a key of `passports.DATASETS`; `transfer`, the mean of the six sets of Table 1; or
            `voc`, `coco-detection`, `coco-segmentation` (see `detection_export`).
        protocol: `ours`: the published probe after its last epoch; `as-published`: its best epoch, chosen on the test
            set; `converged`: see `probes.converged_probe`; `knn`: see `knn.nearest_neighbours`.
        detection: which average precision: `AP`, `AP50`, `AP75`.
        probe_epochs, probe_batch_size: of the published probe.
        arch: of the encoder.
        processes: that share the pre-training, one a GPU; ImageNet has 4.
    """

    data: str = "CIFAR10"
    method: str = "simclr"
    regulariser: str = "none"
    weight: float | None = None
    sigma: float | None = None
    rho: float = 0.0
    stage_weights: tuple[float, ...] = ()
    epochs: int = 200
    batch_size: int = 0
    precision: str = "tf32"
    at_epoch: int = 0
    checkpoints: tuple[int, ...] = ()
    evaluate_on: str = "source"
    protocol: str = "ours"
    detection: str = "AP"
    probe_epochs: int = 100
    probe_batch_size: int = 0
    arch: str = ""
    processes: int = 0

    def __post_init__(self) -> None:
        known = {
            "evaluate_on": ("source", "transfer", *DATASETS, *DETECTION),
            "protocol": PROTOCOLS,
            "detection": ("AP", "AP50", "AP75"),
        }
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if (self.method, self.data) not in PUBLISHED:
            pairs = ", ".join(f"{method} on {data}" for method, data in PUBLISHED)
            raise ValueError(f"method, data: expected one of {pairs}, got {self.method} on {self.data}")
        if self.at_epoch and self.at_epoch not in (*self.checkpoints, self.epochs):
            raise ValueError(f"at_epoch: expected one of the checkpoints, got {self.at_epoch}")
        if self.evaluate_on in DETECTION and self.data != "ImageNet":
            raise ValueError(f"evaluate_on: {self.evaluate_on} goes with pre-training on ImageNet")
        self.pretraining()

    @property
    def datasets(self) -> tuple[str, ...]:
        """What the cell is evaluated on; empty for detection."""
        if self.evaluate_on in DETECTION:
            return ()
        named = {"source": (self.data,), "transfer": TRANSFER}
        return named.get(self.evaluate_on, (self.evaluate_on,))

    def pretraining(self) -> PretrainingConfig:
        """What the encoder depends on, with the published values filled in."""
        published, imagenet = PUBLISHED[self.method, self.data], self.data == "ImageNet"
        weights = {"rc": published.rc, "lbe": published.lbe, "ip": VIEW_DISTANCE, "mib": VIEW_DISTANCE}
        sigma = published.lbe_sigma if self.regulariser == "lbe" else 0.1
        batch_size = self.batch_size or published.batch_size
        training = TrainingConfig(
            epochs=self.epochs,
            batch_size=batch_size,
            weight=weights.get(self.regulariser, 0.0) if self.weight is None else self.weight,
            precision=self.precision,  # pyright: ignore[reportArgumentType]
        )
        if imagenet:
            training = replace(
                training, optimizer="published-lars", lr=0.3 * batch_size / 256, weight_decay=1e-6, schedule="cosine"
            )
        return PretrainingConfig(
            data=self.data,
            method=self.method,
            regulariser=self.regulariser,
            sigma=sigma if self.sigma is None else self.sigma,
            rho=self.rho or (0.0125 if imagenet else 0.05),
            stage_weights=self.stage_weights or ((0.0, 0.0, 1.0) if imagenet else (0.25, 0.5, 1.0)),
            arch=self.arch or ("resnet50" if imagenet else "resnet18"),
            checkpoints=self.checkpoints,
            processes=self.processes or (4 if imagenet else 1),
            training=training,
        )


def run_paper(config: PaperConfig, context: RunContext) -> Metrics:
    """`accuracy`: right or wrong for every test image; for `transfer`, of every dataset; or an average precision."""
    pretrained = encoder_stage(config, context)
    if config.evaluate_on in DETECTION:
        folder = detection_folder(pretrained, config.evaluate_on)
        export_detection(load_foreign(pretrained.file), config.evaluate_on, folder)
        return {"accuracy": Scores((average_precision(folder, config.evaluate_on, config.detection),), "benchmark")}
    found = {dataset: hits_of(config, pretrained, dataset, context).double() for dataset in config.datasets}
    if config.evaluate_on == "transfer":
        return {"accuracy": Scores(tuple(float(hits.mean()) for hits in found.values()), unit="dataset")}
    (hits,) = found.values()
    return {"accuracy": Scores(tuple(hits.tolist()), unit="image")}


def detection_folder(pretrained: Pretrained, task: str) -> Path:
    """Where detectron2 finds an encoder and leaves its results, shared by all cells that show one of them."""
    return pretrained.folder / f"detection-{pretrained.epoch}" / Path(DETECTION[task].config).stem


def encoder_stage(config: PaperConfig, context: RunContext) -> Pretrained:
    """The pre-trained encoder of a cell."""
    pretraining = config.pretraining()

    def build(folder: Path) -> None:
        pretrain(pretraining, folder, seed=context.seed, device=context.device, root=context.data_root)

    images = recorded_hash(DATASETS[config.data].passport, context.data_root)
    folder = context.stage("encoder", {**plain(pretraining), "seed": context.seed, "images": images}, build)
    return Pretrained(pretraining, folder, config.at_epoch or config.epochs)


def hits_of(config: PaperConfig, pretrained: Pretrained, dataset: str, context: RunContext) -> Tensor:
    """Right or wrong for every test image of one dataset, bool [n]."""
    if config.protocol == "converged":
        return converged_hits(pretrained, dataset, context)
    if config.protocol == "knn":
        return knn_hits(*features(pretrained, dataset, context), DATASETS[dataset].classes)
    batch_size = config.probe_batch_size or (256 if dataset == "ImageNet" else 128)
    if pretrained.cropped:
        probe = CropProbeConfig(config.probe_epochs, batch_size, precision=pretrained.config.training.precision)
        table = crop_probe_hits(pretrained, dataset, probe, context)
    else:
        table = reference_hits(pretrained, dataset, config.probe_epochs, batch_size, context)
    return table[int(table.sum(dim=1).argmax())] if config.protocol == "as-published" else table[-1]


def paper_data(config: PaperConfig) -> Sequence[Passport]:
    """The datasets that a config needs; detection's own are detectron2's business."""
    return [DATASETS[name].passport for name in dict.fromkeys((config.data, *config.datasets))]


PAPER = Recipe(
    config=PaperConfig,
    run=run_paper,
    data=paper_data,
    describe="the paper's experiments: pre-training on CIFAR, STL-10 or ImageNet, linear probes on the transfer suite",
)
