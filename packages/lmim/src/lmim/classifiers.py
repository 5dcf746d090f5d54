"""The fine-tuning models (section 7): pooled patch tokens, LayerNorm, a linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmim.blocks import Block, PatchEmbed
from lmim.config import MimConfig
from lmim.positions import interpolate_positions, position_table
from lmim.swin import SparseSwin


class VitClassifier(nn.Module):
    """A plain ViT.

    Args:
        classes: of the head.
        image, patch, dim, depth, heads: of the backbone; other square images than `image` get interpolated positions.
        global_pool: mean of the patch tokens, then LayerNorm; else LayerNorm, then the class token.
        drop_path: rate of the last block; it rises linearly from 0 at the first.
        channels: of the images.

    Raises:
        ValueError: a patch that does not divide the image.
    """

    def __init__(
        self,
        classes: int,
        image: int = 224,
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        global_pool: bool = True,
        drop_path: float = 0.0,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if image % patch:
            raise ValueError(f"patch: expected a divisor of the image's {image} pixels, got {patch}")
        self.patch = patch
        self.patch_embed = PatchEmbed(patch, dim, channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(position_table(dim, image // patch, class_token=True).float()[None])
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.Sequential(*(Block(dim, heads, drop) for drop in rates))
        self.fc_norm = nn.LayerNorm(dim, eps=1e-6) if global_pool else None
        self.norm = None if global_pool else nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)
        init_head(self.head)

    def features(self, images: Tensor) -> Tensor:
        """[batch, dim] of images [batch, channels, side, side].

        Raises:
            ValueError: images that are not square, or not of whole patches.
        """
        height, width = images.shape[-2:]
        if height != width or height % self.patch:
            raise ValueError(
                f"images: expected squares of whole patches of {self.patch} pixels, got {height} x {width}"
            )
        positions = interpolate_positions(self.pos_embed, height // self.patch)
        tokens = self.patch_embed(images)
        first = self.cls_token.expand(len(tokens), -1, -1)
        tokens = self.blocks(torch.cat([first, tokens], dim=1) + positions)
        if self.fc_norm is not None:
            return self.fc_norm(tokens[:, 1:].mean(dim=1))
        assert self.norm is not None
        return self.norm(tokens)[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes]."""
        return self.head(self.features(images))


class SwinClassifier(SparseSwin):
    """A dense Swin of the correct geometry; pools first, then normalises.

    Args:
        classes: of the head.
        patch, dim, depths, heads, window, image, drop_path, channels: see `SparseSwin`.
        second_eps: of every block's second LayerNorm; 1e-5 as published.
    """

    def __init__(
        self,
        classes: int,
        patch: int = 4,
        dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: int = 7,
        *,
        second_eps: float = 1e-5,
        image: int | None = None,
        drop_path: float = 0.0,
        channels: int = 3,
    ) -> None:
        super().__init__(
            patch, dim, depths, heads, window, taps=False, second_eps=second_eps, image=image, drop_path=drop_path,
            channels=channels,
        )  # fmt: skip
        self.norm = nn.LayerNorm(self.widths[-1], eps=1e-6)
        self.head = nn.Linear(self.widths[-1], classes)
        init_head(self.head)

    def features(self, images: Tensor) -> Tensor:
        """[batch, width] of images [batch, channels, height, width] that mask units divide."""
        rows, columns = self.units_of(*images.shape[-2:])
        visible = torch.zeros(rows * columns, dtype=torch.bool)
        assert isinstance(self.norm, nn.LayerNorm)
        return self.norm(super().forward(images, visible)[-1].mean(dim=1))

    def forward(self, images: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Logits [batch, classes]."""
        return self.head(self.features(images))


def init_head(head: nn.Linear) -> None:
    """A weight so small that all classes start equal, no bias, in place."""
    nn.init.trunc_normal_(head.weight, std=2e-5)
    nn.init.zeros_(head.bias)


def make_classifier(config: MimConfig, classes: int, drop_path: float = 0.0) -> VitClassifier | SwinClassifier:
    """The fine-tuning model of a pre-training model's encoder, with weights of its own.

    Args:
        config: of the pre-training model.
        classes: of the head.
        drop_path: rate of the last block.
    """
    if config.backbone == "vit":
        return VitClassifier(
            classes, config.image, config.patch, config.dim, config.depth, config.heads[0], drop_path=drop_path,
            channels=config.channels,
        )  # fmt: skip
    return SwinClassifier(
        classes, config.patch, config.dim, config.depths, config.heads, config.window, image=config.image,
        drop_path=drop_path, channels=config.channels,
    )  # fmt: skip
