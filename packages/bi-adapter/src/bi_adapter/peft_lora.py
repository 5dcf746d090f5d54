"""LoRA checkpoints of peft: written from an adapter of ours, and read as a 32-bit one, with equal logits.

peft adds (alpha / r) B A x to a projection. A fused projection with rows [q; k; v] takes both of our adapters at once,
with A = [D_q; D_v] of rank 2h and B zero in the rows of k; projections of their own take one each, of rank h.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from bi_adapter.adapters import attach, delete_adapter
from bi_adapter.config import BiAdapterConfig
from bi_adapter.folder import read_limited
from bi_adapter.hosts import FusedQkv, Head, LoraHost, hosts_of
from bi_adapter.installation import classifier_places, feature_width
from bi_adapter.layers import Bottleneck, QuantLinear, StoredLinear
from bi_adapter.registry import active_adapter, adapter_head, adapter_hosts, check_unmerged, find_info, register
from bi_adapter.serialise import AdapterFileError
from sextet.files import write_atomic

Model = TypeVar("Model", bound=nn.Module)
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LIMITS = (1 << 20, 1 << 32)


def export_peft(model: nn.Module, folder: str | Path, *, name: str | None = None) -> Path:
    """Write a LoRA adapter (the active one by default) as a folder for `peft.PeftModel.from_pretrained`.

    Quantised weights are written as the floats they stand for; a classifier goes to `modules_to_save`, with a bias of
    zeros where it has none.

    Raises:
        ValueError: an AdaptFormer, which peft does not know; no such adapter, or one is merged.
        OSError: the folder cannot be written.
    """
    name = active_adapter(model) if name is None else name
    check_unmerged(model)
    config = find_info(model, name).config
    if config.method != "lora":
        raise ValueError(f"method: peft knows LoRA, {name!r} is of method {config.method}")
    tensors: dict[str, Tensor] = {}
    targets, rank = set[str](), config.dim
    for host in adapter_hosts(model, name):
        assert isinstance(host, LoraHost)
        (place,) = host.base_names().values()
        targets.add(place.rpartition(".")[2])
        down, up = _joined(host, name)
        rank = len(down)
        tensors |= {f"{_PREFIX}{place}.lora_A.weight": down, f"{_PREFIX}{place}.lora_B.weight": up}
    saved = []
    head = adapter_head(model, name)
    if head is not None:
        saved = sorted({attribute for _, attribute in classifier_places(model)})
        for place in saved:
            tensors |= {f"{_PREFIX}{place}.{key}": value for key, value in _plain_head(head).items()}
    told = {
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "lora_dropout": config.dropout, "bias": "none",
        "fan_in_fan_out": False, "target_modules": sorted(targets), "modules_to_save": saved or None,
        "inference_mode": True, "task_type": None, "base_model_name_or_path": None,
    }  # fmt: skip
    folder = Path(folder)
    contiguous = {key: value.detach().float().cpu().contiguous() for key, value in tensors.items()}
    write_atomic(folder / WEIGHTS_FILE, safetensors.torch.save(contiguous, {"format": "pt"}))
    write_atomic(folder / CONFIG_FILE, json.dumps(told, indent=1).encode())
    return folder


def import_peft(model: Model, folder: str | Path, *, name: str = "default") -> Model:
    """Load a LoRA checkpoint of peft onto its backbone as a 32-bit adapter, which can be trained on or quantised.

    Args:
        model: the backbone.
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        name: the adapter gets.

    Raises:
        AdapterFileError: the files are not those of a plain LoRA on query and value; says what cannot be represented.
        ValueError: a name that is taken or cannot be used, or a model without places for adapters.
    """
    folder = Path(folder)
    told = _read_config(folder / CONFIG_FILE)
    tensors = _read_weights(folder / WEIGHTS_FILE)
    heads = {key: value for key, value in tensors.items() if ".lora_" not in key}
    classes = next((len(value) for key, value in heads.items() if key.endswith(".weight")), None)
    rank = int(told["r"])
    scaling = float(told["lora_alpha"]) / (rank**0.5 if told.get("use_rslora") else rank)
    config = BiAdapterConfig("lora", 32, rank, scale=scaling, dropout=float(told.get("lora_dropout") or 0.0))
    attach(model, config, num_classes=classes, name=name)
    try:
        used = set[str]()
        for host in adapter_hosts(model, name):
            assert isinstance(host, LoraHost)
            used |= _fill(host, name, tensors, rank)
        if classes is None:
            _drop_head(model, name)
        else:
            used |= _fill_head(model, name, heads)
        if used != set(tensors):
            unknown = sorted(set(tensors) - used)
            raise AdapterFileError(f"{folder}: only LoRA on query and value can be read, found {unknown[:3]}")
    except BaseException:
        delete_adapter(model, name)
        raise
    return model


def _joined(host: LoraHost, name: str) -> tuple[Tensor, Tensor]:
    """peft's A [rank, in] and B [out, rank] of one projection, the scale inside of B."""
    parts = list(host.rows(name))
    down = torch.cat([part.adapter_down.effective_weight() for _, part in parts])
    up = down.new_zeros(host.base.out_features, len(down))  # pyright: ignore[reportArgumentType]
    first = 0
    for rows, part in parts:
        own = part.scale * part.adapter_up.effective_weight()
        up[rows, first : first + own.shape[1]] = own
        first += own.shape[1]
    return down, up


