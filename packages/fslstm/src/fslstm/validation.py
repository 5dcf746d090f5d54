"""Checks of an episode's tensors, and the precision in which the heads compute."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from sextet.cuda import float32_island

P = ParamSpec("P")
R = TypeVar("R")


def check_episode(
    query: Tensor | None,
    support: Tensor,
    support_labels: Tensor,
    n_way: int,
    mask: Tensor | None = None,
    *,
    validate: bool = True,
) -> None:
    """Raise a ValueError unless the tensors form a batch of few-shot episodes.

    Args:
        query: `[batch, queries, dim]` floating point, or None where only a support set is looked at.
        support: `[batch, rows, dim]`, same dtype and dim as `query`.
        support_labels: `[batch, rows]` integers in `0..n_way-1`; anything in padded rows.
        n_way: number of classes, at least 2.
        mask: `[batch, rows]` bool, True where the row is a real support row.
        validate: also check the values (labels in range, every class present, finite features). On an accelerator
            this waits for the device, so training loops switch it off.
    """
    _check_features("support", support, None)
    if query is not None:
        _check_features("query", query, support)
    check_labels(support_labels, n_way, mask, (support.shape[0], support.shape[1]), validate=validate)
    if validate:
        _check_finite("support", support if mask is None else support.masked_fill(~mask[..., None], 0))
        if query is not None:
            _check_finite("query", query)


def check_gram(
    gram: Tensor, cross: Tensor | None, labels: Tensor, n_way: int, mask: Tensor | None, *, validate: bool = True
) -> None:
    """Raise a ValueError unless `gram` is `[batch, n, n]`, `cross` is `[batch, m, n]` and the labels fit them."""
    if gram.ndim != 3 or gram.shape[1] != gram.shape[2]:
        raise ValueError(f"gram: expected [batch, rows, rows], got {_shape(gram)}")
    if cross is not None and (cross.ndim != 3 or cross.shape[::2] != gram.shape[::2] or cross.dtype != gram.dtype):
        wanted = f"[{gram.shape[0]}, queries, {gram.shape[2]}] {gram.dtype}, matching gram"
        raise ValueError(f"cross: expected {wanted}, got {_shape(cross)} {cross.dtype}")
    check_labels(labels, n_way, mask, (gram.shape[0], gram.shape[1]), validate=validate)


def check_labels(
    labels: Tensor, n_way: int, mask: Tensor | None, shape: tuple[int, int], *, validate: bool = True
) -> None:
    """Raise a ValueError unless `labels` are integers of the given `[batch, rows]` shape with all classes present."""
    if not isinstance(n_way, int) or n_way < 2:
        raise ValueError(f"n_way: expected an integer of at least 2, got {n_way!r}")
    _check_tensor("support_labels", labels)
    if tuple(labels.shape) != shape:
        raise ValueError(f"support_labels: expected [batch, rows] = {list(shape)}, got {_shape(labels)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"support_labels: expected an integer dtype (int64), got {labels.dtype}")
    if mask is not None and (tuple(mask.shape) != shape or mask.dtype != torch.bool):
        wanted = f"bool [batch, rows] = {list(shape)}, True for real rows"
        raise ValueError(f"mask: expected {wanted}, got {mask.dtype} {_shape(mask)}")
    if validate:
        _check_label_values(labels, n_way, mask)


def _check_label_values(labels: Tensor, n_way: int, mask: Tensor | None) -> None:
    # [batch, way]; a label out of range belongs to no class, so the counts tell of both faults
    counts = class_membership(labels, n_way, mask, torch.float32).sum(dim=1)
    rows = labels.numel() if mask is None else int(mask.sum())
    if bool(counts.all()) and int(counts.sum()) == rows:
        return
    low, high = (int(bound) for bound in torch.aminmax(labels if mask is None else labels.masked_fill(~mask, 0)))
    if low < 0 or high >= n_way:
        raise ValueError(f"support_labels: expected values in 0..{n_way - 1}, got values in {low}..{high}")
    episode, label = (int(index) for index in (counts == 0).nonzero()[0])
    raise ValueError(
        f"support_labels: expected at least one support row of each of the {n_way} classes, "
        f"got none of class {label} in episode {episode}"
    )


def class_membership(labels: Tensor, n_way: int, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """One-hot labels OH `[batch, rows, way]`; all-zero rows where `mask` is False. Never waits for the device."""
    one_hot = labels[..., None] == torch.arange(n_way, device=labels.device)
    if mask is not None:
        one_hot = one_hot & mask[..., None]
    return one_hot.to(dtype)


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast, its half-precision tensor arguments cast to float32 (float64 stays).

    A Gram matrix rounded to bfloat16 is no longer positive definite for tight classes, while rounding the *inputs*
    to bfloat16 is harmless. For the same reason keep TF32 off (PyTorch's default for matrix products).
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        positional = [_upcast(value) for value in args]
        named = {key: _upcast(value) for key, value in kwargs.items()}
        devices = (value.device for value in [*positional, *named.values()] if isinstance(value, Tensor))
        with float32_island(next(devices, torch.device("cpu"))):
            return function(*positional, **named)  # pyright: ignore[reportCallIssue]

    return wrapped


def _upcast(value: object) -> object:
    half = isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize < 4
    return value.float() if half and isinstance(value, Tensor) else value


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise ValueError(f"{name}: expected a torch tensor, got {kind}; torch.as_tensor makes one of an array")


def _check_features(name: str, features: Tensor, like: Tensor | None) -> None:
    _check_tensor(name, features)
    if features.ndim != 3 or not features.is_floating_point():
        raise ValueError(f"{name}: expected floating point [batch, rows, dim], got {features.dtype} {_shape(features)}")
    if like is None:
        if features.shape[1] == 0:
            raise ValueError(f"{name}: expected at least one row, got {_shape(features)}")
        return
    if features.shape[0] != like.shape[0] or features.shape[2] != like.shape[2] or features.dtype != like.dtype:
        wanted = f"{like.dtype} [{like.shape[0]}, rows, {like.shape[2]}] as in support"
        raise ValueError(f"{name}: expected {wanted}, got {features.dtype} {_shape(features)}")


def _check_finite(name: str, features: Tensor) -> None:
    if features.numel() == 0:
        return
    # NaN and infinity reach the sum, which is cheap; a sum may also overflow, so the extremes decide
    if bool(torch.isfinite(features.detach().sum())):
        return
    low, high = torch.aminmax(features.detach())
    if not (bool(torch.isfinite(low)) and bool(torch.isfinite(high))):
        raise ValueError(f"{name}: expected finite features, got NaN or infinity; check the embedding network")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
