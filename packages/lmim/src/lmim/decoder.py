"""A tap's decoder on a plain ViT (section 3.2): one block over all tokens, then a head that rescales."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmim.blocks import Block, init_linear
from lmim.positions import position_table

SCALES = (4.0, 2.0, 1.0, 0.5)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map at each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        """[batch, channels, height, width] to the same shape."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def doublings(scale: float) -> int:
    """log2 of a scale, negative for cells larger than a token.

    Raises:
        ValueError: a scale that is no power of two.
    """
    power = round(math.log2(scale)) if scale > 0 else 0
    if 2.0**power != scale:
        raise ValueError(f"scale: expected a power of two such as {SCALES}, got {scale}")
    return power


def rescaling_head(dim: int, out: int, scale: float) -> nn.Sequential:
    """From a map of `dim` channels to one of `out`, `scale` times as fine.

    A transposed convolution for each doubling, with half the channels, ChannelNorm and GELU between them; average
    pooling for coarser maps; a 1 x 1 convolution at the end.

    Raises:
        ValueError: a scale that is no power of two.
    """
    power = doublings(scale)
    layers: list[nn.Module] = [nn.AvgPool2d(2**-power)] if power < 0 else []
    for step in range(max(power, 0)):
        layers += [ChannelNorm(dim), nn.GELU()] if step else []
        layers.append(nn.ConvTranspose2d(dim, dim // 2, 2, 2))
        dim //= 2
    return nn.Sequential(*layers, nn.Conv2d(dim, out, 1))


class TapDecoder(nn.Module):
    """Visible tokens to predictions for all cells.

    Args:
        dim_in: width of the encoder.
        grid: tokens a side.
        out: numbers a cell.
        scale: how much finer cells are than tokens.
        dim, heads, depth: of the decoder.

    Raises:
        ValueError: a scale that is no power of two, or too coarse for the grid.
    """

    pos_embed: Tensor

    def __init__(
        self, dim_in: int, grid: int, out: int, scale: float, dim: int = 256, heads: int = 8, depth: int = 1
    ) -> None:
        super().__init__()
        if grid * scale % 1:
            raise ValueError(f"scale: expected whole cells on a grid of {grid} x {grid} tokens, got {scale}")
        self.grid, self.scale, self.heads = grid, scale, heads
        self.embed = nn.Linear(dim_in, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", position_table(dim, grid, class_token=True).float()[None])
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = rescaling_head(dim, out, scale)
        init_linear(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def tokens(self, x: Tensor, restore: Tensor) -> Tensor:
        """What the head is given: [batch, 1 + visible, dim_in], class token first, and `RandomMask.restore` -> [batch,
        tokens, dim] in raster order."""
        y = self.embed(x)
        hidden = self.mask_token.to(y).expand(len(y), restore.shape[1] + 1 - y.shape[1], -1)
        tokens = torch.cat([y[:, 1:], hidden], dim=1)
        tokens = tokens.gather(1, restore[:, :, None].expand(-1, -1, tokens.shape[2]))
        full = torch.cat([y[:, :1], tokens], dim=1) + self.pos_embed.to(y)
        return self.norm(self.blocks(full))[:, 1:]

    def forward(self, x: Tensor, restore: Tensor) -> Tensor:
        """[batch, 1 + visible, dim_in] and `RandomMask.restore` -> [batch, cells, out] in raster order."""
        maps = self.tokens(x, restore).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.pred(maps).flatten(2).transpose(1, 2)


def cell_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error a cell, [batch, cells], of [batch, cells, out] each."""
    return F.mse_loss(prediction, target, reduction="none").mean(dim=2)
