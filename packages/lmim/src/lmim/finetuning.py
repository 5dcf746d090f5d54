"""End-to-end fine-tuning (section 7): layer-wise rates, mixup and cutmix, top-1 after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor, nn

from lmim.config import FineTuningConfig
from lmim.pretraining import counter_seed, gradients_wait, numbers_of_step, rows_of_steps, set_rate
from lmim.schedule import is_decayed_in_fine_tuning, layer_scale, learning_rate
from sextet.cuda import seed_everything
from sextet.training import Rows, Training

if TYPE_CHECKING:
    from accelerate import Accelerator

LabelledBatch = Callable[[int], tuple[Tensor, Tensor]]
"""Number of a micro-batch -> images [micro-batch, channels, height, width], normalised, and labels [micro-batch]."""


class Curve:
    """Accuracies after each epoch, part of the checkpoint.

    Attributes:
        accuracies: one an epoch.
    """

    def __init__(self) -> None:
        self.accuracies: list[float] = []

    @property
    def last(self) -> float:
        """Accuracy after the last epoch: what an honest protocol reports."""
        return self.accuracies[-1]

    @property
    def best(self) -> float:
        """Maximum over epochs: what the published code reports, chosen on the evaluation set."""
        return max(self.accuracies)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"accuracies": list(self.accuracies)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.accuracies = [float(value) for value in state["accuracies"]]


def fine_tune(
    model: nn.Module,
    batch: LabelledBatch,
    evaluate: Callable[[nn.Module], float],
    config: FineTuningConfig,
    folder: Path,
    *,
    classes: int,
    layer: Callable[[str], int],
    layers: int,
    steps_per_epoch: int,
    seed: int,
    device: torch.device,
    decayed: Callable[[str, nn.Parameter], bool] = is_decayed_in_fine_tuning,
    accelerator: Accelerator | None = None,
    rows: Rows | None = None,
    save_every: int = 100,
) -> Curve:
    """Train a classifier in place; resumes from `folder`.

    Args:
        model: images -> logits [batch, classes], with drop path where the recipe has it.
        batch: the images and labels of a micro-batch; see `pretrain` for the numbers.
        evaluate: accuracy of the model in evaluation mode, called after every epoch.
        config: the recipe.
        folder: checkpoints and log.
        classes: of the labels.
        layer: parameter name -> layer, 0 for the embedding and `layers` + 1 for the head (`vit_layer`, `swin_layer`).
        layers: blocks of the encoder.
        steps_per_epoch: images of the set // config.batch.
        seed: of mixup and drop path.
        device: where to compute.
        decayed: which parameters decay.
        accelerator: for several processes.
        rows: see `pretrain`.
        save_every: steps between checkpoints.
    """
    model.to(device).train()
    groups = layered_groups(model, config, layer, layers, decayed)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.betas)
    forward: Any = accelerator.prepare_model(model) if accelerator else model
    curve, mix = Curve(), mixer(config, classes)
    with Training(
        folder,
        steps=config.epochs * steps_per_epoch,
        state={"model": model, "optimizer": optimizer, "curve": curve},
        config={**asdict(config), "seed": seed},
        save_every=save_every,
        device=device,
        precision=config.precision,
        accelerator=accelerator,
        progress="fine-tuning",
        rows=rows_of_steps(rows, config.accumulation, accelerator),
    ) as training:
        for step in training:
            epoch = step / steps_per_epoch
            set_rate(optimizer, learning_rate(epoch, config.lr, config.lr_min, config.warmup_epochs, config.epochs))
            total = torch.zeros(1, device=device)
            numbers = numbers_of_step(step, config.accumulation, accelerator)
            for number in numbers:
                images, labels = (part.to(device, non_blocking=True) for part in batch(number))
                seed_everything(counter_seed(seed, number))
                images, targets = mix(images, labels)
                with gradients_wait(forward, accelerator, wait=number != numbers[-1]):
                    with training.autocast():
                        logits = forward(images)
                    loss = F.cross_entropy(logits.float(), targets) / config.accumulation
                    training.backward(loss)
                total += loss.detach()
            training.optimizer_step(optimizer)
            training.log(loss=total)
            if (step + 1) % steps_per_epoch == 0:
                curve.accuracies.append(evaluate(model.eval()))
                model.train()
                training.log(accuracy=curve.last)
    return curve


def layered_groups(
    model: nn.Module,
    config: FineTuningConfig,
    layer: Callable[[str], int],
    layers: int,
    decayed: Callable[[str, nn.Parameter], bool] = is_decayed_in_fine_tuning,
) -> list[dict[str, Any]]:
    """Groups for AdamW by layer and decay; `lr_scale` is layer_decay^(layers + 1 - layer)."""
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            key = layer(name), decayed(name, value)
            scale = layer_scale(key[0], layers, config.layer_decay)
            decay = config.weight_decay if key[1] else 0.0
            groups.setdefault(key, {"params": [], "lr_scale": scale, "weight_decay": decay})["params"].append(value)
    return [groups[key] for key in sorted(groups)]


def mixer(config: FineTuningConfig, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(images, labels) -> mixed images and target probabilities [batch, classes], label smoothing included."""
    if config.mixup or config.cutmix:
        return Mixup(
            config.mixup, config.cutmix, switch_prob=config.switch, label_smoothing=config.label_smoothing,
            num_classes=classes,
        )  # fmt: skip

    def smoothed(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        hard = F.one_hot(labels, classes).to(images.dtype)
        return images, hard * (1 - config.label_smoothing) + config.label_smoothing / classes

    return smoothed
