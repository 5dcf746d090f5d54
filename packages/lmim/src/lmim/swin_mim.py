"""LocalMIM on Swin: taps behind the stages, a decoder each, one mask of units for a batch (section 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmim.blocks import Block, init_linear
from lmim.decoder import cell_errors
from lmim.masking import masked_mean, random_permutation, unit_mask, units_to_cells
from lmim.positions import position_table
from lmim.swin import SparseSwin
from lmim.targets import hog_targets, pixel_targets
from lmim.vit import Reconstruction, Target, target_width
from lmim.windows import UNITS, unit_coordinates


class SwinDecoder(nn.Module):
    """A tap's decoder: one block over all cells of its stage (5.2).

    Args:
        dim_in: width of the tap.
        side: cells a unit and axis.
        out: numbers a cell.
        dim, heads: of the decoder.
        grid: units a side of the image.
    """

    pos_embed: Tensor

    def __init__(self, dim_in: int, side: int, out: int, dim: int, heads: int = 4, grid: int = UNITS) -> None:
        super().__init__()
        self.side, self.grid = side, grid
        self.embed = nn.Linear(dim_in, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", position_table(dim, grid * side).float()[None])
        self.blocks = nn.Sequential(Block(dim, heads))
        self.norm, self.pred = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, out)
        init_linear(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[batch, visible, dim_in] unit by unit, bool [units] -> [batch, cells, out] in raster order."""
        at = unit_coordinates((~mask).nonzero().flatten(), self.side, columns=self.grid)
        place = at[:, 0] * self.grid * self.side + at[:, 1]
        visible = self.embed(x)
        full = self.mask_token.to(visible).expand(len(x), (self.grid * self.side) ** 2, -1)
        full = full.index_copy(1, place.to(x.device), visible) + self.pos_embed.to(visible)
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
        self.cells = tuple(encoder.unit // side for side in sides)
        self.decoder = nn.ModuleList(
            SwinDecoder(width, side, target_width(target, cell, bins), dim, decoder_heads, encoder.grid)
            for width, side, cell, dim in zip(encoder.widths, sides, self.cells, decoder_dims, strict=True)
        )
        drawn = (2 * torch.rand(len(sides), 2) - 1) / 3 if hog_bias else None
        self.register_buffer("hog_biases", drawn)

    def forward(self, images: Tensor, ratio: float = 0.75, permutation: Tensor | None = None) -> Reconstruction:
        """Hide units, encode the visible ones, predict the hidden ones.

        Args:
            images: [batch, 3, image, image] of the encoder's size, normalised.
            ratio: of hidden units; one more is hidden, as published.
            permutation: int64 [units] that decides; drawn by default. All images share it, so with few devices several
                small batches a step give more masks.

        Raises:
            ValueError: images of another size.
        """
        size = self.encoder.image
        if images.shape[-2:] != (size, size):
            raise ValueError(f"images: expected {size} x {size} pixels, got {list(images.shape[-2:])}")
        if permutation is None:
            permutation = random_permutation(self.encoder.grid**2)
        # On the CPU, where the windows are worked out without waiting for the device
        mask = unit_mask(permutation.cpu(), ratio)
        latents = self.encoder(images, mask)
        predictions = [decoder(latent, mask) for decoder, latent in zip(self.decoder, latents, strict=True)]
        targets = self.make_targets(images)
        losses = []
        for cell, prediction, target in zip(self.cells, predictions, targets, strict=True):
            hidden = units_to_cells(mask, self.encoder.unit // cell).to(prediction).expand(len(images), -1)
            losses.append(masked_mean(cell_errors(prediction, target), hidden))
        stacked = torch.stack(losses)
        return Reconstruction(stacked.sum(), stacked, predictions, targets, mask.to(images.device), latents)

    def make_targets(self, images: Tensor) -> list[Tensor]:
        """[batch, cells, out] for each tap."""
        if self.target == "hog":
            biases = None if self.hog_biases is None else list(self.hog_biases.to(images))
            return hog_targets(images, self.cells, self.bins, biases)
        return pixel_targets(images, self.cells, normalise=self.target == "normalised-pixels")
