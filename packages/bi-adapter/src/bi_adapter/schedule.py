"""The published learning-rate schedule."""

from __future__ import annotations

import math

WARMUP_EPOCHS = 10
WARMUP_RATE = 1e-6
FINAL_RATE = 1e-5


def learning_rate(epoch: int, base: float = 1e-3, epochs: int = 100, warmup: int = WARMUP_EPOCHS) -> float:
    """The learning rate used throughout one epoch, as published.

    Linear warm-up from 1e-6, then half a cosine from `base` to 1e-5. Two peculiarities of the published code are kept:
    the schedule is stepped with an epoch's number after that epoch, so the first two epochs run at the same rate and
    the last one at the rate before the end; and the cosine is not shifted by the warm-up, so `base` is not reached.

    Args:
        epoch: 0-based, 0..epochs-1.
        base: the nominal learning rate.
        epochs: length of the run.
        warmup: epochs of warm-up, below `epochs`.

    Raises:
        ValueError: `epoch` outside the run, or no room for the warm-up.
    """
    if not 0 <= epoch < epochs or not 0 <= warmup < epochs:
        raise ValueError(f"expected 0 <= epoch < epochs and 0 <= warmup < epochs, got {epoch}, {epochs}, {warmup}")
    t = max(epoch - 1, 0)
    if t < warmup:
        return WARMUP_RATE + t * (base - WARMUP_RATE) / warmup
    return FINAL_RATE + 0.5 * (base - FINAL_RATE) * (1.0 + math.cos(math.pi * t / epochs))
