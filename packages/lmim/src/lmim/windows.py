"""Which visible tokens of a Swin stage attend to each other, and how they are packed for it (section 5.1).

Packing changes the speed and nothing else: tokens attend to those of their own (shifted) window, whatever lies in their
group besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

UNITS = 7
"""Mask units a side of a 224-pixel image."""

Packing = Callable[[Sequence[int], int], list[int]]
"""(tokens in each window, capacity of a group) -> group of each window."""


def unit_coordinates(units: Tensor, side: int, *, columns: int = UNITS, published: bool = False) -> Tensor:
    """Row and column of every token of some units, int64 [len(units) side^2, 2], unit by unit.

    Args:
        units: numbers of the units, in raster order.
        side: tokens a unit and axis.
        columns: units side by side in the image.
        published: the published defect from the second stage on: a unit's tokens are placed on as many consecutive
            cells of the raster.
    """
    if published:
        index = (units[:, None] * side**2 + torch.arange(side**2, device=units.device)).flatten()
        return torch.stack([index // (columns * side), index % (columns * side)], dim=1)
    inner = torch.arange(side, device=units.device)
    across = (units // columns * side)[:, None, None] + inner[:, None]
    down = (units % columns * side)[:, None, None] + inner
    return torch.stack([part.flatten() for part in torch.broadcast_tensors(across, down)], dim=1)


def window_numbers(coordinates: Tensor, window: int, shift: int | tuple[int, int]) -> Tensor:
    """Which (shifted) window each token is in, int64 [tokens]; windows at the border are smaller, nothing wraps.

    Args:
        coordinates: row and column of each token, int64 [tokens, 2].
        window: tokens a side.
        shift: of the windows, for both axes or for rows and columns.
    """
    shifts = (shift, shift) if isinstance(shift, int) else shift
    offset = torch.tensor([window - each if each else 0 for each in shifts], device=coordinates.device)
    cells = (coordinates + offset) // window
    return cells[:, 0] * (int(cells[:, 1].max()) + 1) + cells[:, 1]


class Windows(NamedTuple):
    """Windows of visible tokens packed into groups; the same for all blocks of a stage and shift.

    Attributes:
        members: int64 [groups, capacity], numbers of tokens; 0 where filled up.
        slots: int64 [tokens], where each token is in the flattened `members`.
        allowed: bool [groups, capacity, capacity], which slots attend to which; fillers to all.
        bias_index: int64 [groups, capacity, capacity], entries of the relative-position table.
    """

    members: Tensor
    slots: Tensor
    allowed: Tensor
    bias_index: Tensor

    def to(self, device: torch.device) -> Windows:
        """The same on another device."""
        return Windows(*(part.to(device, non_blocking=True) for part in self))


def one_each(counts: Sequence[int], _capacity: int) -> list[int]:
    """A group for each window: no token waits for another window, but small windows are filled up."""
    return list(range(len(counts)))


def first_fit(counts: Sequence[int], capacity: int) -> list[int]:
    """First-fit decreasing: the fullest window first, each into the first group with room for it."""
    room: list[int] = []
    groups = [0] * len(counts)
    for window in sorted(range(len(counts)), key=lambda each: -counts[each]):
        fitting = (group for group, left in enumerate(room) if left >= counts[window])
        group = next(fitting, len(room))
        if group == len(room):
            room.append(capacity)
        room[group] -= counts[window]
        groups[window] = group
    return groups


def knapsack(counts: Sequence[int], capacity: int) -> list[int]:
    """The published packing: fill one group after the other as far as it goes, each time a 0/1 knapsack problem.

    Dynamic programming over capacities; slower than `first_fit`, and hardly ever with fewer groups.
    """
    waiting, groups, group = list(range(len(counts))), [0] * len(counts), 0
    while waiting:
        # chosen[c]: windows that fill capacity c as far as the windows so far can, with their total
        chosen: list[tuple[int, tuple[int, ...]]] = [(0, ())] * (capacity + 1)
        for window in waiting:
            for room in range(capacity, counts[window] - 1, -1):
                total, before = chosen[room - counts[window]]
                if total + counts[window] > chosen[room][0]:
                    chosen[room] = (total + counts[window], (*before, window))
        for window in chosen[capacity][1]:
            groups[window] = group
        waiting = [window for window in waiting if window not in chosen[capacity][1]]
        group += 1
    return groups


def group_windows(
    coordinates: Tensor, window: int, shift: int | tuple[int, int], packing: Packing | None = None
) -> Windows:
    """Windows of the tokens at `coordinates`, packed.

    Args:
        coordinates: row and column of each token, int64 [tokens, 2].
        window: tokens a side.
        shift: of the windows, for both axes or for rows and columns.
        packing: how windows are put into groups as large as the fullest one. By default `first_fit`, and a single group
            for as many tokens as fill two windows, as published.
    """
    labels, counts = torch.unique(window_numbers(coordinates, window, shift), return_inverse=True, return_counts=True)[
        1:
    ]
    capacity = int(counts.max())
    if packing is None and len(coordinates) <= 2 * window**2:
        groups, capacity = torch.zeros_like(counts), len(coordinates)
    else:
        groups = torch.tensor((packing or first_fit)(counts.tolist(), capacity), device=counts.device)
    of_token = groups[labels]
    sizes = torch.bincount(of_token)
    order = of_token.argsort(stable=True)
    position = torch.arange(len(labels), device=labels.device) - (sizes.cumsum(0) - sizes)[of_token[order]]
    slots = torch.empty_like(labels)
    slots[order] = of_token[order] * capacity + position
    members, window_of = labels.new_zeros(len(sizes) * capacity), labels.new_full((len(sizes) * capacity,), -1)
    members[slots], window_of[slots] = torch.arange(len(labels), device=labels.device), labels
    members, window_of = members.view(-1, capacity), window_of.view(-1, capacity)
    allowed = (window_of[:, :, None] == window_of[:, None]) | (window_of < 0)[:, :, None]
    at = coordinates[members]
    difference = (at[:, :, None] - at[:, None] + window - 1).clamp(0, 2 * window - 2)
    return Windows(members, slots, allowed, difference[..., 0] * (2 * window - 1) + difference[..., 1])


class StageShape(NamedTuple):
    """What the windows of a stage depend on, apart from the mask.

    Attributes:
        rows, columns: units of the image.
        side: tokens a unit and axis.
        window: tokens a side of a window.
        published: misplaced tokens, see `unit_coordinates`.
        packing: see `group_windows`.
    """

    rows: int
    columns: int
    side: int
    window: int
    published: bool = False
    packing: Packing | None = None

    @property
    def shift(self) -> tuple[int, int]:
        """Of every other block, by axis: half a window, or 0 where one window holds all."""
        lengths = (self.rows * self.side, self.columns * self.side)
        down, right = (self.window // 2 if length > self.window else 0 for length in lengths)
        return down, right


@lru_cache(maxsize=32)
def stage_windows(shape: StageShape, units: tuple[int, ...], device: torch.device) -> tuple[Windows, Windows]:
    """Plain and shifted windows of the visible `units`, made on the CPU and moved to `device`.

    Kept for a while: with nothing masked they are the same in every step.
    """
    coordinates = unit_coordinates(torch.tensor(units), shape.side, columns=shape.columns, published=shape.published)
    plain = group_windows(coordinates, shape.window, 0, shape.packing).to(device)
    if shape.shift == (0, 0):
        return plain, plain
    return plain, group_windows(coordinates, shape.window, shape.shift, shape.packing).to(device)
