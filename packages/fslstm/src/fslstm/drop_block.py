"""DropBlock with complete squares and a ramp over training steps (section 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

RAMP = 40_000


def drop_block_keep_rate(drop_rate: float, forward_count: int | Tensor, ramp: int = RAMP) -> Tensor:
    """Share of units to keep after `forward_count` calls: max(1 - rate count / ramp, 1 - rate), a float64 scalar."""
    count = torch.as_tensor(forward_count, dtype=torch.float64)
    return 1 - drop_rate * (count / ramp).clamp_max(1)


def drop_block_gamma(keep_rate: float | Tensor, block_size: int, feature_size: int) -> Tensor:
    """Probability of a seed, (1 - keep) / bs^2 * F^2 / (F - bs + 1)^2, for maps of side F and squares of side bs.

    Raises ValueError where the square is larger than the map.
    """
    if not 1 <= block_size <= feature_size:
        raise ValueError(f"block_size: expected 1..{feature_size} (the side of the feature map), got {block_size}")
    drop = 1 - torch.as_tensor(keep_rate, dtype=torch.float64)
    return drop / block_size**2 * feature_size**2 / (feature_size - block_size + 1) ** 2


def drop_block_mask(seeds: Tensor, block_size: int) -> Tensor:
    """Units to keep `[B, C, H, W]` (1 = keep) from seeds `[B, C, H - bs + 1, W - bs + 1]` of 0 and 1.

    Each seed drops the whole square of side `block_size` whose first corner it is.
    """
    padded = functional.pad(seeds, [block_size - 1] * 4)
    return 1 - functional.max_pool2d(padded, block_size, stride=1)


def drop_block(features: Tensor, mask: Tensor) -> Tensor:
    """Features `[B, C, H, W]` where `mask` is 1, rescaled by elements / survivors; all zero where nothing survives."""
    return features * mask * (mask.numel() / mask.sum().clamp_min(1))


class DropBlock(nn.Module):
    """DropBlock on square maps `[B, C, F, F]`; the identity in evaluation.

    The rate ramps up with the number of training calls, which is part of the state dict, so that a resumed run goes on
    where it was. The reference counts in a replica that multi-GPU training throws away, so its rate stays near zero.

    Args:
        drop_rate: share of units to drop at the end of the ramp, in [0, 1).
        block_size: side of the squares.
        ramp: training calls (two an iteration: support and query) until the full rate.
    """

    count: Tensor

    def __init__(self, drop_rate: float = 0.1, block_size: int = 5, ramp: int = RAMP) -> None:
        super().__init__()
        if not 0 <= drop_rate < 1:
            raise ValueError(f"drop_rate: expected a number in [0, 1), got {drop_rate}")
        self.drop_rate, self.block_size, self.ramp = drop_rate, block_size, ramp
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        """`[B, C, F, F]` -> the same shape."""
        if not self.training or self.drop_rate == 0:
            return features
        self.count += 1
        batch, channels, height, width = features.shape
        if height != width:
            raise ValueError(f"features: expected square maps, got {list(features.shape)}")
        gamma = drop_block_gamma(drop_block_keep_rate(self.drop_rate, self.count, self.ramp), self.block_size, height)
        grid = height - self.block_size + 1
        uniform = torch.rand(batch, channels, grid, grid, device=features.device)
        return drop_block(features, drop_block_mask((uniform < gamma).to(features.dtype), self.block_size))
