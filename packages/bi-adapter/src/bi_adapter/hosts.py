"""Where adapters go: modules that take the place of a backbone's own, hold those, and add what the active adapter says.

A host keeps the modules it replaced, so that removing it leaves the backbone as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bi_adapter.config import BiAdapterConfig, Method
from bi_adapter.layers import Bottleneck, LoraPair, Matrix, QuantLinear, init_up

Replaced = tuple[tuple[nn.Module, str, nn.Module], ...]


class UnsupportedBackbone(ValueError):
    """A model without known places for adapters."""


class Host(nn.Module):
    """Holds base modules and any number of adapters of which one is active, or none.

    Attributes:
        adapters: by name.
        active: name of the active one; a host that does not have it adds nothing.
        parts: published names of the bottlenecks that one adapter has here, in published order.
        width_in, width_out: of every bottleneck.
        prefix: what the published names of its matrices begin with, such as `blocks.0.`.
        replaced: (parent, attribute, original module), to undo.
    """

    method: Method | None = None
    parts: tuple[str, ...] = ()

    def __init__(self, prefix: str, width_in: int = 0, width_out: int = 0) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self.prefix = prefix
        self.width_in, self.width_out = width_in, width_out
        self.replaced: Replaced = ()

    @property
    def current(self) -> Any:
        """The active adapter's module, or None."""
        return None if self.active is None or self.active not in self.adapters else self.adapters[self.active]

    def assemble(self, parts: Sequence[Bottleneck]) -> nn.Module:
        """The adapter module of this place out of its parts."""
        return parts[0]

    def bottlenecks(self, name: str) -> Mapping[str, Bottleneck]:
        """The parts of an adapter by their published names, in published order."""
        adapter: Any = self.adapters[name]
        return {part: adapter if len(self.parts) == 1 else getattr(adapter, part) for part in self.parts}

    def base_names(self) -> Mapping[str, str]:
        """Attributes that hold base modules, and the names these have in the backbone."""
        return {}

    def install(self, *places: tuple[nn.Module, str, nn.Module]) -> None:
        """Put (parent, attribute, new module) into the backbone, remembering what was there."""
        self.replaced = tuple((parent, attribute, getattr(parent, attribute)) for parent, attribute, _ in places)
        for parent, attribute, module in places:
            setattr(parent, attribute, module)

    def remove(self) -> None:
        """Put the original modules back."""
        for parent, attribute, original in self.replaced:
            setattr(parent, attribute, original)


class ParallelMlp(Host):
    """The MLP half of a pre-norm block with an AdaptFormer beside it (Section 3.3).

    DropPath(LayerScale(MLP(norm(x)))) + s U Drop(relu(D x)), on the stream x before the norm.
    """

    method = "adaptformer"
    parts = ("adapter_mlp",)

    def __init__(self, prefix: str, norm: nn.Module, mlp: nn.Module, scale: nn.Module, drop_path: nn.Module) -> None:
        super().__init__(prefix, _norm_width(norm), _norm_width(norm))
        self.norm, self.mlp, self.layer_scale, self.drop_path = norm, mlp, scale, drop_path

    def base_names(self) -> Mapping[str, str]:
        """Norm, MLP and layer scale."""
        own = [attribute for _, attribute, _ in self.replaced]
        return {inner: self.prefix + name for inner, name in zip(("mlp", "norm", "layer_scale"), own, strict=False)}

    def forward(self, x: Tensor) -> Tensor:
        """What the block adds to its stream, both [batch, tokens, dim]."""
        branch = self.drop_path(self.layer_scale(self.mlp(self.norm(x))))
        return branch if self.current is None else branch + self.current(x)


