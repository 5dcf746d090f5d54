"""The losses without what they do not see: decoders of equal shape as one, and predictions of hidden cells alone.

Values and gradients are those of `TapDecoder`, in fewer operations:

- Before attention a hidden token is the mask token at its place, the same in every image. So its query, key and value
  are computed once a place instead of once an image.
- Where cells are at least as fine as tokens, only hidden tokens need a query, the MLP and the head.
- A k2-s2 transposed convolution is a linear map of each token, so heads work on lists of tokens; two linear maps in a
  row (the last two layers of a finer head) are multiplied first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmim.decoder import TapDecoder, cell_errors
from lmim.masking import RandomMask, masked_mean, rescale_mask


def tap_losses(
    decoders: Sequence[TapDecoder], latents: Sequence[Tensor], targets: Sequence[Tensor], mask: RandomMask
) -> Tensor:
    """Masked mean squared errors (section 2), [taps].

    Args:
        decoders: of the taps.
        latents: [batch, 1 + visible, dim] for each, class token first.
        targets: [batch, cells, out] for each, raster order.
        mask: which tokens are hidden.
    """
    losses = []
    for key, group in groupby(zip(decoders, latents, strict=True), key=lambda pair: shape_of(pair[0])):
        members, inputs = zip(*group, strict=True)
        for decoder, tokens in zip(members, final_tokens(members, inputs, mask, all_tokens=key[-1]), strict=True):
            losses.append(tap_loss(decoder, tokens, targets[len(losses)], mask))
    return torch.stack(losses)


def shape_of(decoder: TapDecoder) -> tuple[int, int, int, int, bool]:
    """What decoders must share to be computed as one: widths, heads, blocks, and whether all tokens are needed."""
    return (
        decoder.embed.in_features, decoder.embed.out_features, decoder.heads, len(decoder.blocks), decoder.scale < 1
    )  # fmt: skip


def tap_loss(decoder: TapDecoder, tokens: Tensor, target: Tensor, mask: RandomMask) -> Tensor:
    """The loss of one tap, of its final tokens [batch, hidden or all, dim]."""
    if decoder.scale < 1:
        maps = tokens.transpose(1, 2).unflatten(2, (decoder.grid, decoder.grid))
        prediction = decoder.pred(maps).flatten(2).transpose(1, 2)
        weights = rescale_mask(mask.mask, decoder.scale).to(prediction.dtype)
        return masked_mean(cell_errors(prediction, target), weights)
    wanted = cells_by_token(target, decoder.grid, round(decoder.scale))
    wanted = wanted.gather(1, mask.hidden[:, :, None, None].expand(-1, -1, *wanted.shape[2:]))
    return F.mse_loss(cell_predictions(decoder.pred, tokens), wanted)


def final_tokens(
    decoders: Sequence[TapDecoder], latents: Sequence[Tensor], mask: RandomMask, *, all_tokens: bool
) -> Sequence[Tensor]:
    """What the heads are given, [batch, hidden, dim] for each decoder; with `all_tokens` [batch, tokens, dim] in raster
    order."""
    if len(decoders[0].blocks) > 1:  # only the first block sees the same hidden tokens in every image
        full = [decoder.tokens(latent, mask.restore) for decoder, latent in zip(decoders, latents, strict=True)]
        return full if all_tokens else [pick(tokens, mask.hidden) for tokens in full]
    weights = stacked(decoders)
    visible, places = embedded(weights, torch.stack(tuple(latents)), decoders[0].pos_embed[0], mask.keep)
    tokens = attend(weights, visible, places, mask.hidden, heads=decoders[0].heads, all_tokens=all_tokens)
    tokens = tokens + mlp(weights, normed(weights, "blocks.0.norm2", tokens))
    tokens = normed(weights, "norm", tokens)
    return [pick(each, mask.restore) for each in tokens] if all_tokens else tokens.unbind()


def stacked(decoders: Sequence[TapDecoder]) -> dict[str, Tensor]:
    """Parameters below the heads by name, [taps, ...]."""
    named = [dict(decoder.named_parameters()) for decoder in decoders]
    return {name: torch.stack([each[name] for each in named]) for name in named[0] if not name.startswith("pred")}


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """A linear layer of each tap: [taps, ..., in] -> [taps, ..., out]."""
    flat = torch.baddbmm(weights[f"{name}.bias"][:, None], x.flatten(1, -2), weights[f"{name}.weight"].mT)
    return flat.unflatten(1, x.shape[1:-1])


def normed(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """A LayerNorm of each tap over [taps, ..., dim]."""
    scale, shift = (
        weights[f"{name}.{part}"].view(-1, *(1,) * (x.ndim - 2), x.shape[-1]) for part in ("weight", "bias")
    )
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * scale + shift


def mlp(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The block's MLP, [taps, batch, tokens, dim] to the same shape."""
    return linear(weights, "blocks.0.mlp.fc2", F.gelu(linear(weights, "blocks.0.mlp.fc1", x)))


