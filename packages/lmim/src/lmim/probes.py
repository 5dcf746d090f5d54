"""What frozen features are worth: k nearest neighbours and a linear classifier, behind every tap.

The paper has neither; both are cheap enough to be run after every epoch of pre-training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmim.masking import mask_from_noise
from lmim.vit import LocalMim


@torch.no_grad()
def tap_features(model: nn.Module, images: Tensor, *, batch: int = 256) -> list[Tensor]:
    """Mean of the normalised patch tokens behind each tap with nothing hidden, [n, dim] each, on the images' device.

    Args:
        model: `LocalMim` or `SwinLocalMim`; is left in evaluation mode.
        images: [n, channels, image, image], normalised.
        batch: images at once.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = [
        [tap.mean(dim=1).to(images.device) for tap in tap_tokens(model, x.to(device))] for x in images.split(batch)
    ]
    return [torch.cat(tap) for tap in zip(*parts, strict=True)]


def tap_tokens(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Normalised patch tokens behind each tap with nothing hidden, [batch, tokens, dim] each."""
    if isinstance(model, LocalMim):
        tokens = model.patch_embed(images)
        order = torch.arange(tokens.shape[1], device=images.device, dtype=images.dtype) / tokens.shape[1]
        everything = mask_from_noise(order.expand(len(images), -1), 0.0)
        latents = model.encode(tokens + model.pos_embed[:, 1:].to(tokens), everything)
        return [latent[:, 1:] for latent in latents]
    encoder: Any = model.encoder
    return encoder(images, torch.zeros(encoder.grid**2, dtype=torch.bool))


@torch.no_grad()
def knn_predictions(
    bank: Tensor, labels: Tensor, features: Tensor, *, k: int = 20, temperature: float = 0.07, batch: int = 1024
) -> Tensor:
    """Classes int64 [n] by votes of the k nearest rows of the bank, weighted exp(cosine / temperature).

    Args:
        bank: [rows, dim].
        labels: int64 [rows], 0..classes-1.
        features: [n, dim].
        k: neighbours; all rows where there are fewer.
        temperature: of the weights.
        batch: features at once.
    """
    bank, features = F.normalize(bank, dim=1), F.normalize(features, dim=1)
    classes = int(labels.max()) + 1
    found = []
    for some in features.split(batch):
        near = (some @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(some), classes, dtype=some.dtype, device=some.device)
        votes.scatter_add_(1, labels[near.indices], (near.values / temperature).exp())
        found.append(votes.argmax(dim=1))
    return torch.cat(found)


def linear_predictions(
    bank: Tensor, labels: Tensor, features: Tensor, *, penalty: float = 1e-3, steps: int = 100
) -> Tensor:
    """Classes int64 [n] by multinomial logistic regression on standardised features, fitted with L-BFGS.

    Args:
        bank: [rows, dim].
        labels: int64 [rows], 0..classes-1.
        features: [n, dim].
        penalty: half of it times the squared weights is added to the mean cross entropy.
        steps: iterations at most; the problem is convex.
    """
    mean, std = bank.mean(dim=0), bank.std(dim=0).clamp_min(1e-6)
    standard = (bank - mean) / std
    weight = torch.zeros(int(labels.max()) + 1, bank.shape[1] + 1, dtype=bank.dtype, device=bank.device)
    weight.requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=steps, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = F.cross_entropy(F.linear(standard, weight[:, :-1], weight[:, -1]), labels)
        value = fit + penalty / 2 * weight[:, :-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return F.linear((features - mean) / std, weight[:, :-1], weight[:, -1]).argmax(dim=1)


def online_probes(
    model: nn.Module, bank: Tensor, labels: Tensor, images: Tensor, wanted: Tensor
) -> Callable[[int], dict[str, float]]:
    """For `pretrain(after_epoch=...)`: accuracies of both probes behind every tap, `knn_1`, `linear_1`, ...

    Args:
        model: the one that is trained.
        bank, images: [n, channels, image, image], normalised: whose labels are known, and which are classified.
        labels, wanted: int64 [n], their classes.
    """

    def measure(_epoch: int) -> dict[str, float]:
        known, asked = tap_features(model, bank), tap_features(model, images)
        found: dict[str, float] = {}
        for tap, (rows, features) in enumerate(zip(known, asked, strict=True), start=1):
            found[f"knn_{tap}"] = accuracy(knn_predictions(rows, labels, features), wanted)
            found[f"linear_{tap}"] = accuracy(linear_predictions(rows, labels, features), wanted)
        return found

    return measure


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of equal entries."""
    return float((predictions == labels).double().mean())


def hits(predictions: Tensor, labels: Tensor) -> Sequence[float]:
    """1 for each right prediction, else 0."""
    return (predictions == labels).double().tolist()
