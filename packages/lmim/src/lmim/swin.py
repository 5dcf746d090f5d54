"""Swin on the visible units of an image: only visible tokens are computed, in windows of them (section 5.1).

Tokens are stored unit by unit (32 x 32 pixels, 7 x 7 units at 224), in raster order inside a unit, so that merging
patches never mixes visible and hidden ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn

from lmim.blocks import Mlp, PatchEmbed, init_linear, init_patch_embed
from lmim.windows import UNITS, Packing, StageShape, Windows, stage_windows

Geometry = Literal["correct", "published"]
MergeOrder = Literal["standard", "published"]


class WindowAttention(nn.Module):
    """Attention of visible tokens to those of the same window, with a bias by relative position.

    Args:
        dim, heads: of the tokens.
        window: tokens a side.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: expected a divisor of the width {dim}, got {heads}")
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """[batch, tokens, dim] to the same shape."""
        groups, capacity = windows.members.shape
        # The queries, keys and values of the slots, [3, batch, groups * heads, capacity, dim / heads]
        slots = self.qkv(x.index_select(1, windows.members.flatten())).view(len(x), groups, capacity, 3, self.heads, -1)
        query, key, value = slots.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        bias = self.relative_position_bias_table[windows.bias_index].permute(0, 3, 1, 2)
        bias = bias.masked_fill(~windows.allowed[:, None], float("-inf")).flatten(0, 1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype)[None])
        # [batch, groups * capacity, dim]
        out = out.unflatten(1, (groups, self.heads)).transpose(2, 3).flatten(3).flatten(1, 2)
        return self.proj(out.index_select(1, windows.slots))


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP.

    Args:
        dim, heads, window: see `WindowAttention`.
        second_eps: of the second LayerNorm; 1e-5 in the published fine-tuning model.
        drop_path: share of images that skip a residual branch in training.
    """

    def __init__(self, dim: int, heads: int, window: int, second_eps: float = 1e-6, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=second_eps)
        self.attn, self.mlp = WindowAttention(dim, heads, window), Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """[batch, tokens, dim] to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), windows))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """2 x 2 tokens of a unit to one of twice the width.

    Args:
        dim: before.
        order: of the four tokens: `standard` as everywhere, (0,0), (1,0), (0,1), (1,1) by row and column; `published`
            is the order of the published pre-training, row by row.
    """

    def __init__(self, dim: int, order: MergeOrder = "standard") -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim, eps=1e-6), nn.Linear(4 * dim, 2 * dim, bias=False)
        self.order = order

    def forward(self, x: Tensor, side: int) -> Tensor:
        """[batch, units side^2, dim] -> [batch, units (side / 2)^2, 2 dim]."""
        half = side // 2
        # [batch, units, row, row in pair, column, column in pair, dim]
        parts = x.unflatten(1, (-1, half, 2, half, 2))
        axes = (0, 1, 2, 4, 5, 3, 6) if self.order == "standard" else (0, 1, 2, 4, 3, 5, 6)
        return self.reduction(self.norm(parts.permute(axes).flatten(4).flatten(1, 3)))


class SwinStage(nn.Module):
    """Blocks of one resolution, and the merging behind them."""

    def __init__(
        self, dim: int, heads: int, window: int, drop_paths: Sequence[float], *, merge: bool, order: MergeOrder,
        second_eps: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(dim, heads, window, second_eps, drop) for drop in drop_paths)
        self.downsample = PatchMerging(dim, order) if merge else None

    def forward(self, x: Tensor, windows: tuple[Windows, Windows]) -> Tensor:
        """All blocks on [batch, tokens, dim], every other one in shifted windows; the merging is not applied."""
        for number, block in enumerate(self.blocks):
            x = block(x, windows[number % 2])
        return x


class SwinTokens(nn.Module):
    """Patches, convolved and normalised."""

    def __init__(self, patch: int, dim: int, channels: int) -> None:
        super().__init__()
        self.proj, self.norm = PatchEmbed(patch, dim, channels).proj, nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor, side: int) -> Tensor:
        """[batch, channels, height, width] -> [batch, units, side^2, dim]."""
        parts = self.proj(images).unflatten(2, (-1, side)).unflatten(4, (-1, side))
        # [batch, dim, rows, row in unit, columns, column in unit]
        return self.norm(parts.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2))