class LoraHost(Host):
    """A linear projection with LoRA beside it, which can be merged into it.

    Attributes:
        base: the projection.
        merged: the weight [out, in] as it was before merging, or None.
    """

    method = "lora"

    def __init__(self, prefix: str, base: nn.Module, share: int = 1) -> None:
        layer: Any = base
        super().__init__(prefix, int(layer.in_features), int(layer.out_features) // share)
        self.base = base
        self.merged: Tensor | None = None

    def base_names(self) -> Mapping[str, str]:
        """The projection."""
        return {"base": self.prefix + self.replaced[0][1]}

    def rows(self, name: str) -> Iterator[tuple[slice, Bottleneck]]:
        """Which rows of the base's weight each part of an adapter belongs to."""
        raise NotImplementedError

    @torch.no_grad()
    def merge(self, name: str) -> None:
        """W += s U D, added in the latent's precision; the weight is kept for `unmerge`.

        Raises:
            ValueError: the base's weight is not a floating-point tensor.
        """
        weight = getattr(self.base, "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise ValueError(f"merge: {self.prefix} has no floating-point weight ({type(self.base).__name__})")
        self.merged = weight.detach().clone()
        for rows, part in self.rows(name):
            update = part.update()
            weight[rows] = (weight[rows].to(update.dtype) + update).to(weight.dtype)

    @torch.no_grad()
    def unmerge(self) -> None:
        """The weight as it was, bit by bit."""
        if self.merged is not None:
            weight = self.base.weight
            assert isinstance(weight, Tensor)
            weight.copy_(self.merged)
            self.merged = None


class FusedQkv(LoraHost):
    """A fused projection with rows [q; k; v]: q += s U_q Drop(D_q x), v += s U_v Drop(D_v x) (Section 3.3)."""

    parts = ("lora_q", "lora_v")

    def __init__(self, prefix: str, base: nn.Module) -> None:
        super().__init__(prefix, base, share=3)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., 3 dim]."""
        projected = self.base(x)
        if self.current is None or self.merged is not None:
            return projected
        query, value = self.current(x)
        parts = projected.chunk(3, dim=-1)
        return torch.cat([parts[0] + query, parts[1], parts[2] + value], dim=-1)

    def rows(self, name: str) -> Iterator[tuple[slice, Bottleneck]]:
        """The first and the last third."""
        parts = self.bottlenecks(name)
        yield slice(0, self.width_out), parts["lora_q"]
        yield slice(2 * self.width_out, None), parts["lora_v"]

    def assemble(self, parts: Sequence[Bottleneck]) -> nn.Module:
        """Both in one module."""
        return LoraPair(*parts)


class Projection(LoraHost):
    """A projection of its own for query or value."""

    def __init__(self, prefix: str, base: nn.Module, part: str) -> None:
        super().__init__(prefix, base)
        self.parts = (part,)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., out]."""
        projected = self.base(x)
        return projected if self.current is None or self.merged is not None else projected + self.current(x)

    def rows(self, name: str) -> Iterator[tuple[slice, Bottleneck]]:
        """All of them."""
        yield slice(None), self.bottlenecks(name)[self.parts[0]]


class Head(Host):
    """The classifier: one for each adapter, and the backbone's own where none is active."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__("head")
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> [..., classes]."""
        return self.base(x) if self.current is None else self.current(x)


def new_adapter(host: Host, config: BiAdapterConfig, generator: torch.Generator | None, like: Tensor) -> nn.Module:
    """Fresh adapter modules for a place, with the paper's initialisation, on the device and in the dtype of `like`."""
    settings: dict[str, Any] = {
        "quantiser": config.quantiser, "codebook": config.codebook, "per_row": config.per_row, "generator": generator,
        "statistic_gradients": config.statistic_gradients, "device": like.device, "dtype": like.dtype,
    }  # fmt: skip
    parts = []
    for _ in host.parts:
        down = QuantLinear(host.width_in, config.dim, config.bits, **settings)
        up = QuantLinear(config.dim, host.width_out, config.bits, **settings)
        latent = torch.empty_like(up.weight)
        init_up(latent, config.bits, generator)
        up.set_latent(latent)
        parts.append(new_bottleneck(config, down, up))
    return host.assemble(parts)


def new_bottleneck(config: BiAdapterConfig, down: Matrix, up: Matrix) -> Bottleneck:
    """An adapter's two matrices with its scale and dropout."""
    relu = config.method == "adaptformer"
    return Bottleneck(down, up, scale=config.scale, dropout=config.dropout, relu=relu)


def modules_of_kind(model: nn.Module, kinds: Any) -> list[tuple[str, Any]]:
    """Names and modules of these classes, in order, without a look at what is inside of them."""
    found, waiting = [], [("", model)]
    while waiting:
        name, module = waiting.pop()
        if isinstance(module, kinds):
            found.append((name, module))
            continue
        prefix = f"{name}." if name else ""
        waiting += [(prefix + child, inner) for child, inner in module.named_children()][::-1]
    return found


def hosts_of(model: nn.Module) -> list[Host]:
    """All hosts, in the order of the backbone's modules, the classifier's last."""
    found, waiting = [], [model]
    while waiting:
        module = waiting.pop()
        if isinstance(module, Host):
            found.append(module)
        else:
            waiting += [*module.children()][::-1]
    return [host for host in found if not isinstance(host, Head)] + [host for host in found if isinstance(host, Head)]


def _norm_width(norm: nn.Module) -> int:
    shape = getattr(norm, "normalized_shape", None)
    if not shape:
        raise UnsupportedBackbone(f"model: expected a LayerNorm before the MLP, found {type(norm).__name__}")
    return int(shape[-1])
