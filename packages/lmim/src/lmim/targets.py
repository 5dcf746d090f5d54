"""What is reconstructed: histograms of oriented gradients, or pixels (section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sextet.cuda import float32_island

Bias = tuple[float, float] | Tensor | None
PIXELS_AT_ONCE = 1 << 18
"""Numbers of images whose HOG is computed in one pass on a CPU: one photograph of 224 pixels."""


@dataclass(frozen=True)
class CustomTarget:
    """A target of one's own.

    Attributes:
        function: images [batch, channels, height, width] and a cell's pixels a side -> [batch, cells, width], cells in
            raster order; called without gradient.
        width: pixels a side of a cell -> numbers a cell.
    """

    function: Callable[[Tensor, int], Tensor]
    width: Callable[[int], int]


Target = str | CustomTarget
"""`hog`, `pixels`, `normalised-pixels`, or a target of one's own."""


def target_width(target: Target, cell: int, bins: int, channels: int = 3) -> int:
    """Numbers a cell."""
    if isinstance(target, CustomTarget):
        return target.width(cell)
    return channels * (bins if target == "hog" else cell**2)


@torch.no_grad()
def make_targets(
    images: Tensor, cells: Sequence[int], target: Target, bins: int = 9, biases: Sequence[Bias] | None = None
) -> list[Tensor]:
    """[batch, cells, width] for each cell size, of images [batch, channels, height, width].

    Raises:
        ValueError: an unknown target, cells that do not divide the images, or a custom target of another shape.
    """
    if target == "hog":
        return hog_targets(images, cells, bins, biases)
    if target in ("pixels", "normalised-pixels"):
        return pixel_targets(images, cells, normalise=target == "normalised-pixels")
    if not isinstance(target, CustomTarget):
        raise ValueError(f"target: expected hog, pixels, normalised-pixels or a CustomTarget, got {target!r}")
    check_cells(images, cells)
    found = [target.function(images, cell) for cell in cells]
    for cell, values in zip(cells, found, strict=True):
        wanted = [len(images), images.shape[2] // cell * (images.shape[3] // cell), target.width(cell)]
        if list(values.shape) != wanted:
            raise ValueError(f"target: expected {wanted} for cells of {cell} pixels, got {list(values.shape)}")
    return found


def sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """gx (left minus right) and gy (top minus bottom), each of the images' shape.

    Differences come before smoothing, so that where reflection at the border makes one vanish it is exactly 0.

    Args:
        images: [..., height, width].
    """
    flat = images.reshape(-1, 1, *images.shape[-2:])
    padded = F.pad(flat, (1, 1, 1, 1), mode="reflect")
    across = padded[..., :, :-2] - padded[..., :, 2:]
    gx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = padded[..., :-2, :] - padded[..., 2:, :]
    gy = down[..., :, :-2] + 2 * down[..., :, 1:-1] + down[..., :, 2:]
    return gx.view(images.shape), gy.view(images.shape)


def orientation_map(images: Tensor, bins: int, bias: Bias = None) -> Tensor:
    """Every pixel's gradient magnitude in the bin of its unsigned orientation, zeros in the others.

    Args:
        images: [batch, channels, height, width].
        bins: of width pi / bins, angles from the vertical axis.
        bias: (b_x, b_y) added to the gradients, the published `hog_bias` quirk; None for none.

    Returns:
        [batch, channels, bins, height, width].
    """
    gx, gy = sobel(images)
    if bias is not None:
        gx, gy = gx + bias[0], gy + bias[1]
    magnitude = (gx.square() + gy.square()).sqrt()
    index = torch.floor(torch.atan2(gx, gy) / math.pi * bins).long() % bins
    empty = magnitude.new_zeros(*images.shape[:2], bins, *images.shape[2:])
    return empty.scatter_(2, index[:, :, None], magnitude[:, :, None])


def cell_histograms(orientations: Tensor, cell: int) -> Tensor:
    """Means over cells of `cell` x `cell` pixels, to length 1 for each cell and channel (0 where there is no gradient).

    Args:
        orientations: see `orientation_map`.

    Returns:
        [batch, channels, bins, height / cell, width / cell].
    """
    return F.normalize(pooled_map(orientations, cell), dim=2, eps=1e-12)


@torch.no_grad()
def hog_targets(images: Tensor, cells: Sequence[int], bins: int, biases: Sequence[Bias] | None = None) -> list[Tensor]:
    """HOG vectors of each cell at several cell sizes.

    Without biases the gradients are computed once, and each cell size is pooled from the next finer one where that
    divides it (else from the pixels).

    Args:
        images: [batch, channels, height, width], float32 or float64 (half precision is computed in float32, whatever
            autocast says: squares of gradients overflow in float16).
        cells: pixels a side.
        bins: orientations.
        biases: one for each cell size, or None.

    Returns:
        [batch, cells, channels * bins] for each size, cells in raster order, bins channel by channel.

    Raises:
        ValueError: images that the cells do not divide, or fewer than one bin.
    """
    check_cells(images, cells)
    if bins < 1:
        raise ValueError(f"bins: expected 1 or more, got {bins}")
    images = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    with float32_island(images.device):
        parts = [_hog_of_part(part, cells, bins, biases) for part in _parts(images)]
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def _parts(images: Tensor) -> tuple[Tensor, ...]:
    """Few images at a time on a CPU, whose maps of all orientations then stay in its cache; all at once on a GPU."""
    at_once = max(1, PIXELS_AT_ONCE // images[0].numel()) if images.device.type == "cpu" and len(images) else 0
    return images.split(at_once) if at_once else (images,)


def _hog_of_part(images: Tensor, cells: Sequence[int], bins: int, biases: Sequence[Bias] | None) -> list[Tensor]:
    if biases is None:
        pooled = pyramid(orientation_map(images, bins), cells)
    else:
        pairs = zip(cells, biases, strict=True)
        pooled = [pooled_map(orientation_map(images, bins, bias), cell) for cell, bias in pairs]
    maps = [F.normalize(each, dim=2, eps=1e-12) for each in pooled]
    return [each.flatten(3).flatten(1, 2).transpose(1, 2) for each in maps]


def pyramid(orientations: Tensor, cells: Sequence[int]) -> list[Tensor]:
    """Means over cells of several sizes, each from the next finer one that divides it."""
    found: dict[int, Tensor] = {1: orientations}
    for cell in sorted(set(cells)):
        finer = max(size for size in found if cell % size == 0)
        found[cell] = pooled_map(found[finer], cell // finer)
    return [found[cell] for cell in cells]


def pooled_map(orientations: Tensor, cell: int) -> Tensor:
    """Means over cells without normalisation."""
    batch, channels = orientations.shape[:2]
    return F.avg_pool2d(orientations.flatten(0, 1), cell).unflatten(0, (batch, channels))


def pixel_vectors(images: Tensor, cell: int) -> Tensor:
    """The pixels of each cell, [batch, cells, cell^2 channels] by row, column and channel."""
    check_cells(images, (cell,))
    parts = images.unflatten(2, (-1, cell)).unflatten(4, (-1, cell))
    # [batch, channels, rows, row in cell, columns, column in cell]
    return parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


@torch.no_grad()
def pixel_targets(images: Tensor, cells: Sequence[int], *, normalise: bool = True) -> list[Tensor]:
    """Pixel vectors at several cell sizes, each minus its mean and divided by sqrt(unbiased variance + 1e-6)."""
    vectors = [pixel_vectors(images, cell) for cell in cells]
    return [normalised(each) for each in vectors] if normalise else vectors


def normalised(vectors: Tensor) -> Tensor:
    """(v - mean) / sqrt(var + 1e-6) over the last dimension."""
    centred = vectors - vectors.mean(dim=-1, keepdim=True)
    return centred / (vectors.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def check_cells(images: Tensor, cells: Sequence[int]) -> None:
    """Raise ValueError unless all cells divide the images [batch, channels, height, width]."""
    if images.ndim != 4:
        raise ValueError(f"images: expected [batch, channels, height, width], got {list(images.shape)}")
    bad = [cell for cell in cells if images.shape[2] % cell or images.shape[3] % cell]
    if bad or not cells:
        raise ValueError(f"cells: {bad} do not divide images of {list(images.shape[2:])} pixels")