class SparseSwin(nn.Module):
    """Swin on the visible units of an image.

    Args:
        patch: pixels a side of a token; a mask unit has 8 x 8 of them.
        dim: width of the first stage.
        depths, heads: of the four stages (or fewer).
        window: tokens a side; a stage with fewer has one window, unshifted.
        geometry: `correct`; or `published`, with tokens of later stages misplaced and merged in another order, for the
            released weights.
        taps: a LayerNorm after each stage (pre-training).
        second_eps: see `SwinBlock`.
        image: pixels a side for which the tables of relative positions are made, 7 units by default. Other images,
            square or not, may be given where units divide them.
        drop_path: rate of the last block; it rises linearly from 0 at the first.
        packing: how windows are packed, see `windows.group_windows`; without influence on the result.
        isolate_stages: stop gradients behind each stage, so that it learns from its own loss alone.
        channels: of the images.

    Raises:
        ValueError: an unknown geometry, an image that units do not divide, not as many heads as depths.
    """

    def __init__(
        self,
        patch: int = 4,
        dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: int = 7,
        *,
        geometry: Geometry = "correct",
        taps: bool = True,
        second_eps: float = 1e-6,
        image: int | None = None,
        drop_path: float = 0.0,
        packing: Packing | None = None,
        isolate_stages: bool = False,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if geometry not in ("correct", "published"):
            raise ValueError(f"geometry: expected 'correct' or 'published', got {geometry!r}")
        if not 1 <= len(depths) <= 4 or len(heads) != len(depths):
            raise ValueError(f"depths: expected 1 to 4 stages and heads for each, got {depths} and {heads}")
        self.geometry: Geometry = geometry
        self.patch, self.packing, self.depths, self.isolate_stages = patch, packing, tuple(depths), isolate_stages
        self.channels = channels
        self.sides = tuple(8 >> stage for stage in range(len(depths)))
        self.image = UNITS * self.unit if image is None else image
        self.grid = self.units_of(self.image, self.image)[0]
        self.windows = tuple(min(window, self.grid * side) for side in self.sides)
        self.widths = tuple(dim * 2 ** min(stage + 1, len(depths) - 1) for stage in range(len(depths)))
        order = "standard" if geometry == "correct" else "published"
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))
        self.patch_embed = SwinTokens(patch, dim, channels)
        self.layers = nn.ModuleList(
            SwinStage(
                dim * 2**stage, heads[stage], self.windows[stage], rates[stage].tolist(),
                merge=stage + 1 < len(depths), order=order, second_eps=second_eps,
            )
            for stage in range(len(depths))
        )  # fmt: skip
        norms = (nn.LayerNorm(width, eps=1e-6) for width in self.widths)
        self.norm: nn.Module | None = nn.ModuleList(norms) if taps else None
        init_linear(self)
        init_patch_embed(self.patch_embed.proj)
        for block in self.modules():
            if isinstance(block, WindowAttention):
                nn.init.trunc_normal_(block.relative_position_bias_table, std=0.02)

    @property
    def unit(self) -> int:
        """Pixels a side of a mask unit."""
        return self.patch * self.sides[0]

    def units_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of units in an image.

        Raises:
            ValueError: units do not divide it.
        """
        if height % self.unit or width % self.unit or not height or not width:
            raise ValueError(
                f"images: expected sides that are multiples of {self.unit} pixels (mask units of 8 x 8 patches of "
                f"{self.patch}), got {height} x {width}; resize or pad them"
            )
        return height // self.unit, width // self.unit

    def forward(self, images: Tensor, mask: Tensor) -> list[Tensor]:
        """The outputs of the stages, each behind its merging and its LayerNorm.

        Args:
            images: [batch, channels, height, width], sides multiples of 8 patches.
            mask: bool [units], True for hidden units in raster order, the same for all images.

        Returns:
            [batch, visible tokens, width] for each stage, unit by unit.

        Raises:
            ValueError: images that units do not divide, or a mask of other units or without visible ones.
        """
        grid = self.units_of(*images.shape[-2:])
        if mask.shape != (grid[0] * grid[1],) or bool(mask.all()):
            raise ValueError(f"mask: expected {grid[0] * grid[1]} units with visible ones, got {list(mask.shape)}")
        merged = [after for _, after in self.stages(images, (~mask).nonzero().flatten(), grid)]
        norms = self.norm if isinstance(self.norm, nn.ModuleList) else [nn.Identity() for _ in merged]
        return [norm(tokens) for norm, tokens in zip(norms, merged, strict=True)]

    def stages(self, images: Tensor, units: Tensor, grid: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each stage, the tokens behind its blocks and the same merged, [batch, tokens, width], unit by unit.

        Args:
            images: [batch, channels, height, width].
            units: int64 [visible], ascending.
            grid: see `units_of`.
        """
        tokens = self.patch_embed(images, self.sides[0])
        tokens = tokens.index_select(1, units.to(tokens.device)).flatten(1, 2)
        visible = tuple(units.tolist())
        for stage, layer in enumerate(self.layers):
            assert isinstance(layer, SwinStage)
            misplaced = self.geometry == "published" and stage > 0
            shape = StageShape(*grid, self.sides[stage], self.windows[stage], misplaced, self.packing)
            tokens = layer(tokens, stage_windows(shape, visible, tokens.device))
            merged = tokens if layer.downsample is None else layer.downsample(tokens, self.sides[stage])
            yield tokens, merged
            tokens = merged.detach() if self.isolate_stages else merged
