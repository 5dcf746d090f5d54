"""A tap's decoder on a plain ViT (section 3.2): one block over all tokens, then a head that rescales."""

from __future__ import annotations

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


def rescaling_head(dim: int, out: int, scale: float) -> nn.Sequential:
    """From a map of `dim` channels to one of `out`, `scale` times as fine.

    Raises:
        ValueError: a scale that is not one of `SCALES`.
    """
    if scale == 4:
        first, second = nn.ConvTranspose2d(dim, dim // 2, 2, 2), nn.ConvTranspose2d(dim // 2, dim // 4, 2, 2)
        return nn.Sequential(first, ChannelNorm(dim // 2), nn.GELU(), second, nn.Conv2d(dim // 4, out, 1))
    if scale == 2:
        return nn.Sequential(nn.ConvTranspose2d(dim, dim // 2, 2, 2), nn.Conv2d(dim // 2, out, 1))
    if scale == 1:
        return nn.Sequential(nn.Conv2d(dim, out, 1))
    if scale == 0.5:
        return nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(dim, out, 1))
    raise ValueError(f"scale: expected one of {SCALES}, got {scale}")


class TapDecoder(nn.Module):
    """Visible tokens to predictions for all cells.

    Args:
        dim_in: width of the encoder.
        grid: tokens a side.
        out: numbers a cell.
        scale: how much finer cells are than tokens.
        dim, heads: of the decoder.
    """

    pos_embed: Tensor

    def __init__(self, dim_in: int, grid: int, out: int, scale: float, dim: int = 256, heads: int = 8) -> None:
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(dim_in, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", position_table(dim, grid, class_token=True).float()[None])
        self.blocks = nn.Sequential(Block(dim, heads))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = rescaling_head(dim, out, scale)
        init_linear(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, restore: Tensor) -> Tensor:
        """[batch, 1 + visible, dim_in], class token first, and `RandomMask.restore` -> [batch, cells, out]."""
        y = self.embed(x)
        hidden = self.mask_token.to(y).expand(len(y), restore.shape[1] + 1 - y.shape[1], -1)
        tokens = torch.cat([y[:, 1:], hidden], dim=1)
        tokens = tokens.gather(1, restore[:, :, None].expand(-1, -1, tokens.shape[2]))
        full = torch.cat([y[:, :1], tokens], dim=1) + self.pos_embed.to(y)
        full = self.norm(self.blocks(full))[:, 1:]
        maps = full.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return self.pred(maps).flatten(2).transpose(1, 2)


def cell_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error a cell, [batch, cells], of [batch, cells, out] each."""
    return F.mse_loss(prediction, target, reduction="none").mean(dim=2)
