"""LocalMIM on a plain ViT: taps, decoders and scales (sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lmim.blocks import Block, PatchEmbed, check_images, init_linear, init_patch_embed
from lmim.config import MimConfig
from lmim.decoder import SCALES, TapDecoder, cell_errors
from lmim.hidden import tap_losses
from lmim.masking import RandomMask, mask_from_noise, masked_mean, rescale_mask
from lmim.positions import position_table
from lmim.targets import Target, make_targets, target_width


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


def cell_sizes(patch: int, scales: Sequence[float]) -> tuple[int, ...]:
    """Pixels a side of the cells, patch / scale.

    Raises:
        ValueError: scales that do not give whole pixels.
    """
    bad = [scale for scale in scales if scale <= 0 or patch / scale % 1]
    if bad:
        raise ValueError(f"scales: expected whole pixels a cell for patches of {patch}, got {bad}")
    return tuple(round(patch / scale) for scale in scales)


class LocalMim(nn.Module):
    """Pre-training model.

    Args:
        image, patch: pixels a side.
        dim, depth, heads: of the encoder.
        channels: of the images.
        decoder_dim, decoder_heads, decoder_depth: of every decoder.
        taps: 0-based blocks whose output is decoded; `default_taps` by default.
        scales: of the taps: cells a token and axis, powers of two.
        target: what is reconstructed; cells have patch / scale pixels a side.
        bins: of HOG.
        hog_bias: draw biases of the HOG filters at random, U(-1/3, 1/3) for each tap, as published for large models.
        isolate_stages: stop gradients behind each tap, so that a stage learns from its own loss alone.
        fusion: one decoder, of the one scale, for a learned mean of all taps.

    Raises:
        ValueError: sizes that do not divide each other, or as many scales as taps are not given.
    """

    pos_embed: Tensor
    hog_biases: Tensor | None
    reg_token: nn.Parameter | None

    def __init__(
        self,
        image: int = 224,
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        channels: int = 3,
        decoder_dim: int = 256,
        decoder_heads: int = 8,
        decoder_depth: int = 1,
        taps: Sequence[int] | None = None,
        scales: Sequence[float] = SCALES,
        target: Target = "hog",
        bins: int = 9,
        hog_bias: bool = False,
        isolate_stages: bool = False,
        fusion: bool = False,
    ) -> None:
        super().__init__()
        if image % patch:
            raise ValueError(f"patch: expected a divisor of the image's {image} pixels, got {patch}")
        self.taps = default_taps(depth) if taps is None else tuple(taps)
        if sorted(set(self.taps)) != list(self.taps) or not self.taps or not 0 <= self.taps[0] <= self.taps[-1] < depth:
            raise ValueError(f"taps: expected ascending blocks from 0 to {depth - 1}, got {self.taps}")
        if len(scales) != (1 if fusion else len(self.taps)):
            raise ValueError(f"scales: expected one a tap, with fusion one in all, got {scales} for taps {self.taps}")
        self.image, self.channels, self.isolate_stages = image, channels, isolate_stages
        self.scales, self.target, self.bins = tuple(scales), target, bins
        self.cells = cell_sizes(patch, scales)
        grid = image // patch
        self.patch_embed = PatchEmbed(patch, dim, channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_parameter("reg_token", None)  # see `lmim.wrapping`
        self.register_buffer("pos_embed", position_table(dim, grid, class_token=True).float()[None])
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in self.taps)
        self.fusion = nn.Parameter(torch.full((len(self.taps),), 1 / len(self.taps))) if fusion else None
        widths = (target_width(target, cell, bins, channels) for cell in self.cells)
        self.decoder = nn.ModuleList(
            TapDecoder(dim, grid, width, scale, decoder_dim, decoder_heads, decoder_depth)
            for width, scale in zip(widths, scales, strict=True)
        )
        drawn = (2 * torch.rand(len(scales), 2) - 1) / 3 if hog_bias else None
        self.register_buffer("hog_biases", drawn)
        init_linear(self)
        init_patch_embed(self.patch_embed.proj)
        nn.init.normal_(self.cls_token, std=0.02)

    @classmethod
    def of(cls, config: MimConfig) -> LocalMim:
        """The model that a config describes.

        Raises:
            ValueError: a config of another backbone, or numbers that do not fit each other.
        """
        if config.backbone != "vit" or len(config.decoder_dims) != 1:
            raise ValueError(f"config: expected a ViT with one width of decoders, got {config}")
        return cls(
            config.image, config.patch, config.dim, config.depth, config.heads[0], channels=config.channels,
            decoder_dim=config.decoder_dims[0], decoder_heads=config.decoder_heads, decoder_depth=config.decoder_depth,
            taps=config.taps or None, scales=config.scales, target=config.target, bins=config.bins,
            hog_bias=config.hog_bias, isolate_stages=config.isolate_stages, fusion=config.fusion,
        )  # fmt: skip

    def forward(self, images: Tensor, ratio: float = 0.75, noise: Tensor | None = None) -> Reconstruction:
        """Hide, encode what is visible, predict every cell.

        Args:
            images: [batch, channels, image, image], normalised.
            ratio: of hidden tokens.
            noise: [batch, tokens] in [0, 1) that decides; drawn by default.
        """
        latents, mask = self.encode_visible(images, ratio, noise)
        predictions = [decoder(latent, mask.restore) for decoder, latent in zip(self.decoder, latents, strict=True)]
        targets = self.make_targets(images)
        losses = []
        for scale, prediction, target in zip(self.scales, predictions, targets, strict=True):
            cells = rescale_mask(mask.mask, scale).to(prediction.dtype)
            losses.append(masked_mean(cell_errors(prediction, target), cells))
        stacked = torch.stack(losses)
        return Reconstruction(stacked.sum(), stacked, predictions, targets, mask.mask, latents)

    def losses(self, images: Tensor, ratio: float = 0.75, noise: Tensor | None = None) -> Tensor:
        """The losses of `forward`, [taps], without predictions that they do not see (`lmim.hidden`)."""
        latents, mask = self.encode_visible(images, ratio, noise)
        decoders: Any = list(self.decoder)
        return tap_losses(decoders, latents, self.make_targets(images), mask)

    def encode_visible(self, images: Tensor, ratio: float, noise: Tensor | None) -> tuple[list[Tensor], RandomMask]:
        """What the decoders are given, [batch, 1 + visible, dim] each, and the mask.

        Raises:
            ValueError: images of another size, or a ratio outside [0, 1).
        """
        check_images(images, self.channels, self.image)
        tokens = self.patch_embed(images)
        tokens = tokens + self.pos_embed[:, 1:].to(tokens)
        if noise is None:
            noise = torch.rand(tokens.shape[:2], device=images.device)
        mask = mask_from_noise(noise, ratio)
        latents = self.encode(tokens, mask)
        if self.fusion is None:
            return latents, mask
        return [torch.einsum("t,tbnd->bnd", self.fusion, torch.stack(latents))], mask

    def encode(self, tokens: Tensor, mask: RandomMask) -> list[Tensor]:
        """The normalised outputs of the taps, [batch, 1 + visible, dim] each, of embedded tokens with positions."""
        visible = tokens.gather(1, mask.keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).to(tokens).expand(len(tokens), -1, -1)
        if self.reg_token is not None:
            first = torch.cat([first, self.reg_token.to(tokens).expand(len(tokens), -1, -1)], dim=1)
        stream, latents, patches = torch.cat([first, visible], dim=1), [], first.shape[1]
        for number, block in enumerate(self.blocks):
            stream = block(stream)
            if number in self.taps:
                decoded = stream if patches == 1 else torch.cat([stream[:, :1], stream[:, patches:]], dim=1)
                latents.append(self.norm[len(latents)](decoded))
                stream = stream.detach() if self.isolate_stages else stream
        return latents

    def make_targets(self, images: Tensor) -> list[Tensor]:
        """[batch, cells, out] for each tap."""
        biases = None if self.hog_biases is None else list(self.hog_biases.to(images))
        return make_targets(images, self.cells, self.target, self.bins, biases)
