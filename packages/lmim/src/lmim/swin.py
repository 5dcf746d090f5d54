"""LocalMIM on Swin: only visible tokens are computed, in windows of whatever is visible in them (section 5).

Tokens are stored unit by unit (32 x 32 pixels, 7 x 7 units at 224), in raster order inside a unit, so that merging
patches never mixes visible and hidden ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lmim.blocks import Block, Mlp, PatchEmbed, init_linear, init_patch_embed
from lmim.decoder import cell_errors
from lmim.masking import masked_mean, random_permutation, unit_mask, units_to_cells
from lmim.positions import position_table
from lmim.targets import hog_targets, pixel_targets
from lmim.vit import Reconstruction, Target, target_width

UNITS = 7
Geometry = Literal["correct", "published"]


def unit_coordinates(units: Tensor, side: int, *, published: bool = False) -> Tensor:
    """Row and column of every token of some units, int64 [len(units) side^2, 2], unit by unit.

    Args:
        units: numbers of the units, in raster order of the 7 x 7.
        side: tokens a unit and axis.
        published: the published defect from the second stage on: a unit's tokens are placed on as many consecutive
            cells of the raster.
    """
    if published:
        index = (units[:, None] * side**2 + torch.arange(side**2, device=units.device)).flatten()
        return torch.stack([index // (UNITS * side), index % (UNITS * side)], dim=1)
    inner = torch.arange(side, device=units.device)
    rows = (units // UNITS * side)[:, None, None] + inner[:, None]
    columns = (units % UNITS * side)[:, None, None] + inner
    full = torch.broadcast_tensors(rows, columns)
    return torch.stack([part.flatten() for part in full], dim=1)


def window_numbers(coordinates: Tensor, window: int, shift: int) -> Tensor:
    """Which (shifted) window each token is in, int64 [tokens]; windows at the border are smaller, nothing wraps."""
    cells = (coordinates + (window - shift if shift else 0)) // window
    return cells[:, 0] * (int(cells[:, 1].max()) + 1) + cells[:, 1]


class Windows(NamedTuple):
    """Tokens by windows, filled up to the fullest; the same for all blocks of a stage and shift.

    Attributes:
        members: int64 [windows, most], numbers of tokens; 0 where filled up.
        filled: bool [windows, most], True for tokens.
        slots: int64 [tokens], where each token is in the flattened `members`.
        bias_index: int64 [windows, most, most], entries of the relative-position table.
    """

    members: Tensor
    filled: Tensor
    slots: Tensor
    bias_index: Tensor


def group_windows(coordinates: Tensor, window: int, shift: int) -> Windows:
    """Windows of the tokens at `coordinates` [tokens, 2]."""
    labels, counts = torch.unique(window_numbers(coordinates, window, shift), return_inverse=True, return_counts=True)[
        1:
    ]
    most = int(counts.max())
    order = labels.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    position = torch.arange(len(labels), device=labels.device) - starts[labels[order]]
    slots = torch.empty_like(labels)
    slots[order] = labels[order] * most + position
    members = torch.zeros(len(counts) * most, dtype=torch.long, device=labels.device)
    filled = torch.zeros(len(counts) * most, dtype=torch.bool, device=labels.device)
    members[slots], filled[slots] = torch.arange(len(labels), device=labels.device), True
    members, filled = members.view(-1, most), filled.view(-1, most)
    at = coordinates[members]
    difference = (at[:, :, None] - at[:, None] + window - 1).clamp(0, 2 * window - 2)
    bias_index = difference[..., 0] * (2 * window - 1) + difference[..., 1]
    return Windows(members, filled, slots, bias_index)


class WindowAttention(nn.Module):
    """Attention of visible tokens to those of the same window, with a bias by relative position.

    Args:
        dim, heads: of the tokens.
        window: tokens a side.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """[batch, tokens, dim] to the same shape."""
        gathered = self.qkv(x)[:, windows.members]
        # [3, batch, windows, heads, most, dim / heads]
        query, key, value = gathered.unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[windows.bias_index].permute(0, 3, 1, 2)
        bias = bias.masked_fill(~windows.filled[:, None, None], float("-inf"))
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + bias
        out = (scores.softmax(dim=-1) @ value).transpose(2, 3).flatten(3).flatten(1, 2)
        return self.proj(out[:, windows.slots])


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP.

    Args:
        dim, heads, window: see `WindowAttention`.
        second_eps: of the second LayerNorm; 1e-5 in the published fine-tuning model.
    """

    def __init__(self, dim: int, heads: int, window: int, second_eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=second_eps)
        self.attn, self.mlp = WindowAttention(dim, heads, window), Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """[batch, tokens, dim] to the same shape."""
        x = x + self.attn(self.norm1(x), windows)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """2 x 2 tokens of a unit to one of twice the width.

    Args:
        dim: before.
        order: of the four tokens: `standard` as everywhere, (0,0), (1,0), (0,1), (1,1) by row and column; `published`
            is the order of the published pre-training, row by row.
    """

    def __init__(self, dim: int, order: Literal["standard", "published"] = "standard") -> None:
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
        self, dim: int, depth: int, heads: int, window: int, *, merge: bool, order: Literal["standard", "published"],
        second_eps: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(dim, heads, window, second_eps) for _ in range(depth))
        self.downsample = PatchMerging(dim, order) if merge else None


class SwinTokens(nn.Module):
    """Patches, convolved and normalised."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj, self.norm = PatchEmbed(patch, dim).proj, nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, height, width] -> [batch, tokens, dim], unit by unit."""
        maps = self.proj(images)
        side = maps.shape[2] // UNITS
        parts = maps.unflatten(2, (UNITS, side)).unflatten(4, (UNITS, side))
        return self.norm(parts.permute(0, 2, 4, 3, 5, 1).flatten(1, 4))


