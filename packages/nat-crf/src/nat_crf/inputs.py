"""Checks of what the CRF layer is given, and padding on either side."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """Where the real positions of each row lie, and how to move them to the front and back.

    Attributes:
        mask: `[batch, time]`, or None where every position is real.
        start: `[batch]`, first real position, or None where all rows start at 0.
        lengths: `[batch]`.
    """

    mask: Tensor | None
    start: Tensor | None
    lengths: Tensor

    @classmethod
    def of(cls, mask: Tensor | None, like: Tensor) -> Span:
        """The span of a mask, for tensors `like [batch, time, ...]`."""
        if mask is None:
            return cls(None, None, torch.full(like.shape[:1], like.shape[1], device=like.device))
        start: Tensor | None = mask.int().argmax(dim=1)
        if _readable(mask) and not bool(start.any()):
            start = None
        return cls(mask, start, mask.sum(dim=1))

    def aligned(self, values: Tensor) -> Tensor:
        """`values [batch, time, ...]` with every row's real positions moved to the front."""
        if self.start is None:
            return values
        time = values.shape[1]
        index = (torch.arange(time, device=values.device) + self.start[:, None]).clamp(max=time - 1)
        return values.take_along_dim(index.view(*index.shape, *[1] * (values.ndim - 2)), dim=1)

    def restored(self, values: Tensor) -> Tensor:
        """`values [batch, n, time]` of aligned rows back at their places, 0 at padding."""
        if self.mask is None:
            return values
        if self.start is not None:
            index = (torch.arange(values.shape[2], device=values.device) - self.start[:, None]).clamp(min=0)
            values = values.take_along_dim(index[:, None], dim=2)
        return torch.where(self.mask[:, None], values, 0)


def check_positive(name: str, value: int) -> None:
    """Raise a ValueError unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")


def check_emissions(emissions: Tensor, vocab: int | None) -> None:
    """Raise a ValueError unless `emissions` are floating point `[batch, time, vocab]`, with at least one position."""
    last = "k" if vocab is None else f"vocab={vocab}"
    wrong = emissions.ndim != 3 or not emissions.is_floating_point() or 0 in emissions.shape[1:]
    if wrong or (vocab is not None and emissions.shape[2] != vocab):
        found = f"{emissions.dtype} {list(emissions.shape)}"
        raise ValueError(f"emissions: expected floating point [batch, time, {last}], got {found}")


def check_mask(mask: Tensor | None, shape: tuple[int, int]) -> None:
    """Raise a ValueError unless `mask` is bool `[batch, time]` with one run of True in every row."""
    if mask is None:
        return
    if tuple(mask.shape) != shape or mask.dtype != torch.bool:
        wanted = f"bool [batch, time] = {list(shape)}, True at real positions"
        raise ValueError(f"mask: expected {wanted}, got {mask.dtype} {list(mask.shape)}")
    if _readable(mask):
        runs = mask[:, 0].long() + (mask[:, 1:] & ~mask[:, :-1]).sum(dim=1)
        if bool((runs != 1).any()):
            row = int((runs != 1).nonzero()[0])
            raise ValueError(f"mask: expected one unbroken run of True in every row, got {int(runs[row])} in row {row}")


def check_states(states: Tensor | None, shape: tuple[int, int], state_dim: int | None) -> None:
    """Raise a ValueError unless dynamic transitions have their decoder states `[batch, time, state_dim]`."""
    if state_dim is None:
        return
    wanted = f"decoder states [batch, time, state_dim] = {[*shape, state_dim]} for dynamic transitions"
    if states is None:
        raise ValueError(f"states: expected {wanted}, got None")
    if tuple(states.shape) != (*shape, state_dim) or not states.is_floating_point():
        raise ValueError(f"states: expected {wanted}, got {states.dtype} {list(states.shape)}")


def check_targets(targets: Tensor, shape: tuple[int, ...], vocab: int, mask: Tensor | None) -> None:
    """Raise a ValueError unless `targets` are int64 `[batch, time]` labels, in the vocabulary at real positions."""
    if tuple(targets.shape) != shape or targets.dtype != torch.int64:
        found = f"{targets.dtype} {list(targets.shape)}"
        raise ValueError(f"targets: expected int64 [batch, time] = {list(shape)}, got {found}")
    if _readable(targets):
        real = targets if mask is None else torch.where(mask, targets, 0)
        low, high = (int(bound) for bound in torch.aminmax(real)) if real.numel() else (0, 0)
        if low < 0 or high >= vocab:
            raise ValueError(f"targets: expected labels in 0..{vocab - 1} at real positions, got {low}..{high}")


def _readable(tensor: Tensor) -> bool:
    """Whether reading a value neither waits for a device nor breaks a trace."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