def embedded(weights: dict[str, Tensor], latents: Tensor, positions: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Visible tokens with positions [taps, batch, 1 + visible, dim], and the mask token at every place [taps, tokens,
    dim]."""
    y = linear(weights, "embed", latents)
    visible = F.pad(positions[1:].to(y)[keep], (0, 0, 1, 0))  # the class token's position is zero
    return y + visible, weights["mask_token"][:, 0] + positions[1:].to(y)


def attend(
    weights: dict[str, Tensor], visible: Tensor, places: Tensor, hidden: Tensor, *, heads: int, all_tokens: bool
) -> Tensor:
    """Tokens after the block's attention, [taps, batch, hidden, dim]; with `all_tokens`, visible ones come first."""
    at_places = linear(weights, "blocks.0.attn.qkv", normed(weights, "blocks.0.norm1", places))
    of_visible = linear(weights, "blocks.0.attn.qkv", normed(weights, "blocks.0.norm1", visible))
    of_hidden, tokens = spread(at_places, hidden), spread(places, hidden)
    # [3, taps, batch, heads, 1 + visible + hidden, dim / heads]
    both = torch.cat([of_visible, of_hidden], dim=2).unflatten(3, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
    query, key, value = both.flatten(1, 2)
    first = 1 if all_tokens else visible.shape[2]
    found = F.scaled_dot_product_attention(query[:, :, first:], key, value).transpose(1, 2).flatten(2)
    tokens = torch.cat([visible[:, :, 1:], tokens], dim=2) if all_tokens else tokens
    return tokens + linear(weights, "blocks.0.attn.proj", found.unflatten(0, tokens.shape[:2]))


def spread(places: Tensor, index: Tensor) -> Tensor:
    """Rows of a table [taps, tokens, dim] for each image, [taps, batch, chosen, dim]."""
    return places.index_select(1, index.flatten()).unflatten(1, tuple(index.shape))


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """[batch, tokens, dim] at [batch, chosen] -> [batch, chosen, dim]."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def cell_predictions(head: nn.Sequential, x: Tensor) -> Tensor:
    """A head of scale 1 or finer on a list of tokens: [..., dim] -> [..., cells a token, out], raster order.

    Args:
        head: see `rescaling_head`.
        x: tokens; what the head makes of one depends on it alone.
    """
    layers: list[Any] = [layer for layer in head if not isinstance(layer, nn.GELU)]
    finer, last = layers[:-1], layers[-1]
    cells = x[..., None, None, :]
    for number, layer in enumerate(finer):
        if isinstance(layer, nn.LayerNorm):
            cells = F.gelu(F.layer_norm(cells, cells.shape[-1:], layer.weight, layer.bias, layer.eps))
        elif number + 1 < len(finer):
            cells = split(cells, *as_linear(layer))
        else:
            return split(cells, *composed(layer, last)).flatten(-3, -2)
    return F.linear(cells, last.weight.flatten(1), last.bias).flatten(-3, -2)


def as_linear(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """The four linear maps of a k2-s2 transposed convolution: weight [4, out, in] and bias [out]."""
    assert layer.bias is not None
    return layer.weight.permute(2, 3, 1, 0).flatten(0, 1), layer.bias


def composed(layer: nn.ConvTranspose2d, last: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """The same of a transposed convolution and the 1 x 1 convolution behind it."""
    weight, bias = as_linear(layer)
    assert last.bias is not None
    matrix = last.weight.flatten(1)
    return matrix @ weight, matrix @ bias + last.bias


def split(cells: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each cell to 2 x 2: [..., rows, columns, in] -> [..., 2 rows, 2 columns, out]."""
    found = F.linear(cells, weight.flatten(0, 1), bias.repeat(4)).unflatten(-1, (2, 2, -1))
    # [..., rows, columns, row in cell, column in cell, out]
    return found.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)


def cells_by_token(values: Tensor, grid: int, scale: int) -> Tensor:
    """[batch, cells, out] in raster order of all cells -> [batch, tokens, scale^2, out]."""
    parts = values.unflatten(1, (grid, scale, grid, scale))
    return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)
