"""What a model attends to, and pictures of what it reconstructs behind each tap."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lmim.masking import mask_from_noise, rescale_mask
from lmim.targets import pixel_vectors
from lmim.vit import LocalMim


def normalised_mutual_information(attention: Tensor) -> Tensor:
    """How much where a query attends to depends on the query: I(query; key) / sqrt(H(query) H(key)) in [0, 1].

    0 where every query has the same attention, 1 where each has a key of its own. Queries are equally likely.

    Args:
        attention: [..., queries, keys], rows that sum to 1.

    Returns:
        [...].
    """
    joint = attention / attention.shape[-2]
    keys = joint.sum(dim=-2)
    of_queries = math.log(attention.shape[-2])
    of_keys = -torch.special.xlogy(keys, keys).sum(dim=-1)
    of_both = -torch.special.xlogy(joint, joint).sum(dim=(-2, -1))
    information = of_queries + of_keys - of_both
    return information.clamp_min(0) / (of_queries * of_keys).clamp_min(1e-12).sqrt()


@torch.no_grad()
def attention_maps(model: LocalMim, images: Tensor) -> list[Tensor]:
    """Attention of every block with nothing hidden, [batch, heads, tokens, tokens], class token (and registers) first.

    Args:
        model: is left in evaluation mode.
        images: [batch, channels, image, image], normalised.
    """
    model.eval()
    maps: list[Tensor] = []

    def record(module: Any, inputs: tuple[Tensor, ...]) -> None:
        query, key, _ = module.qkv(inputs[0]).unflatten(2, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
        maps.append((query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1))

    blocks: Any = list(model.blocks)
    hooks = [block.attn.register_forward_pre_hook(record) for block in blocks]
    try:
        tokens = model.patch_embed(images).shape[1]
        noise = torch.arange(tokens, device=images.device, dtype=images.dtype) / tokens
        model.encode_visible(images, 0.0, noise.expand(len(images), -1))
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def attention_diversity(model: LocalMim, images: Tensor) -> Tensor:
    """Normalised mutual information of every block, averaged over images and heads, [blocks]."""
    return torch.stack([normalised_mutual_information(maps).mean() for maps in attention_maps(model, images)])


def hog_glyphs(histograms: Tensor, size: int) -> Tensor:
    """Histograms of oriented gradients as strokes along the edges they stand for.

    A gradient of angle phi from the vertical axis belongs to an edge of direction (cos phi, -sin phi) in x (right) and
    y (down).

    Args:
        histograms: [rows, columns, bins] of one channel.
        size: pixels a side of a cell's picture.

    Returns:
        [rows size, columns size], bright where gradients are strong.
    """
    bins = histograms.shape[2]
    phi = (torch.arange(bins, device=histograms.device) + 0.5) * math.pi / bins
    at = (torch.arange(size, device=histograms.device) - (size - 1) / 2) / (size / 2)
    # distance of every pixel [row, column] from the stroke of every bin, [bins, size, size]
    distance = (at[None, None] * phi.sin()[:, None, None] + at[None, :, None] * phi.cos()[:, None, None]).abs()
    strokes = (1 - distance * size / 3).clamp(0, 1) * (at[None, None] ** 2 + at[None, :, None] ** 2 <= 1)
    pictures = torch.einsum("rck,kij->ricj", histograms.clamp_min(0).to(strokes), strokes)
    return pictures.flatten(2).flatten(0, 1)


def pixel_picture(cells: Tensor, side: int, channels: int = 3) -> Tensor:
    """Vectors of cells by row, column and channel, [side^2, cell^2 channels] -> [channels, height, width]."""
    cell = math.isqrt(cells.shape[1] // channels)
    return cells.view(side, side, cell, cell, channels).permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)


class TapPicture(NamedTuple):
    """One tap's view of one image; hidden cells are predicted, visible ones copied from the target.

    Attributes:
        target, prediction: [channels, height, width]; strokes for HOG, else pixels in the units of the input.
    """

    target: Tensor
    prediction: Tensor


@torch.no_grad()
def tap_pictures(
    model: LocalMim, image: Tensor, ratio: float = 0.75, noise: Tensor | None = None, *, size: int = 16
) -> list[TapPicture]:
    """Target and prediction of every tap as pictures.

    Args:
        model: with a target of HOG or pixels; is left in evaluation mode.
        image: [channels, image, image], normalised.
        ratio: of hidden tokens.
        noise: [tokens] in [0, 1) that decides which; drawn by default.
        size: pixels of a HOG cell's picture.

    Raises:
        ValueError: a model with a target of one's own.
    """
    if model.target not in ("hog", "pixels", "normalised-pixels"):
        raise ValueError(f"model: expected a target of HOG or pixels, got {model.target}")
    if noise is None:
        noise = torch.rand(model.pos_embed.shape[1] - 1, device=image.device)
    found = model.eval()(image[None], ratio, noise[None])
    hidden = mask_from_noise(noise[None], ratio).mask[0].bool()
    pictures = []
    taps = zip(found.targets, found.predictions, model.scales, model.cells, strict=True)
    for target, prediction, scale, cell in taps:
        side = model.image // cell
        chosen = hidden_cells(hidden, scale)[:, None]
        shown = torch.where(chosen, prediction[0], target[0])
        both = [shown_units(model, values, image, cell) for values in (target[0], shown)]
        draw = partial(hog_picture, size=size) if model.target == "hog" else pixel_picture
        pictures.append(TapPicture(*(draw(values, side, model.channels) for values in both)))
    return pictures


def hidden_cells(hidden: Tensor, scale: float) -> Tensor:
    """bool [cells]: cells that are hidden, at least in part, of hidden tokens [tokens]."""
    return rescale_mask(hidden[None].float(), scale)[0] > 0


def hog_picture(cells: Tensor, side: int, channels: int = 3, *, size: int = 16) -> Tensor:
    """Vectors of cells [side^2, channels bins] as strokes, [channels, side size, side size]."""
    return torch.stack([hog_glyphs(part, size) for part in cells.view(side, side, channels, -1).unbind(2)])


def shown_units(model: LocalMim, values: Tensor, image: Tensor, cell: int) -> Tensor:
    """Normalised pixels with each cell's own mean and deviation put back (as for MAE's pictures); others unchanged."""
    if model.target != "normalised-pixels":
        return values
    vectors = pixel_vectors(image[None], cell)[0]
    return values * (vectors.var(dim=1, keepdim=True) + 1e-6).sqrt() + vectors.mean(dim=1, keepdim=True)


def save_pictures(pictures: list[TapPicture], path: Path, *, height: int = 224) -> None:
    """A PNG with a row for each tap, target beside prediction, each stretched to the range of its target.

    Args:
        pictures: from `tap_pictures`.
        path: of the file; its folder is made when absent.
        height: pixels of a row.
    """
    from PIL import Image

    rows = []
    for picture in pictures:
        low, high = picture.target.min(), picture.target.max()
        pair = torch.cat([(part - low) / (high - low).clamp_min(1e-6) for part in picture], dim=2)
        rows.append(F.interpolate(pair[None], (height, 2 * height), mode="nearest")[0].clamp(0, 1))
    whole = (torch.cat(rows, dim=1) * 255).round().byte().expand(3, -1, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(whole.permute(1, 2, 0).cpu().numpy()).save(path)
