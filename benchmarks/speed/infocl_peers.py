"""The usual ways to compute what infocl computes: tensors of rows x rows x dim, and augmentation image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision import transforms

STAGE_WEIGHTS = (0.25, 0.5, 1.0)


def broadcast_lower_bound(z: Tensor, mu: Tensor, rho: float = 0.05) -> Tensor:
    """The lower bound with all differences of rows [rows, rows, dim] written out."""
    distances = (z[:, None] - mu[None]).pow(2).sum(dim=2)
    return -(-rho * distances).logsumexp(dim=1).mean()


def broadcast_nt_xent(z_i: Tensor, z_j: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent with cosine similarities of all pairs of rows by broadcasting."""
    z = torch.cat([z_i, z_j])
    similarity = F.cosine_similarity(z[:, None], z[None], dim=2) / temperature
    others = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    positive = similarity.diagonal(len(z_i)), similarity.diagonal(-len(z_i))
    return (others.logsumexp(dim=1) - torch.cat(positive)).mean()


def broadcast_term(views: list[list[Tensor]], noisy: list[list[Tensor]]) -> Tensor:
    """The weighted lower bounds of three stages, by `broadcast_lower_bound`."""
    total = torch.zeros(())
    for stage, weight in enumerate(STAGE_WEIGHTS):
        mu, z = (torch.cat([view[stage] for view in each]) for each in (views, noisy))
        total = total - weight * broadcast_lower_bound(z, mu)
    return total


def pil_augmentation(size: int = 32) -> transforms.Compose:
    """The published views by torchvision on PIL images."""
    jitter = transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )


def pil_views(images: np.ndarray, augmentation: Callable[[Any], Any]) -> tuple[Tensor, Tensor]:
    """Two views [n, 3, size, size] of uint8 images [n, h, w, 3], one image at a time."""
    opened = [Image.fromarray(image) for image in images]
    one, other = (torch.stack([augmentation(image) for image in opened]) for _ in range(2))
    return one, other
