"""Adapters and their backbone, masked images, contrastive images."""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.faults.trainer import (
    SEED,
    Trainer,
    accelerator,
    pictures,
    spoil_call,
    spoil_row,
    weights_of,
)
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from bi_adapter import BiAdapterConfig, attach
from bi_adapter.evaluation import BestOnTest, hits
from bi_adapter.small_vit import PretrainingConfig as BackboneConfig
from bi_adapter.small_vit import pretrain as pretrain_backbone
from bi_adapter.training import FineTuning, epoch_order, fine_tune
from infocl import Augmentation, SimClr, TrainingConfig, Views
from infocl import train as train_contrastive
from lmim import LocalMim
from lmim.config import FineTuningConfig, PretrainingConfig
from lmim.finetuning import fine_tune as tune_whole
from lmim.pretraining import pretrain as pretrain_masked
from lmim.schedule import vit_layer

ADAPTATION = FineTuning(epochs=8, batch_size=8, lr=0.01, warmup=1)
ROWS = 37
BACKBONE = BackboneConfig(images=32, epochs=66, batch_size=4, lr=5e-3)
MASKED = PretrainingConfig(epochs=6, warmup_epochs=1, batch=8, base_lr=0.03, lr_min=0.0, precision="fp32")
WHOLE = FineTuningConfig(epochs=6, warmup_epochs=1, batch=12, lr=5e-3, precision="fp32")
CONTRASTIVE = TrainingConfig(epochs=10, batch_size=8, lr=1e-3, save_every=3)


def small_vit(classes: int, channels: int = 3, drop_path: float = 0.0) -> VisionTransformer:
    """5 tokens of width 24, two blocks, for images of 16 x 16."""
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=16, patch_size=8, in_chans=channels, embed_dim=24, depth=2, num_heads=3, num_classes=classes,
        drop_path_rate=drop_path,
    )  # fmt: skip


def adaptation(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """1-bit adapters with dropout, augmentation, and the published choice of an epoch; `spoilt` is an image."""
    images = torch.randn(ROWS, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = (images[:, 0, 0, 0] > 0).long()
    model, best = attach(small_vit(2), BiAdapterConfig(dim=4)), BestOnTest()
    training_images = spoil_row(images, spoilt)

    def draw(rows: Tensor, generator: torch.Generator) -> Tensor:
        drawn = training_images[rows]
        return (drawn + 0.1 * torch.randn(drawn.shape, generator=generator)).to(device)

    def after_epoch(epoch: int) -> None:
        best.offer(hits(model, lambda rows, _: images[rows].to(device), labels, device=device), epoch)

    fine_tune(
        model, draw, labels, ADAPTATION, folder, seed=SEED, device=device, after_epoch=after_epoch,
        state={"best": best}, save_every=1,
    )  # fmt: skip
    return weights_of(model)


def adaptation_rows(step: int) -> Tensor:
    """Images of a step."""
    epoch, position = divmod(step, ROWS // ADAPTATION.batch_size)
    return epoch_order(ROWS, epoch, SEED)[position * ADAPTATION.batch_size :][: ADAPTATION.batch_size]


def backbone(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """Supervised pre-training; `spoilt` is a step, since images are bytes."""
    pixels, labels = pictures(BACKBONE.images, 16, 1, 4)
    model = small_vit(4, channels=1)
    spoil_call(model, spoilt)
    pretrain_backbone(model, pixels, labels, BACKBONE, folder, device=device)
    return weights_of(model)


def masked(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """Masked reconstruction; `spoilt` is the number of a batch."""
    torch.manual_seed(0)
    model = LocalMim(16, 4, 8, 7, 2, decoder_dim=8, decoder_heads=2, bins=4, channels=1)

    def batch(number: int) -> Tensor:
        images = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(number))
        return spoil_row(images, 5) if number == spoilt else images

    pretrain_masked(
        model, batch, MASKED, folder, steps_per_epoch=4, seed=SEED, device=device, save_every=5,
        accelerator=accelerator(), rows=lambda number: range(8 * number, 8 * number + 8),
    )  # fmt: skip
    return weights_of(model)


def tuned(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """End-to-end fine-tuning with mixup, cutmix and drop path; `spoilt` is the number of a batch."""
    model = small_vit(2, drop_path=0.1)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        labels = torch.randint(0, 2, (12,), generator=generator)
        images = torch.randn(12, 3, 16, 16, generator=generator) + labels[:, None, None, None]
        return (spoil_row(images, 5) if number == spoilt else images), labels

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        images, labels = batch(10**6)
        return float((model(images.to(device)).argmax(dim=1).cpu() == labels).double().mean())

    tune_whole(
        model, batch, evaluate, WHOLE, folder, classes=2, layer=lambda name: vit_layer(name, 2), layers=2,
        steps_per_epoch=4, seed=SEED, device=device, save_every=5, accelerator=accelerator(),
        rows=lambda number: range(12 * number, 12 * number + 12),
    )  # fmt: skip
    return weights_of(model)


class Stages(nn.Module):
    """An encoder with batch statistics, images [batch, 3, 8, 8] -> features of its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[batch, 4], [batch, 4], [batch, 6]."""
        before = self.one(x)
        after = self.norm(before).relu()
        return [stage.mean(dim=(2, 3)) for stage in (before, after, self.other(after))]


def contrastive(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """SimCLR with the regulariser that draws noise; `spoilt` is a step, since images are bytes."""
    torch.manual_seed(0)
    model = SimClr(Stages(), 6, "lbe", out=4)
    spoil_call(model, spoilt)
    images, _ = pictures(20, 8, 3, 4)
    source = Views(images, Augmentation(size=8), seed=SEED, count=2)
    train_contrastive(model, source, CONTRASTIVE, folder, seed=SEED, device=device, accelerator=accelerator())
    return weights_of(model)


TRAINERS = (
    Trainer("bi-adapter adaptation", adaptation, 32, 4, adaptation_rows),
    Trainer("bi-adapter backbone", backbone, 528, 500),
    Trainer("lmim pre-training", masked, 24, 5, parallel=True),
    Trainer("lmim fine-tuning", tuned, 24, 5, parallel=True),
    Trainer(
        "infocl pre-training", contrastive, 20, 3, parallel=True, check="features of stage 0: expected finite numbers"
    ),
)
