"""LocalMIM on Swin: taps behind the stages, a decoder each, one mask of units for a batch (section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmim.blocks import Block, check_images, init_linear
from lmim.config import MimConfig
from lmim.decoder import cell_errors
from lmim.masking import masked_mean, random_permutation, unit_mask, units_to_cells
from lmim.positions import position_table
from lmim.swin import SparseSwin
from lmim.targets import Target, make_targets, target_width
from lmim.vit import Reconstruction
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
        if len(decoder_dims) != len(encoder.widths):
            raise ValueError(f"decoder_dims: expected one for each of {len(encoder.widths)} stages, got {decoder_dims}")
        self.encoder, self.target, self.bins = encoder, target, bins
        sides = tuple(max(1, side // 2) for side in encoder.sides)
        self.cells = tuple(encoder.unit // side for side in sides)
        self.decoder = nn.ModuleList(
            SwinDecoder(
                width, side, target_width(target, cell, bins, encoder.channels), dim, decoder_heads, encoder.grid
            )
            for width, side, cell, dim in zip(encoder.widths, sides, self.cells, decoder_dims, strict=True)
        )
        drawn = (2 * torch.rand(len(sides), 2) - 1) / 3 if hog_bias else None
        self.register_buffer("hog_biases", drawn)

    @classmethod
    def of(cls, config: MimConfig) -> SwinLocalMim:
        """The model that a config describes.

        Raises:
            ValueError: a config of another backbone, or with settings that Swin does not have.
        """
        plain = not config.taps and set(config.scales) == {1.0} and config.decoder_depth == 1 and not config.fusion
        if config.backbone != "swin" or not plain:
            raise ValueError(
                f"config: expected a Swin tapped behind its stages at scale 1, without fusion, got {config}"
            )
        geometry: Any = config.geometry
        target: Any = config.target
        encoder = SparseSwin(
            config.patch, config.dim, config.depths, config.heads, config.window, geometry=geometry,
            image=config.image, isolate_stages=config.isolate_stages, channels=config.channels,
        )  # fmt: skip
        dims = config.decoder_dims * (len(config.depths) if len(config.decoder_dims) == 1 else 1)
        return cls(
            encoder, decoder_dims=dims, decoder_heads=config.decoder_heads, target=target, bins=config.bins,
            hog_bias=config.hog_bias,
        )  # fmt: skip

    def forward(self, images: Tensor, ratio: float = 0.75, permutation: Tensor | None = None) -> Reconstruction:
        """Hide units, encode the visible ones, predict the hidden ones.

        Args:
            images: [batch, channels, image, image] of the encoder's size, normalised.
            ratio: of hidden units; one more is hidden, as published.
            permutation: int64 [units] that decides; drawn by default. All images share it, so with few devices several
                small batches a step give more masks.

        Raises:
            ValueError: images of another size.
        """
        check_images(images, self.encoder.channels, self.encoder.image)
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
        biases = None if self.hog_biases is None else list(self.hog_biases.to(images))
        return make_targets(images, self.cells, self.target, self.bins, biases)
