"""A pre-trained encoder on a dataset of the evaluation: cached features, and the published probes (7.3, 7.4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from infocl.crop_probe import CROPS, CropProbeConfig, crop_probe, following_of
from infocl.features import encode_photographs
from infocl.passports import DATASETS
from infocl.photograph_views import PhotographViews
from infocl.preprocessing import statistics_of
from infocl.pretraining import SIDES, PretrainingConfig, load_encoder
from infocl.probes import converged_probe, reference_probe
from infocl.stored_images import images_of
from sextet.cuda import select_device
from sextet.data import load, recorded_hash
from sextet.data.photographs import PhotographList
from sextet.files import write_atomic
from sextet.recipe import RunContext

Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Pretrained:
    """An encoder that a run of pre-training left.

    Attributes:
        config: of that run.
        folder: where it is.
        epoch: after which.
    """

    config: PretrainingConfig
    folder: Path
    epoch: int

    @property
    def file(self) -> Path:
        """Its weights."""
        return self.folder / f"encoder-{self.epoch}.safetensors"

    @property
    def cropped(self) -> bool:
        """Whether the protocol of ImageNet (7.4) goes with it, and not that of small images (7.3)."""
        return self.config.data == "ImageNet"

    def load(self) -> nn.Module:
        """The encoder, in evaluation mode."""
        return load_encoder(self.config, self.file)

    def side(self, dataset: str) -> int:
        """Of the images that a probe sees: that of pre-training, but 96 on STL-10 itself."""
        return 96 if (self.config.data, dataset) == ("STL-10", "STL-10") else SIDES[self.config.data]


def split_of(dataset: str, split: str, context: RunContext) -> PhotographList:
    """The images of one split of a dataset."""
    entry = DATASETS[dataset]
    return images_of(load(entry.passport, context.data_root), split, entry.classes)


def features(pretrained: Pretrained, dataset: str, context: RunContext) -> tuple[Labelled, Labelled]:
    """Features [n, dim] and labels [n] to train a probe on and to test it on, on the run's device; computed once.

    ImageNet models see the centre 224 x 224 of images whose shorter side is 256.
    """

    def build(folder: Path) -> None:
        encoder, tensors = pretrained.load(), {}
        for split in ("train", "test"):
            tensors |= _encoded(encoder, pretrained, dataset, split, context)
        write_atomic(folder / "features.safetensors", safetensors.torch.save(tensors))

    folder = context.stage("features", _identity(pretrained, dataset, context), build)
    tensors = safetensors.torch.load_file(folder / "features.safetensors")
    device = select_device(context.device)
    train, test = ((tensors[split].to(device), tensors[f"{split}_labels"].to(device)) for split in ("train", "test"))
    return train, test


def _encoded(
    encoder: nn.Module, pretrained: Pretrained, dataset: str, split: str, context: RunContext
) -> dict[str, Tensor]:
    images, device = split_of(dataset, split, context), select_device(context.device)
    h = encode_photographs(
        encoder,
        images,
        pretrained.side(dataset),
        statistics_of(DATASETS[dataset].statistics),
        device=device,
        fit="crop" if pretrained.cropped else "squash",
        resize=256 if pretrained.cropped else None,
        precision=pretrained.config.training.precision,
    )
    return {split: h, f"{split}_labels": torch.from_numpy(images.labels.copy())}


def _identity(pretrained: Pretrained, dataset: str, context: RunContext) -> dict[str, object]:
    """What features depend on; the encoder's folder is named by all that it depends on itself."""
    images = recorded_hash(DATASETS[dataset].passport, context.data_root)
    return {"encoder": pretrained.folder.name, "epoch": pretrained.epoch, "dataset": dataset, "images": images}


def reference_hits(pretrained: Pretrained, dataset: str, epochs: int, batch_size: int, context: RunContext) -> Tensor:
    """Whether each test image is right after each epoch of the published probe (7.3), bool [epochs, n]."""

    def build(folder: Path) -> None:
        train, test = features(pretrained, dataset, context)
        probe = reference_probe(
            train, test, DATASETS[dataset].classes, seed=context.seed, epochs=epochs, batch_size=batch_size
        )
        _keep(probe.hits, folder)

    identity = {**_identity(pretrained, dataset, context), "epochs": epochs, "batch": batch_size, "seed": context.seed}
    return _kept(context.stage("probe", identity, build))


def converged_hits(pretrained: Pretrained, dataset: str, context: RunContext) -> Tensor:
    """Whether each test image is right by the converged probe, bool [n]."""

    def build(folder: Path) -> None:
        train, test = features(pretrained, dataset, context)
        _keep(converged_probe(train, test, DATASETS[dataset].classes, seed=context.seed).hits, folder)

    identity = {**_identity(pretrained, dataset, context), "seed": context.seed}
    return _kept(context.stage("converged-probe", identity, build))


def _keep(hits: Tensor, folder: Path) -> None:
    write_atomic(folder / "hits.safetensors", safetensors.torch.save({"hits": hits}))


def _kept(folder: Path) -> Tensor:
    return safetensors.torch.load_file(folder / "hits.safetensors")["hits"]


def crop_probe_hits(pretrained: Pretrained, dataset: str, config: CropProbeConfig, context: RunContext) -> Tensor:
    """Whether each test image is right after each epoch of the probe on random crops (7.4), bool [epochs, n]."""

    def build(folder: Path) -> None:
        device, encoder = select_device(context.device), pretrained.load()
        mean, std = statistics_of(DATASETS[dataset].statistics)
        tensors = _encoded(encoder, pretrained, dataset, "test", context)
        images = split_of(dataset, "train", context)
        views = PhotographViews(
            images,
            replace(CROPS, size=pretrained.side(dataset)),
            seed=context.seed,
            count=1,
            labels=True,
            mean=mean,
            std=std,
            device=device,
            following=following_of(len(images), config.batch_size, context.seed, config.epochs),
        )
        test = tensors["test"], tensors["test_labels"]
        classes = DATASETS[dataset].classes
        hits = crop_probe(encoder, views, test, classes, config, folder, seed=context.seed, device=device)
        _keep(hits, folder)

    identity = {**_identity(pretrained, dataset, context), "probe": asdict(config), "seed": context.seed}
    return _kept(context.stage("crop-probe", identity, build))
