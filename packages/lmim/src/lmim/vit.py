"""LocalMIM on a plain ViT: four taps, four decoders, four scales (sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lmim.blocks import Block, PatchEmbed, init_linear, init_patch_embed
from lmim.decoder import SCALES, TapDecoder, cell_errors
from lmim.masking import RandomMask, mask_from_noise, masked_mean, rescale_mask
from lmim.positions import position_table
from lmim.targets import hog_targets, pixel_targets

Target = Literal["hog", "pixels", "normalised-pixels"]


class Reconstruction(NamedTuple):
    """What one forward pass gives.

    Attributes:
        loss: the sum of `losses`.
        losses: [taps].
        predictions, targets: [batch, cells, out] for each tap.
        mask: 1 for hidden tokens (ViT, [batch, tokens]) or units (Swin, [units]).
        latents: what each decoder was given, after the tap's LayerNorm.
    """

    loss: Tensor
    losses: Tensor
    predictions: list[Tensor]
    targets: list[Tensor]
    mask: Tensor
    latents: list[Tensor]


def default_taps(depth: int) -> tuple[int, ...]:
    """0-based blocks 1, 3, depth - 3 and depth - 1.

    Raises:
        ValueError: fewer than 7 blocks, where taps would coincide.
    """
    if depth < 7:
        raise ValueError(f"depth: four different taps need 7 blocks or more, got {depth}; name `taps` yourself")
    return (1, 3, depth - 3, depth - 1)


def target_width(target: Target, cell: int, bins: int) -> int:
    """Numbers a cell."""
    return 3 * bins if target == "hog" else 3 * cell**2


class LocalMim(nn.Module):
    """Pre-training model.

    Args:
        image, patch: pixels a side.
        dim, depth, heads: of the encoder.
        decoder_dim, decoder_heads: of every decoder.
        taps: 0-based blocks whose output is decoded; `default_taps` by default.
        scales: of the taps: cells a token and axis.
        target: what is reconstructed; cells have patch / scale pixels a side.
        bins: of HOG.
        hog_bias: draw biases of the HOG filters at random, U(-1/3, 1/3) for each tap, as published for large models.

    Raises:
        ValueError: sizes that do not divide each other, or as many scales as taps are not given.
    """

    pos_embed: Tensor
    hog_biases: Tensor | None

    def __init__(
        self,
        image: int = 224,
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        decoder_dim: int = 256,
        decoder_heads: int = 8,
        taps: Sequence[int] | None = None,
        scales: Sequence[float] = SCALES,
        target: Target = "hog",
        bins: int = 9,
        hog_bias: bool = False,
    ) -> None:
        super().__init__()
        if image % patch:
            raise ValueError(f"patch: expected a divisor of the image's {image} pixels, got {patch}")
        self.taps = default_taps(depth) if taps is None else tuple(taps)
        if len(self.taps) != len(scales) or sorted(set(self.taps)) != list(self.taps) or self.taps[-1] >= depth:
            raise ValueError(f"taps: expected {len(scales)} ascending blocks below {depth}, got {self.taps}")
        self.scales, self.target, self.bins = tuple(scales), target, bins
        self.cells = tuple(round(patch / scale) for scale in scales)
        grid = image // patch
        self.patch_embed = PatchEmbed(patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", position_table(dim, grid, class_token=True).float()[None])
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in self.taps)
        self.decoder = nn.ModuleList(
            TapDecoder(dim, grid, target_width(target, cell, bins), scale, decoder_dim, decoder_heads)
            for cell, scale in zip(self.cells, scales, strict=True)
        )
        drawn = (2 * torch.rand(len(scales), 2) - 1) / 3 if hog_bias else None
        self.register_buffer("hog_biases", drawn)
        init_linear(self)
        init_patch_embed(self.patch_embed.proj)
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(self, images: Tensor, ratio: float = 0.75, noise: Tensor | None = None) -> Reconstruction:
        """Hide, encode what is visible, predict what is hidden.

        Args:
            images: [batch, 3, image, image], normalised.
            ratio: of hidden tokens.
            noise: [batch, tokens] in [0, 1) that decides; drawn by default.
        """
        tokens = self.patch_embed(images) + self.pos_embed[:, 1:].to(images)
        if noise is None:
            noise = torch.rand(tokens.shape[:2], device=images.device)
        mask = mask_from_noise(noise, ratio)
        latents = self.encode(tokens, mask)
        predictions = [decoder(latent, mask.restore) for decoder, latent in zip(self.decoder, latents, strict=True)]
        targets = self.make_targets(images)
        losses = []
        for scale, prediction, target in zip(self.scales, predictions, targets, strict=True):
            cells = rescale_mask(mask.mask, scale).to(prediction.dtype)
            losses.append(masked_mean(cell_errors(prediction, target), cells))
        stacked = torch.stack(losses)
        return Reconstruction(stacked.sum(), stacked, predictions, targets, mask.mask, latents)

    def encode(self, tokens: Tensor, mask: RandomMask) -> list[Tensor]:
        """The normalised outputs of the taps, [batch, 1 + visible, dim] each, of embedded tokens with positions."""
        visible = tokens.gather(1, mask.keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1].to(tokens)).expand(len(tokens), -1, -1)
        stream, latents = torch.cat([first, visible], dim=1), []
        for number, block in enumerate(self.blocks):
            stream = block(stream)
            if number in self.taps:
                latents.append(self.norm[len(latents)](stream))
        return latents

    def make_targets(self, images: Tensor) -> list[Tensor]:
        """[batch, cells, out] for each tap."""
        if self.target == "hog":
            biases = None if self.hog_biases is None else list(self.hog_biases.to(images))
            return hog_targets(images, self.cells, self.bins, biases)
        return pixel_targets(images, self.cells, normalise=self.target == "normalised-pixels")
