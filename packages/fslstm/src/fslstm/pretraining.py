"""Pre-training of an embedding as an ordinary classifier of the base classes (section 9.5)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sextet.training import Training


@dataclass(frozen=True)
class PretrainingConfig:
    """Stochastic gradient descent with Nesterov momentum and a cosine schedule.

    The defaults are for glyphs. Of some ten settings they gave the best mean accuracy of three heads at one and five
    shots on 16 small letters that are neither base nor novel classes; most differ by less than two points.

    Attributes:
        steps, batch_size: length of the run.
        lr: peak learning rate.
        momentum, weight_decay: of the optimiser.
    """

    steps: int = 300
    batch_size: int = 128
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-3


def pretrain(
    backbone: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: PretrainingConfig,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Train `backbone` in place with a linear classifier on top, which is dropped; resumes from `folder`.

    Args:
        backbone: [batch, channels, height, width] -> [batch, backbone.out_features].
        images: [n, channels, height, width] float32, normalised; on the CPU or on `device`.
        labels: [n] int64, 0..classes-1.
        config: the recipe.
        folder: checkpoints and log.
        seed: initial classifier, order of images, dropout.
        device: where to compute.
    """
    torch.manual_seed(seed)
    width = int(backbone.out_features)  # pyright: ignore[reportArgumentType]
    classifier = nn.Linear(width, int(labels.max()) + 1).to(device)
    backbone.to(device).train()
    parameters = [*backbone.parameters(), *classifier.parameters()]
    optimizer = torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    state = {"backbone": backbone, "classifier": classifier, "optimizer": optimizer, "schedule": schedule}
    with Training(
        folder,
        steps=config.steps,
        state=state,
        config=asdict(config),
        device=device,
        progress="pre-training",
        rows=lambda step: draw_rows(len(images), config, seed, step),
    ) as training:
        for step in training:
            rows = draw_rows(len(images), config, seed, step)
            logits = classifier(backbone(images[rows].to(device)))
            loss = F.cross_entropy(logits, labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            training.log(loss=loss)


def draw_rows(images: int, config: PretrainingConfig, seed: int, step: int) -> Tensor:
    """Rows of one step's batch, drawn with replacement, int64 [batch]; depends on (seed, step) only."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.randint(images, (config.batch_size,), generator=generator)


@torch.no_grad()
def embed(backbone: nn.Module, images: Tensor, *, device: torch.device, batch_size: int = 512) -> Tensor:
    """Features [n, backbone.out_features] of images [n, c, h, w] in evaluation mode, on the CPU."""
    backbone.to(device).eval()
    return torch.cat([backbone(part.to(device)).cpu() for part in images.split(batch_size)])
