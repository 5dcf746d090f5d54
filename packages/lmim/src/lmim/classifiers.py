"""The fine-tuning models (section 7): pooled patch tokens, LayerNorm, a linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmim.blocks import Block, PatchEmbed
from lmim.positions import interpolate_positions, position_table
from lmim.swin import SparseSwin


class VitClassifier(nn.Module):
    """A plain ViT.

    Args:
        classes: of the head.
        image, patch, dim, depth, heads: of the backbone.
        global_pool: mean of the patch tokens, then LayerNorm; else LayerNorm, then the class token.
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
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(position_table(dim, image // patch, class_token=True).float()[None])
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.fc_norm = nn.LayerNorm(dim, eps=1e-6) if global_pool else None
        self.norm = None if global_pool else nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """[batch, dim] of images [batch, 3, height, width]."""
        tokens = self.patch_embed(images)
        positions = interpolate_positions(self.pos_embed, round(tokens.shape[1] ** 0.5))
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
        patch, dim, depths, heads, window: see `SparseSwin`.
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
    ) -> None:
        super().__init__(patch, dim, depths, heads, window, taps=False, second_eps=second_eps)
        self.norm = nn.LayerNorm(self.widths[-1], eps=1e-6)
        self.head = nn.Linear(self.widths[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """[batch, width] of images [batch, 3, 56 patch, 56 patch]."""
        rows, columns = self.units_of(*images.shape[-2:])
        visible = torch.zeros(rows * columns, dtype=torch.bool)
        assert isinstance(self.norm, nn.LayerNorm)
        return self.norm(super().forward(images, visible)[-1].mean(dim=1))

    def forward(self, images: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Logits [batch, classes]."""
        return self.head(self.features(images))
