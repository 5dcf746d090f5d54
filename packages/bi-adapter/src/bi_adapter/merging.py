"""Adapters as constants: the stored form for inference and export, and LoRA merged into the backbone's weights."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

from bi_adapter.hosts import Head, LoraHost, hosts_of
from bi_adapter.installation import classifier_places
from bi_adapter.layers import Matrix, QuantLinear, StoredLinear
from bi_adapter.registry import (
    REGISTRY,
    active_adapter,
    adapter_head,
    adapter_hosts,
    check_unmerged,
    find_info,
)

Model = TypeVar("Model", bound=nn.Module)


def freeze_adapter(model: Model, *, dequantised: bool = True) -> Model:
    """Turn the active adapter into its stored form, for inference and export: weights become constants.

    Args:
        model: changed in place.
        dequantised: hold decoded weights; else multiply by packed levels, in less memory.
    """
    name = active_adapter(model)
    for host in adapter_hosts(model, name):
        for bottleneck in host.bottlenecks(name).values():
            for attribute in ("adapter_down", "adapter_up"):
                matrix = getattr(bottleneck, attribute)
                setattr(bottleneck, attribute, _frozen(matrix, dequantised))
    head = adapter_head(model, name)
    if isinstance(head, QuantLinear):
        _replace_head(model, name, _frozen(head, dequantised))
    return model


def merge(model: Model) -> Model:
    """Add the active LoRA adapter to the weights of the backbone, so that it costs nothing; undone by `unmerge`.

    Raises:
        ValueError: an AdaptFormer, whose ReLU cannot be merged; or a backbone whose weights are quantised.
    """
    name = active_adapter(model)
    method = find_info(model, name).config.method
    if method != "lora":
        raise ValueError(f"merge: only LoRA adapters can be merged, {name!r} is of method {method} and has a ReLU")
    check_unmerged(model)
    hosts = [host for host in adapter_hosts(model, name) if isinstance(host, LoraHost)]
    for host in hosts:
        _check_plain(host)
    for host in hosts:
        host.merge(name)
    return model


def unmerge(model: Model) -> Model:
    """Give the backbone its weights back, bit by bit; nothing happens where nothing is merged."""
    for host in hosts_of(model):
        if isinstance(host, LoraHost):
            host.unmerge()
    return model


def merge_and_unload(model: Model) -> Model:
    """Merge the active LoRA adapter for good: a plain backbone with this adapter's classifier is left.

    Raises:
        ValueError: as `merge`.
    """
    name = active_adapter(model)
    head = adapter_head(model, name)
    merge(model)
    for host in hosts_of(model):
        if isinstance(host, LoraHost):
            host.merged = None
        host.remove()
    if isinstance(head, QuantLinear | StoredLinear):
        plain = nn.Linear(head.in_features, head.out_features, bias=False)
        plain.weight = nn.Parameter(head.effective_weight().detach())
        head = plain
    for parent, attribute in classifier_places(model):
        if head is not None:
            setattr(parent, attribute, head)
    delattr(model, REGISTRY)
    return model


def _check_plain(host: LoraHost) -> None:
    """Refuse weights that an update cannot be added to; subclasses of tensors hold quantised ones."""
    weight = getattr(host.base, "weight", None)
    if not isinstance(weight, Tensor) or type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point():
        raise ValueError(
            f"merge: {host.prefix} has no plain floating-point weight but {type(host.base).__name__} with "
            f"{type(weight).__name__}; merge into the backbone as it was before it was quantised"
        )


def _replace_head(model: nn.Module, name: str, head: nn.Module) -> None:
    for host in hosts_of(model):
        if isinstance(host, Head) and name in host.adapters:
            host.adapters[name] = head


def _frozen(matrix: Matrix, dequantised: bool) -> StoredLinear:
    dtype = matrix.weight.dtype if isinstance(matrix, QuantLinear) else None
    return StoredLinear(matrix.stored(), dequantised=dequantised, dtype=dtype)