def _plain_head(head: nn.Module) -> dict[str, Tensor]:
    if isinstance(head, QuantLinear | StoredLinear):
        weight = head.effective_weight()
        return {"weight": weight, "bias": weight.new_zeros(len(weight))}
    return {key: value.detach() for key, value in head.state_dict().items()}


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(read_limited(path, _LIMITS[0]))
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{path}: not JSON ({error})") from error
    if not isinstance(told, dict) or told.get("peft_type") != "LORA":
        raise AdapterFileError(f"{path}: expected a LoRA adapter of peft")
    for key in ("r", "lora_alpha"):
        value = told.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 65536:
            raise AdapterFileError(f"{path}: {key}: expected a number from 1 to 65535, found {value!r}")
    for key in ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias"):
        if told.get(key):
            raise AdapterFileError(f"{path}: {key} is set, which our LoRA does not have")
    if told.get("bias", "none") != "none":
        raise AdapterFileError(f"{path}: bias {told['bias']!r}: trained biases of the backbone cannot be represented")
    return told


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(read_limited(path, _LIMITS[1]))
    except AdapterFileError:
        raise
    except Exception as error:
        raise AdapterFileError(f"{path}: not a safetensors file ({error})") from error
    for key, value in tensors.items():
        if not key.startswith(_PREFIX) or not value.is_floating_point() or not bool(value.isfinite().all()):
            raise AdapterFileError(f"{path}: {key}: expected finite floats of a model of peft, found {value.dtype}")
    return tensors


def _fill(host: LoraHost, name: str, tensors: Mapping[str, Tensor], rank: int) -> set[str]:
    """Put A and B into the bottlenecks of one projection; absent ones stay at zero. Returns the keys used."""
    (place,) = host.base_names().values()
    keys = [f"{_PREFIX}{place}.lora_{letter}.weight" for letter in "AB"]
    parts = list(host.rows(name))
    if not any(key in tensors for key in keys):
        return set()
    out = int(host.base.out_features)  # pyright: ignore[reportArgumentType]
    for key, shape in zip(keys, ([rank, host.width_in], [out, rank]), strict=True):
        if key not in tensors or list(tensors[key].shape) != shape:
            found = list(tensors[key].shape) if key in tensors else "nothing"
            raise AdapterFileError(f"{key}: expected {shape}, found {found}")
    down, up = (tensors[key] for key in keys)
    if isinstance(host, FusedQkv) and bool(up[host.width_out : 2 * host.width_out].any()):
        raise AdapterFileError(f"{keys[1]}: changes the key projection, which our LoRA leaves alone")
    for rows, part in parts:
        _set(part, down, up[rows])
    return set(keys)


@torch.no_grad()
def _set(part: Bottleneck, down: Tensor, up: Tensor) -> None:
    for matrix, value in ((part.adapter_down, down), (part.adapter_up, up)):
        assert isinstance(matrix, QuantLinear)
        matrix.weight.copy_(value)


@torch.no_grad()
def _fill_head(model: nn.Module, name: str, heads: Mapping[str, Tensor]) -> set[str]:
    head = adapter_head(model, name)
    assert isinstance(head, nn.Linear)
    used = set[str]()
    for _, attribute in classifier_places(model):
        for key, parameter in head.named_parameters():
            full = f"{_PREFIX}{attribute}.{key}"
            value = heads.get(full)
            if value is None or value.shape != parameter.shape:
                found = None if value is None else list(value.shape)
                raise AdapterFileError(
                    f"{full}: expected {list(parameter.shape)} ({feature_width(model)} features), found {found}"
                )
            parameter.copy_(value)
            used.add(full)
    return used


def _drop_head(model: nn.Module, name: str) -> None:
    """Let the backbone's own classifier answer: the checkpoint brought none."""
    for host in hosts_of(model):
        if isinstance(host, Head) and name in host.adapters:
            del host.adapters[name]
            if not host.adapters:
                host.remove()
    register(model, name, replace(find_info(model, name), num_classes=None))
