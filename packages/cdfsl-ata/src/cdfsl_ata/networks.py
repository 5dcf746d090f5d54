"""Encoders and learners by the names that configs use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from cdfsl_ata.encoders import BLOCKS, ConvNet, FeatureWiseTransform, ResNet
from cdfsl_ata.gnn import Gnn
from cdfsl_ata.interop import timm_encoder
from cdfsl_ata.learners import Learner, MatchingNet, ProtoNet, RelationNet
from cdfsl_ata.tpn import Tpn

HEADS = ("proto", "matching", "relation", "gnn", "tpn")
ON_MAPS = ("relation", "tpn")
CONV_DEPTHS = {"Conv4": 4, "Conv6": 6}
TIMM = "timm/"
Objective = Literal["mse", "softmax"]
SupportOrder = Literal["published", "correct"]
GraphQueries = Literal["published", "independent"]


@dataclass(frozen=True)
class NetworkConfig:
    """An encoder and a head on it.

    Attributes:
        encoder: `ResNet10`, `ResNet18`, `ResNet34`, `Conv4`, `Conv6`, or `timm/` and the name of a timm model.
        image_size: of square images; 224 for the residual networks as published, 84 for the others.
        stem_pool: whether a residual network has its first max-pooling; without it, maps are twice as large, as
            RelationNet needs them for images of 64 pixels.
        head: one of `HEADS`.
        n_way: classes of every episode, for the GNN.
        objective: of RelationNet: `mse`, or `softmax` as in the paper of FT.
        support_order: of MatchingNet's backward pass: `published` or `correct`.
        graph_queries: of the GNN: `published`, one query of each class in a graph, or `independent`.
    """

    encoder: str = "ResNet10"
    image_size: int = 224
    stem_pool: bool = True
    head: str = "gnn"
    n_way: int = 5
    objective: Objective = "mse"
    support_order: SupportOrder = "published"
    graph_queries: GraphQueries = "published"

    @property
    def on_maps(self) -> bool:
        """Whether the head takes maps; else it takes vectors."""
        return self.head in ON_MAPS


def make_encoder(config: NetworkConfig, *, transform: bool = False) -> nn.Module:
    """Images [n, 3, image_size, image_size] -> [n, dim], or maps [n, channels, h, w] for the heads that take them.

    Args:
        config: which.
        transform: whether it has the feature-wise transformations of the FT baseline.

    Raises:
        ValueError: an unknown encoder, or feature-wise transformations in a model of timm.
    """
    norm = FeatureWiseTransform if transform else nn.BatchNorm2d
    name = config.encoder
    if name in BLOCKS:
        network = ResNet(name, flatten=not config.on_maps, last_norm=norm)
        if not config.stem_pool:
            network.trunk[3] = nn.Identity()
        return network
    if name in CONV_DEPTHS:
        return ConvNet(CONV_DEPTHS[name], maps=config.on_maps, norm=norm)
    if not name.startswith(TIMM):
        raise ValueError(f"encoder: expected {', '.join((*BLOCKS, *CONV_DEPTHS))} or timm/<model>, got {name!r}")
    if transform:
        raise ValueError(f"encoder: feature-wise transformations are for this package's encoders, got {name!r}")
    return timm_encoder(name.removeprefix(TIMM), maps=config.on_maps)


def make_learner(config: NetworkConfig, n_support: int, *, transform: bool = False) -> Learner:
    """A learner with fresh weights, its head as large as the encoder's outputs ask for.

    Args:
        config: which.
        n_support: images a class in the support set of training episodes.
        transform: see `make_encoder`.

    Raises:
        ValueError: an unknown encoder, head or option, or images too small for the head.
    """
    if config.head not in HEADS:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {config.head!r}")
    encoder = make_encoder(config, transform=transform)
    shape = output_shape(encoder, config.image_size)
    if config.head == "proto":
        return ProtoNet(encoder, n_support)
    if config.head == "matching":
        return MatchingNet(encoder, n_support, shape[0], config.support_order)
    if config.head == "gnn":
        return Gnn(encoder, n_support, config.n_way, shape[0], queries=config.graph_queries)
    channels, size = shape[0], shape[-1]
    if config.head == "tpn":
        return Tpn(encoder, n_support, channels, size)
    if size < 4:
        raise ValueError(
            f"image_size: RelationNet needs maps of at least 4 x 4, {config.encoder} makes {size} x {size} of "
            f"{config.image_size} pixels; use larger images, or stem_pool=False"
        )
    return RelationNet(encoder, n_support, channels, size, config.objective)


@torch.no_grad()
def output_shape(encoder: nn.Module, image_size: int) -> tuple[int, ...]:
    """(dim,) or (channels, h, w) of an encoder's output for one image; its mode and statistics stay."""
    training = encoder.training
    shape = encoder.eval()(torch.zeros(1, 3, image_size, image_size)).shape[1:]
    encoder.train(training)
    return tuple(shape)
