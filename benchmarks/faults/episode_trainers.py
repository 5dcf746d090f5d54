"""Few-shot learners: ATA and its pre-training, support-vector machines and their pre-training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from benchmarks.faults.trainer import SEED, Trainer, pictures, spoil_row, weights_of
from torch import Tensor, nn

from cdfsl_ata.encoders import ConvBlock, FeatureWiseTransform
from cdfsl_ata.images import PackedImages, crop_and_flip
from cdfsl_ata.learners import ProtoNet
from cdfsl_ata.training import AscentConfig, ShuffledRows, episode_ids, meta_train
from cdfsl_ata.training import MetaTrainingConfig as AtaConfig
from cdfsl_ata.training import PretrainingConfig as ClassifierConfig
from cdfsl_ata.training import pretrain as pretrain_classifier
from fslstm import LSSVM, InverseAttention
from fslstm.backbones import Conv4
from fslstm.evaluation import episode_accuracies
from fslstm.pretraining import PretrainingConfig, draw_rows, pretrain
from fslstm.training import Learner, MetaTrainingConfig
from fslstm.training import meta_train as meta_train_svm
from sextet.episodes import EpisodeSampler

CLASSIFIER = ClassifierConfig(steps=24, batch_size=4, outputs=6)
ATA = AtaConfig(n_way=3, n_support=1, n_query=2, epochs=4, episodes_per_epoch=5, measure_every=2)
LETTERS = 240
EMBEDDING = PretrainingConfig(steps=125, batch_size=4)
SVM = MetaTrainingConfig(n_way=3, n_shot=1, n_query=2, episodes_per_step=1, epochs=4, steps_per_epoch=6)


class SpoiltImages(PackedImages):
    """Images of which one has NaN in the place of pixels."""

    row: int | None = None

    def pixels(self, ids: np.ndarray, step: int | None = None) -> Tensor:
        """As the base class."""
        values = super().pixels(ids, step)
        return values.masked_fill(torch.from_numpy(ids == self.row).to(values.device)[:, None, None, None], torch.nan)


def letters(device: torch.device, row: int | None) -> SpoiltImages:
    """Six classes."""
    pixels, labels = pictures(LETTERS, 8, 1, 6)
    source = SpoiltImages(pixels.permute(0, 3, 1, 2), labels.numpy(), augment=crop_and_flip(1), seed=0, device=device)
    source.row = row
    return source


def encoder(norm: type[nn.Module]) -> nn.Module:
    """Images [batch, 3, 8, 8] -> [batch, 64]."""
    torch.manual_seed(0)
    return nn.Sequential(ConvBlock(3, 4, pool=True, padding=1, norm=norm), nn.Flatten())


def classifier(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """Pre-training for ATA; `spoilt` is an image."""
    model = encoder(nn.BatchNorm2d)
    layer = pretrain_classifier(
        model, letters(device, spoilt), CLASSIFIER, folder, seed=SEED, device=device, save_every=5
    )
    return weights_of(model) | {f"layer.{name}": value for name, value in weights_of(layer).items()}


def adversarial(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """Meta-training on hard tasks with feature-wise transformation and validation; `spoilt` is an image."""
    learner = ProtoNet(encoder(FeatureWiseTransform), 1)
    ascent = AscentConfig(steps=2, step_size=0.05, normalise=True, kernel_sizes=(1, 3)).augmenter(learner)
    scores = (0.4, 0.6, 0.5, 0.55)
    meta_train(
        learner, letters(device, spoilt), ATA, folder, seed=SEED, device=device, augmenter=ascent,
        validate=lambda epoch: scores[epoch], save_every=3,
    )  # fmt: skip
    return weights_of(learner)


def letter_labels() -> np.ndarray:
    """Of `letters`."""
    return np.arange(LETTERS) % 6


def classifier_rows(step: int) -> np.ndarray:
    """Images of a step of pre-training."""
    return ShuffledRows(LETTERS, CLASSIFIER.batch_size, SEED)[step]


def adversarial_rows(step: int) -> np.ndarray:
    """Images of a step of meta-training."""
    sampler = EpisodeSampler(letter_labels(), ATA.n_way, ATA.n_support, ATA.n_query, seed=SEED)
    return episode_ids(sampler[step])


def grey_letters() -> tuple[Tensor, Tensor]:
    """Standardised images [n, 1, 16, 16] and labels."""
    pixels, labels = pictures(LETTERS, 16, 1, 6)
    return pixels.permute(0, 3, 1, 2).float() / 64 - 2, labels


def embedding(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """Pre-training of an embedding with dropout; `spoilt` is an image."""
    torch.manual_seed(0)
    backbone = Conv4(in_channels=1, widths=(4, 4, 8, 8), image_size=16, dropout=(0.0, 0.0, 0.2, 0.2))
    images, labels = grey_letters()
    pretrain(backbone, spoil_row(images, spoilt), labels, EMBEDDING, folder, seed=SEED, device=device)
    return weights_of(backbone)


def embedding_rows(step: int) -> Tensor:
    """Images of a step of pre-training."""
    return draw_rows(LETTERS, EMBEDDING, SEED, step)


def support_vectors(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, Tensor]:
    """Meta-training through the least-squares SVM and inverse attention, with validation; `spoilt` is a row."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 8, generator=generator)[letter_labels()]
    features = features + torch.randn(LETTERS, 8, generator=generator)
    torch.manual_seed(0)
    learner = Learner(nn.Linear(8, 8), LSSVM(), InverseAttention(8, 2, dropout=0.1))
    sampler = EpisodeSampler(letter_labels(), 3, 1, 2, seed=SEED + 1)

    def validate(learner: Learner) -> float:
        embedded = learner.embedding(features.to(device)).detach().cpu()
        return float(episode_accuracies(LSSVM(), embedded, sampler, episodes=4, device=device).mean())

    labels = torch.from_numpy(letter_labels())
    meta_train_svm(
        learner, spoil_row(features, spoilt), labels, SVM, folder, seed=SEED, device=device, validate=validate,
        save_every=5,
    )  # fmt: skip
    return weights_of(learner)


def support_vector_rows(step: int) -> np.ndarray:
    """Rows of a step of meta-training."""
    episodes = EpisodeSampler(letter_labels(), SVM.n_way, SVM.n_shot, SVM.n_query, seed=SEED).batch(step, 1)
    return np.concatenate([episodes.support_ids.ravel(), episodes.query_ids.ravel()])


TRAINERS = (
    Trainer("cdfsl-ata pre-training", classifier, 24, 5, classifier_rows),
    Trainer(
        "cdfsl-ata meta-training", adversarial, 20, 3, adversarial_rows,
        check="images: expected finite pixels",
    ),
    Trainer("fslstm pre-training", embedding, 125, 100, embedding_rows),
    Trainer(
        "fslstm meta-training", support_vectors, 24, 5, support_vector_rows,
        check="support: expected finite features",
    ),
)  # fmt: skip
