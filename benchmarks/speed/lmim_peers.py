"""What lmim is compared with: the same results by the straightforward formulation, and scikit-image's HOG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmim import LocalMim, SparseSwin, SwinLocalMim
from lmim.masking import mask_from_noise, masked_mean, rescale_mask
from lmim.swin import WindowAttention
from lmim.windows import Windows, knapsack


def plain_block(block: Any, x: Tensor) -> Tensor:
    """A transformer block with attention written out: scores, softmax, weighted mean."""
    query, key, value = (
        block.attn.qkv(block.norm1(x)).unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    )
    attention = (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)
    x = x + block.attn.proj((attention @ value).transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


def one_pass_hog(images: Tensor, cell: int, bins: int) -> Tensor:
    """HOG of one cell size as published: convolution, a map of bins at full size, pooling; [batch, cells, D]."""
    smooth, difference = images.new_tensor([1, 2, 1]), images.new_tensor([1, 0, -1])
    filters = torch.stack([torch.outer(smooth, difference), torch.outer(difference, smooth)])[:, None]
    padded = F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    gradient = F.conv2d(padded, filters)
    magnitude = gradient.norm(dim=1, keepdim=True)
    index = (torch.atan2(gradient[:, :1], gradient[:, 1:]) / torch.pi * bins).floor().long() % bins
    maps = torch.zeros(len(gradient), bins, *images.shape[2:], dtype=images.dtype).scatter_(1, index, magnitude)
    cells = F.normalize(F.avg_pool2d(maps, cell), dim=1, eps=1e-12)
    return cells.unflatten(0, images.shape[:2]).flatten(3).flatten(1, 2).mT


def reference_losses(model: LocalMim, images: Tensor, noise: Tensor) -> Tensor:
    """The losses of `model`, [taps], step by step: every decoder by itself on all tokens, every cell predicted, HOG
    anew for each cell size."""
    tokens = model.patch_embed(images) + model.pos_embed[:, 1:]
    mask = mask_from_noise(noise, 0.75)
    visible = tokens.gather(1, mask.keep[:, :, None].expand(-1, -1, tokens.shape[2]))
    stream = torch.cat([(model.cls_token + model.pos_embed[:, :1]).expand(len(tokens), -1, -1), visible], dim=1)
    losses: list[Tensor] = []
    for number, block in enumerate(model.blocks):
        stream = plain_block(block, stream)
        if number in model.taps:
            tap = len(losses)
            decoder: Any = model.decoder[tap]
            prediction = all_cells(decoder, model.norm[tap](stream), mask.restore)
            with torch.no_grad():
                target = one_pass_hog(images, model.cells[tap], model.bins)
            error = (prediction - target).square().mean(dim=2)
            losses.append(masked_mean(error, rescale_mask(mask.mask, model.scales[tap])))
    return torch.stack(losses)


def all_cells(decoder: Any, latent: Tensor, restore: Tensor) -> Tensor:
    """A decoder on the full grid, with attention written out; [batch, cells, out]."""
    embedded = decoder.embed(latent)
    hidden = decoder.mask_token.expand(len(latent), restore.shape[1] + 1 - latent.shape[1], -1)
    tokens = torch.cat([embedded[:, 1:], hidden], dim=1)
    tokens = tokens.gather(1, restore[:, :, None].expand(-1, -1, tokens.shape[2]))
    full = plain_block(decoder.blocks[0], torch.cat([embedded[:, :1], tokens], dim=1) + decoder.pos_embed)
    maps = decoder.norm(full)[:, 1:].mT.unflatten(2, (decoder.grid, decoder.grid))
    return decoder.pred(maps).flatten(2).mT


def scikit_image_hog(images: Tensor, cells: Sequence[int], bins: int) -> list[np.ndarray]:
    """HOG by scikit-image, image by image, channel by channel, one cell size after the other.

    Its gradients are central differences without smoothing: another descriptor of the same kind and size.

    Raises:
        ImportError: scikit-image is not installed.
    """
    from skimage.feature import hog  # pyright: ignore[reportMissingImports]

    arrays = images.double().numpy()
    return [
        np.stack(
            [
                [hog(plane, bins, (cell, cell), (1, 1), block_norm="L2", feature_vector=False) for plane in image]
                for image in arrays
            ]
        )
        for cell in cells
    ]


class PublishedWindowAttention(WindowAttention):
    """Attention in groups as published: written out, with -100 between tokens of different windows."""

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """[batch, tokens, dim] to the same shape."""
        # [3, batch, groups, heads, capacity, dim / heads]
        grouped = self.qkv(x[:, windows.members]).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        query, key, value = grouped
        bias = self.relative_position_bias_table[windows.bias_index] * windows.allowed[..., None]
        masked = torch.where(windows.allowed, 0.0, -100.0)[:, None]
        scores = query @ key.mT * query.shape[-1] ** -0.5 + bias.permute(0, 3, 1, 2) + masked
        out = (scores.softmax(dim=-1) @ value).transpose(2, 3).flatten(3).flatten(1, 2)
        return self.proj(out[:, windows.slots])


def knapsack_swin(model: SwinLocalMim, encoder: SparseSwin) -> SwinLocalMim:
    """`model` with the weights it has, its windows packed by a knapsack and attention as published.

    Args:
        model: whose decoders and weights are taken over.
        encoder: another encoder of the same sizes, with `packing=knapsack`.
    """
    assert encoder.packing is knapsack
    encoder.load_state_dict(model.encoder.state_dict())
    for module in encoder.modules():
        if isinstance(module, WindowAttention):
            module.__class__ = PublishedWindowAttention
    other = SwinLocalMim(encoder, target=model.target, bins=model.bins)
    other.load_state_dict(model.state_dict())
    other.decoder = nn.ModuleList(model.decoder)
    return other
