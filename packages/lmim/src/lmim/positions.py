"""Fixed two-dimensional sin-cos position tables (section 3.1), and their interpolation to other grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def axis_table(width: int, count: int) -> Tensor:
    """e(r) = [sin(r w_0), ..., cos(r w_0), ...] with w_j = 10000^(-j / (width / 2)), float64 [count, width]."""
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = torch.arange(count, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def position_table(dim: int, grid: int, *, class_token: bool = False) -> Tensor:
    """The row of token (i, j), in raster order, is [e(j), e(i)]: the column first.

    Args:
        dim: a multiple of 4.
        grid: tokens a side.
        class_token: whether a row of zeros comes first.

    Returns:
        float64 [grid^2 (+ 1), dim].

    Raises:
        ValueError: another `dim`.
    """
    if dim % 4 or dim < 4:
        raise ValueError(f"dim: expected a multiple of 4, got {dim}")
    axis = axis_table(dim // 2, grid)
    table = torch.cat([axis.expand(grid, grid, -1), axis[:, None].expand(-1, grid, -1)], dim=2).flatten(0, 1)
    return torch.cat([table.new_zeros(1, dim), table]) if class_token else table


def interpolate_positions(table: Tensor, grid: int, *, prefix: int = 1) -> Tensor:
    """A table for another grid by bicubic interpolation; the rows of class tokens are kept.

    Args:
        table: [1, prefix + old^2, dim].
        grid: tokens a side.
        prefix: rows before the grid.

    Returns:
        [1, prefix + grid^2, dim].

    Raises:
        ValueError: a table that is not square.
    """
    kept, rest = table[:, :prefix], table[:, prefix:]
    old = round(rest.shape[1] ** 0.5)
    if old * old != rest.shape[1]:
        raise ValueError(f"table: expected a square grid after {prefix} rows, got {rest.shape[1]} rows")
    if old == grid:
        return table
    maps = rest.transpose(1, 2).reshape(1, -1, old, old)
    moved = F.interpolate(maps, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([kept, moved.flatten(2).transpose(1, 2)], dim=1)
