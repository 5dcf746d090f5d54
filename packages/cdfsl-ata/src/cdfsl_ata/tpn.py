"""The transductive propagation network (6.5): labels diffuse over a graph of all images of the episode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdfsl_ata.learners import Learner

EPSILON = 2.220446049250313e-16
NEIGHBOURS = 20
ALPHA = 0.99


class ScaleNetwork(nn.Module):
    """A length scale for each image from its map: two convolution blocks and two linear layers.

    Args:
        channels: of the maps; `size` of them is 7.
        size: of the maps.
    """

    def __init__(self, channels: int = 512, size: int = 7) -> None:
        super().__init__()
        self.layer1, self.layer2 = (
            nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2, padding=1)
            )
            for width in (channels, 1)
        )
        for _ in range(2):
            size = (size + 2) // 2
        self.fc3, self.fc4 = nn.Linear(size**2, 18), nn.Linear(18, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """[images, channels, size, size] -> [images, 1]."""
        return self.fc4(F.relu(self.fc3(self.layer2(self.layer1(maps)).flatten(1))))


def affinity(features: Tensor, sigma: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """S = D^-1/2 W D^-1/2 with W_ij = exp(-mean_d (e_i - e_j)^2 / 2), e = features / sigma, near neighbours only.

    An entry stays where it is among the `neighbours` largest of its row, or of its column.

    Args:
        features: [images, dim].
        sigma: [images, 1].
        neighbours: at least as many images are needed.

    Returns:
        [images, images], symmetric.

    Raises:
        ValueError: fewer images.
    """
    count = len(features)
    if count < neighbours:
        raise ValueError(f"features: a graph of {neighbours} neighbours needs as many images, got {count}")
    scaled = features / (sigma + EPSILON)
    weights = torch.exp(-(scaled[:, None] - scaled[None]).square().mean(dim=2) / 2)
    nearest = weights.detach().topk(neighbours, dim=1).indices
    mask = torch.zeros_like(weights.detach()).scatter(1, nearest, 1.0) > 0
    weights = weights * (mask | mask.T)
    inverse_root = (weights.sum(dim=0) + EPSILON).rsqrt()
    return inverse_root[:, None] * weights * inverse_root


def propagate(affinities: Tensor, labels: Tensor, alpha: float = ALPHA) -> Tensor:
    """F = (I - alpha S + eps)^-1 Y by a linear solve; eps is added to every entry, as published.

    Args:
        affinities: S, [images, images].
        labels: Y, [images, classes].
        alpha: in [0, 1).
    """
    identity = torch.eye(len(affinities), dtype=affinities.dtype, device=affinities.device)
    return torch.linalg.solve(identity - alpha * affinities + EPSILON, labels)


class Tpn(Learner):
    """Label propagation with learned length scales; its scores F are used as logits.

    At test the published protocol leaves TPN in training mode (statistics of the episode, for the encoder too).

    Args:
        feature, n_support: see `Learner`; the encoder gives maps.
        channels, size: of the maps.
    """

    def __init__(self, feature: nn.Module, n_support: int, channels: int = 512, size: int = 7) -> None:
        super().__init__(feature, n_support)
        self.relation = ScaleNetwork(channels, size)

    def head(self, z: Tensor) -> Tensor:
        """Scores of maps [n_way, n_support + n_query, channels, size, size]."""
        maps = self.ordered(z)
        return self.diffuse(maps, self.relation(maps), len(z))

    def ordered(self, z: Tensor) -> Tensor:
        """All supports, then all queries, class by class."""
        return torch.cat([part.flatten(0, 1) for part in self.split(z)])

    def diffuse(self, maps: Tensor, sigma: Tensor, n_way: int) -> Tensor:
        """Scores of the queries for given scales sigma [images, 1]; queries start from uniform labels."""
        features = maps.mean(dim=(2, 3))
        told = torch.eye(n_way, dtype=maps.dtype, device=maps.device).repeat_interleave(self.n_support, dim=0)
        asked = maps.new_full((len(maps) - len(told), n_way), 1 / n_way)
        return propagate(affinity(features, sigma), torch.cat([told, asked]))[len(told) :]