class SparseSwin(nn.Module):
    """Swin on the visible units of an image.

    Args:
        patch: pixels a side of a token; an image has 7 x 8 patches a side.
        dim: width of the first stage.
        depths, heads: of the four stages.
        window: tokens a side; a stage with fewer has one window, unshifted.
        geometry: `correct`; or `published`, with tokens of later stages misplaced and merged in another order, for the
            released weights.
        taps: a LayerNorm after each stage (pre-training).
        second_eps: see `SwinBlock`.

    Raises:
        ValueError: an unknown geometry.
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
    ) -> None:
        super().__init__()
        if geometry not in ("correct", "published"):
            raise ValueError(f"geometry: expected 'correct' or 'published', got {geometry!r}")
        self.geometry, self.patch = geometry, patch
        self.sides = tuple(8 >> stage for stage in range(len(depths)))
        self.windows = tuple(min(window, UNITS * side) for side in self.sides)
        self.widths = tuple(dim * 2 ** min(stage + 1, len(depths) - 1) for stage in range(len(depths)))
        order = "standard" if geometry == "correct" else "published"
        self.patch_embed = SwinTokens(patch, dim)
        self.layers = nn.ModuleList(
            SwinStage(
                dim * 2**stage, depth, heads[stage], self.windows[stage], merge=stage + 1 < len(depths), order=order,
                second_eps=second_eps,
            )
            for stage, depth in enumerate(depths)
        )  # fmt: skip
        norms = (nn.LayerNorm(width, eps=1e-6) for width in self.widths)
        self.norm: nn.Module | None = nn.ModuleList(norms) if taps else None
        init_linear(self)
        init_patch_embed(self.patch_embed.proj)
        for block in self.modules():
            if isinstance(block, WindowAttention):
                nn.init.trunc_normal_(block.relative_position_bias_table, std=0.02)

    def forward(self, images: Tensor, mask: Tensor) -> list[Tensor]:
        """The outputs of the stages, each behind its merging and its LayerNorm.

        Args:
            images: [batch, 3, 56 patch, 56 patch].
            mask: bool [49], True for hidden units, the same for all images.

        Returns:
            [batch, visible tokens, width] for each stage, unit by unit.

        Raises:
            ValueError: images of another size, or a mask of other units or without visible ones.
        """
        size = UNITS * self.sides[0] * self.patch
        if images.shape[-2:] != (size, size):
            raise ValueError(f"images: expected {size} x {size} pixels, got {list(images.shape[-2:])}")
        if mask.shape != (UNITS**2,) or bool(mask.all()):
            raise ValueError(f"mask: expected {UNITS**2} units with visible ones, got {list(mask.shape)}")
        units = (~mask).nonzero().flatten()
        tokens = self.patch_embed(images).unflatten(1, (UNITS**2, -1))[:, units].flatten(1, 2)
        outputs = []
        for stage, layer in enumerate(self.layers):
            tokens = self.run_stage(layer, tokens, units, stage)
            outputs.append(self.norm[stage](tokens) if isinstance(self.norm, nn.ModuleList) else tokens)
        return outputs

    def run_stage(self, layer: nn.Module, tokens: Tensor, units: Tensor, stage: int) -> Tensor:
        """All blocks and the merging of one stage."""
        assert isinstance(layer, SwinStage)
        side, window = self.sides[stage], self.windows[stage]
        misplaced = self.geometry == "published" and stage > 0
        coordinates = unit_coordinates(units, side, published=misplaced)
        shift = window // 2 if window < UNITS * side else 0
        plain = group_windows(coordinates, window, 0)
        shifted = group_windows(coordinates, window, shift) if shift else plain
        for number, block in enumerate(layer.blocks):
            tokens = block(tokens, shifted if number % 2 else plain)
        return tokens if layer.downsample is None else layer.downsample(tokens, side)


class SwinDecoder(nn.Module):
    """A tap's decoder: one block over all cells of its stage (5.2).

    Args:
        dim_in: width of the tap.
        side: cells a unit and axis.
        out: numbers a cell.
        dim, heads: of the decoder.
    """

    pos_embed: Tensor

    def __init__(self, dim_in: int, side: int, out: int, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.side = side
        self.embed = nn.Linear(dim_in, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", position_table(dim, UNITS * side).float()[None])
        self.blocks = nn.Sequential(Block(dim, heads))
        self.norm, self.pred = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, out)
        init_linear(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[batch, visible, dim_in] unit by unit, bool [49] -> [batch, cells, out] in raster order."""
        at = unit_coordinates((~mask).nonzero().flatten(), self.side)
        place = at[:, 0] * UNITS * self.side + at[:, 1]
        visible = self.embed(x)
        full = self.mask_token.to(visible).expand(len(x), (UNITS * self.side) ** 2, -1)
        full = full.index_copy(1, place, visible) + self.pos_embed.to(visible)
        return self.pred(self.norm(self.blocks(full)))


