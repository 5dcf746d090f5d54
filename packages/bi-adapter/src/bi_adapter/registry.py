"""Which adapters a model has, and their parts in the order of the published files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bi_adapter.config import BiAdapterConfig
from bi_adapter.hosts import Head, Host, LoraHost, hosts_of
from bi_adapter.layers import Matrix, QuantLinear, StoredLinear

REGISTRY = "bi_adapters"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
# ModuleDict refuses the names of its own methods
_TAKEN = frozenset(dir(nn.ModuleDict))


@dataclass(frozen=True)
class AdapterInfo:
    """What a model knows about one of its adapters.

    Attributes:
        config: its settings.
        num_classes: of its classifier; None where it has none.
        class_names: as many, or empty where they are not known.
        preprocessing: what the user says about it, plain JSON values.
        base_model: name of the backbone; empty for the name that the backbone gives itself.
    """

    config: BiAdapterConfig
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    base_model: str = ""


class Registry:
    """The adapters of a model by name, and which one is chosen."""

    def __init__(self) -> None:
        self.infos: dict[str, AdapterInfo] = {}
        self.chosen: str | None = None


def check_free(model: nn.Module, name: str) -> None:
    """Check that a model can take an adapter of this name.

    Raises:
        ValueError: the name is taken, or not made of letters, digits, _ and -; or an adapter is merged.
    """
    check_unmerged(model)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
        raise ValueError(f"name: expected letters, digits, _ and -, and not a method of ModuleDict, got {name!r}")
    if name in adapter_infos(model):
        raise ValueError(f"name: the model has an adapter {name!r} already; delete_adapter(model, {name!r}) first")


def register(model: nn.Module, name: str, info: AdapterInfo) -> None:
    """Note that an adapter's modules are in place."""
    if not isinstance(getattr(model, REGISTRY, None), Registry):
        setattr(model, REGISTRY, Registry())
    registry_of(model).infos[name] = info


def adapter_infos(model: nn.Module) -> dict[str, AdapterInfo]:
    """What is known about each adapter, by name; empty for a model without."""
    registry = getattr(model, REGISTRY, None)
    return dict(registry.infos) if isinstance(registry, Registry) else {}


def find_info(model: nn.Module, name: str) -> AdapterInfo:
    """What is known about an adapter.

    Raises:
        ValueError: there is none of this name.
    """
    infos = adapter_infos(model)
    if name not in infos:
        raise ValueError(f"name: the model has no adapter {name!r}, it has {sorted(infos)}")
    return infos[name]


def active_adapter(model: nn.Module) -> str:
    """Name of the adapter that is chosen.

    Raises:
        ValueError: the model has none.
    """
    chosen = registry_of(model).chosen
    if chosen is None:
        raise ValueError("model: no adapter is chosen; set_adapter(model, name) chooses one")
    return chosen


def adapter_hosts(model: nn.Module, name: str) -> list[Host]:
    """The hosts that hold an adapter, classifiers excepted.

    Raises:
        ValueError: there is no such adapter.
    """
    find_info(model, name)
    return [host for host in hosts_of(model) if name in host.adapters and not isinstance(host, Head)]


def adapter_head(model: nn.Module, name: str | None = None) -> nn.Module | None:
    """An adapter's classifier (the active one's by default), or None where it has none."""
    name = active_adapter(model) if name is None else name
    found = (host.adapters[name] for host in hosts_of(model) if isinstance(host, Head) and name in host.adapters)
    return next(found, None)


def adapter_matrices(model: nn.Module, name: str | None = None) -> dict[str, Matrix]:
    """The quantised matrices of an adapter under their published names, in the order of the published files.

    `blocks.0.adapter_mlp.adapter_down`, `blocks.0.adapter_mlp.adapter_up`, ...; `lora_q` before `lora_v`; a quantised
    `head` last. The active adapter by default.
    """
    name = active_adapter(model) if name is None else name
    matrices: dict[str, Matrix] = {}
    for host in adapter_hosts(model, name):
        for part, bottleneck in host.bottlenecks(name).items():
            matrices[f"{host.prefix}{part}.adapter_down"] = bottleneck.adapter_down
            matrices[f"{host.prefix}{part}.adapter_up"] = bottleneck.adapter_up
    head = adapter_head(model, name)
    if isinstance(head, QuantLinear | StoredLinear):
        matrices["head"] = head
    return matrices


def registry_of(model: nn.Module) -> Registry:
    """What a model knows about its adapters.

    Raises:
        ValueError: it has none.
    """
    registry = getattr(model, REGISTRY, None)
    if not isinstance(registry, Registry):
        raise ValueError("model: it has no adapters; attach(model, BiAdapterConfig(...)) puts one on")
    return registry


def check_unmerged(model: nn.Module) -> list[Host]:
    """Check that the backbone's weights are its own.

    Returns:
        All hosts.

    Raises:
        ValueError: an adapter is merged into them.
    """
    hosts = hosts_of(model)
    if any(isinstance(host, LoraHost) and host.merged is not None for host in hosts):
        raise ValueError("model: an adapter is merged into the backbone; unmerge(model) first")
    return hosts
