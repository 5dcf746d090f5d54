"""Training objective and schedule (section 7)."""

from __future__ import annotations

from torch import Tensor

from sextet.training import step_decay

PUBLISHED_DECAY = ((20, 0.06), (40, 0.012), (50, 0.0024))
"""Epoch (0-based) -> factor on every learning rate from there on; 1 before the first."""


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross entropy with 1 - eps on the true class and eps / (way - 1) on each other one, averaged over all queries.

    This is not the smoothing of `torch.nn.functional.cross_entropy`, which spreads eps over all classes; the two agree
    for `label_smoothing = eps * way / (way - 1)`.

    Args:
        logits: `[..., way]`, scaled.
        labels: `[...]` integers in `0..way-1`.
        smoothing: eps in [0, 1].

    Returns:
        a scalar, in nats.

    Raises:
        ValueError: where shapes do not match or `smoothing` is out of range.
    """
    if labels.shape != logits.shape[:-1] or labels.is_floating_point():
        wanted = f"integers {list(logits.shape[:-1])}"
        raise ValueError(f"labels: expected {wanted} as in logits, got {labels.dtype} {list(labels.shape)}")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing: expected a number in [0, 1], got {smoothing}")
    n_way = logits.shape[-1]
    if n_way < 2:
        raise ValueError(f"logits: expected at least 2 classes in the last dimension, got {n_way}")
    log_probabilities = logits.log_softmax(dim=-1)
    true = log_probabilities.gather(-1, labels.long()[..., None])[..., 0]
    other = smoothing / (n_way - 1)
    return -((1 - smoothing - other) * true + other * log_probabilities.sum(dim=-1)).mean()


def learning_rate_multiplier(epoch: int) -> float:
    """Factor on every learning rate in the given 0-based epoch: 1 (< 20), 0.06 (< 40), 0.012 (< 50), 0.0024 after."""
    if epoch < 0:
        raise ValueError(f"epoch: expected 0 or more, got {epoch}")
    return step_decay(epoch, dict(PUBLISHED_DECAY))