class SwinLocalMim(nn.Module):
    """Pre-training model.

    Args:
        encoder: with LayerNorms at its taps.
        decoder_dims, decoder_heads: of the decoders.
        target, bins, hog_bias: see `LocalMim`.
    """

    hog_biases: Tensor | None

    def __init__(
        self,
        encoder: SparseSwin,
        *,
        decoder_dims: Sequence[int] = (64, 128, 128, 128),
        decoder_heads: int = 4,
        target: Target = "hog",
        bins: int = 18,
        hog_bias: bool = False,
    ) -> None:
        super().__init__()
        if encoder.norm is None:
            raise ValueError("encoder: pre-training needs taps=True")
        self.encoder, self.target, self.bins = encoder, target, bins
        sides = tuple(max(1, side // 2) for side in encoder.sides)
        unit = encoder.patch * encoder.sides[0]
        self.cells = tuple(unit // side for side in sides)
        self.decoder = nn.ModuleList(
            SwinDecoder(width, side, target_width(target, cell, bins), dim, decoder_heads)
            for width, side, cell, dim in zip(encoder.widths, sides, self.cells, decoder_dims, strict=True)
        )
        drawn = (2 * torch.rand(len(sides), 2) - 1) / 3 if hog_bias else None
        self.register_buffer("hog_biases", drawn)

    def forward(self, images: Tensor, ratio: float = 0.75, permutation: Tensor | None = None) -> Reconstruction:
        """Hide units, encode the visible ones, predict the hidden ones.

        Args:
            images: [batch, 3, 224, 224] for patches of 4, normalised.
            ratio: of hidden units; one more is hidden, as published.
            permutation: int64 [49] that decides; drawn by default.
        """
        if permutation is None:
            permutation = random_permutation(UNITS**2)
        mask = unit_mask(permutation.to(images.device), ratio)
        latents = self.encoder(images, mask)
        predictions = [decoder(latent, mask) for decoder, latent in zip(self.decoder, latents, strict=True)]
        targets = self.make_targets(images)
        losses = []
        for cell, prediction, target in zip(self.cells, predictions, targets, strict=True):
            side = self.encoder.patch * self.encoder.sides[0] // cell
            hidden = units_to_cells(mask, side).to(prediction.dtype).expand(len(images), -1)
            losses.append(masked_mean(cell_errors(prediction, target), hidden))
        stacked = torch.stack(losses)
        return Reconstruction(stacked.sum(), stacked, predictions, targets, mask, latents)

    def make_targets(self, images: Tensor) -> list[Tensor]:
        """[batch, cells, out] for each tap."""
        if self.target == "hog":
            biases = None if self.hog_biases is None else list(self.hog_biases.to(images))
            return hog_targets(images, self.cells, self.bins, biases)
        return pixel_targets(images, self.cells, normalise=self.target == "normalised-pixels")
