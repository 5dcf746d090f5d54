"""Finding the places of a backbone where adapters go, and putting hosts there.

Backbones: timm's `VisionTransformer` (DeiT, distilled, with registers) and `SwinTransformer`, and the ViT of
transformers, version 5.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import Tensor, nn

from bi_adapter.config import Method
from bi_adapter.hosts import (
    FusedQkv,
    Head,
    Host,
    ParallelMlp,
    Projection,
    UnsupportedBackbone,
    hosts_of,
    modules_of_kind,
)


def install_hosts(model: nn.Module, method: Method) -> list[Host]:
    """The hosts for a method, put in where they are not there yet.

    Raises:
        UnsupportedBackbone: no block of a known kind is there; the message says what was found.
    """
    present = [host for host in hosts_of(model) if host.method == method]
    if present:
        return present
    install = _install_adaptformer if method == "adaptformer" else _install_lora
    made = [host for name, block in blocks_of(model) for host in install(name, block)]
    return list(made)


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The transformer blocks with their names, in order.

    Raises:
        UnsupportedBackbone: there are none of a known kind, or some have a forward pass of their own.
    """
    kinds = _known_blocks()
    found = modules_of_kind(model, kinds)
    own = [name for name, module in found if type(module).forward not in {kind.forward for kind in kinds}]
    if own or not found:
        seen = {type(module).__name__ for module in model.modules() if "Block" in type(module).__name__}
        what = f"{own[0]} has a forward pass of its own" if own else f"its blocks are of kind {sorted(seen)}"
        raise UnsupportedBackbone(
            f"model: adapters go into timm's vision_transformer.Block and SwinTransformerBlock and transformers' "
            f"ViTLayer; {type(model).__name__} has none that can be used: {what}"
        )
    return found


def classifier_places(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """(parent, attribute) of every classifier: one as a rule, two for a distilled DeiT, none for a bare ViTModel."""
    parent = model
    names = [name for name in ("head", "head_dist", "classifier") if isinstance(getattr(model, name, None), nn.Module)]
    if names == ["head"] and isinstance(getattr(_any(model).head, "fc", None), nn.Module):
        parent, names = _any(model).head, ["fc"]
    return [(parent, name) for name in names]


def feature_width(model: nn.Module) -> int:
    """Size of the features that the classifier reads."""
    for parent, name in classifier_places(model):
        module = getattr(parent, name)
        module = module.base if isinstance(module, Head) else module
        width: Any = getattr(module, "in_features", None)
        if isinstance(width, int):
            return width
    config = getattr(model, "config", None)
    width = getattr(model, "num_features", None) or getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        raise UnsupportedBackbone(f"model: {type(model).__name__} does not say how wide its features are")
    return width


def install_heads(model: nn.Module) -> list[Head]:
    """A host for every classifier, put in where it is not there yet."""
    hosts = []
    for parent, name in classifier_places(model):
        module = getattr(parent, name)
        if not isinstance(module, Head):
            host = Head(module)
            host.install((parent, name, host))
            module = host
        hosts.append(module)
    return hosts


def adapter_like(model: nn.Module) -> Tensor:
    """An empty tensor on the device of the blocks, in their dtype but at least float32."""
    for _, block in blocks_of(model):
        for parameter in block.parameters():
            if parameter.is_floating_point():
                dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
                return torch.empty(0, device=parameter.device, dtype=dtype)
    return torch.empty(0)


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The backbone's own tensors under their own names, sorted, without classifier, whatever hosts are installed.

    Adapters are not looked at, so that this takes as long with a thousand of them as with none.
    """
    found: dict[str, Tensor] = {}
    for name, module in model.named_children():
        if name not in ("head", "head_dist", "classifier"):
            _collect(module, f"{name}.", found)
    _own_tensors(model, "", found)
    return {name: found[name] for name in sorted(found)}


def _collect(module: nn.Module, prefix: str, found: dict[str, Tensor]) -> None:
    """Put the tensors of a module and of those inside of it into `found`; of a host those that it took over."""
    if isinstance(module, Host):
        for inner, own in module.base_names().items():
            _collect(module.get_submodule(inner), f"{own}.", found)
        return
    _own_tensors(module, prefix, found)
    for name, inner in module.named_children():
        _collect(inner, f"{prefix}{name}.", found)


def _own_tensors(module: nn.Module, prefix: str, found: dict[str, Tensor]) -> None:
    """What a module's state dict holds beyond that of the modules inside of it; quantised layers write theirs."""
    state: dict[str, Any] = {}
    module._save_to_state_dict(state, prefix, keep_vars=False)  # pyright: ignore[reportPrivateUsage]
    found.update({name: value for name, value in state.items() if isinstance(value, Tensor)})


def _install_adaptformer(path: str, block: nn.Module) -> list[Host]:
    """norm2 -> mlp -> (ls2) -> (drop_path2) become one host in the place of the MLP; identities in the others."""
    parts: Any = block
    hugging = hasattr(parts, "layernorm_after")
    norm = "layernorm_after" if hugging else "norm2"
    behind = [attribute for attribute in ("ls2", "drop_path2") if hasattr(parts, attribute)]
    scale, drop_path = (getattr(parts, name, nn.Identity()) for name in ("ls2", "drop_path2"))
    host = ParallelMlp(f"{path}.", getattr(parts, norm), parts.mlp, scale, drop_path)
    host.install((block, "mlp", host), *((block, attribute, nn.Identity()) for attribute in (norm, *behind)))
    return [host]


def _install_lora(name: str, block: nn.Module) -> list[Host]:
    attention: Any = _any(block).attn if hasattr(block, "attn") else _any(block).attention
    if hasattr(attention, "q_proj"):
        prefix = f"{name}.attention."
        pair: list[Host] = []
        for attribute, part in (("q_proj", "lora_q"), ("v_proj", "lora_v")):
            host = Projection(prefix, getattr(attention, attribute), part)
            host.install((attention, attribute, host))
            pair.append(host)
        return pair
    if not hasattr(attention, "qkv"):
        raise UnsupportedBackbone(f"model: {name} has an attention without qkv: {type(attention).__name__}")
    fused = FusedQkv(f"{name}.attn.", attention.qkv)
    fused.install((attention, "qkv", fused))
    return [fused]


def _known_blocks() -> tuple[type[Any], ...]:
    """The kinds of block; transformers' only where it is in use, since importing it takes seconds."""
    swin = importlib.import_module("timm.models.swin_transformer")
    vit = importlib.import_module("timm.models.vision_transformer")
    kinds = [vit.Block, swin.SwinTransformerBlock]
    hugging = sys.modules.get("transformers.models.vit.modeling_vit")
    if hugging is not None:
        if not hasattr(hugging, "ViTMLP"):
            raise UnsupportedBackbone("transformers: expected version 5 or later, whose ViTLayer has an mlp")
        kinds.append(hugging.ViTLayer)
    return tuple(kinds)


def _any(module: nn.Module) -> Any:
    return module
