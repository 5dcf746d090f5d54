"""Weights of fairseq's NAT and NAT-CRF models, and of our plug-in's: import with equal outputs, export."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nat_crf.config import NatConfig, preset
from nat_crf.models import Nat
from sextet.checkpoint import CheckpointError, load_foreign

_EMBEDDING = "encoder.embed_tokens.weight"
_COPIES = (_EMBEDDING, "decoder.embed_tokens.weight", "decoder.output_projection.weight")
_POSITIONS = ("encoder.embed_positions.weight", "decoder.embed_positions.weight")
_RENAMED = {
    "decoder.embed_length.weight": "length.embedding.weight",
    "crf_layer.E1.weight": "crf.E1.weight",
    "crf_layer.E2.weight": "crf.E2.weight",
}
_BOOKKEEPING = re.compile(r"(encoder|decoder)\.(version|embed_positions\._float_tensor)")


def load_published(path: Path, *, heads: int, **changes: Any) -> Nat:
    """A model from a fairseq checkpoint (`.pt`), or from its weights as `.safetensors` or `.npz`.

    Nothing in the file is executed. Arguments as in `from_published`.

    Raises:
        ValueError: the file holds more than weights and plain settings, or weights of another model.
    """
    try:
        # fairseq keeps its settings beside the weights in this plain container
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = load_foreign(path)
    except CheckpointError as error:
        raise ValueError(
            f"{error}. If you trust the file, load it where it was made and save its 'model' entry alone: "
            "torch.save(checkpoint['model'], path)"
        ) from error
    return from_published(state, heads=heads, **changes)


def from_published(state: Mapping[str, Tensor], *, heads: int, **changes: Any) -> Nat:
    """A model with the outputs of fairseq's, from its state dict.

    Args:
        state: names as in fairseq.
        heads: attention heads, which the weights do not tell (8 in its base sizes).
        changes: other fields of `NatConfig` that the weights do not tell: `decoder_input="copy"` and
            `copy_from_edge=True` for models trained with `--src-embedding-copy`, `beam`, dropout rates,
            `length_offset=False` for models trained without `--pred-length-offset`.

    Raises:
        ValueError: a weight is missing, unknown or of an unexpected shape.
    """
    weights = {name: value for name, value in state.items() if not _BOOKKEEPING.fullmatch(name)}
    config = published_config(weights, heads=heads, **changes)
    own: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name in _POSITIONS:
            own[name] = value[1:]  # row 0 is never used, row 1 is padding's
        elif name not in _COPIES[1:]:
            own[_RENAMED.get(name, name).replace("crf_layer.f.", "crf.f.", 1)] = value
    own["decoder.embed_tokens.weight"] = weights.get(_COPIES[1], weights[_EMBEDDING])
    projection = weights.get(_COPIES[2])
    if projection is not None and not torch.equal(projection, own["decoder.embed_tokens.weight"]):
        raise ValueError("decoder.output_projection.weight: expected the target embedding, found other values")
    model = Nat(config, len(own[_EMBEDDING]), len(own["decoder.embed_tokens.weight"]))
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"state: not the weights of a fairseq NAT ({error})") from error
    return model.to(weights[_EMBEDDING].dtype)


def published_config(weights: Mapping[str, Tensor], *, heads: int, **changes: Any) -> NatConfig:
    """The configuration that a fairseq state dict tells by its names and shapes; arguments as in `from_published`."""
    embedding, inside = weights.get(_EMBEDDING), weights.get("encoder.layers.0.fc1.weight")
    if embedding is None or inside is None or embedding.ndim != 2 or inside.ndim != 2:
        raise ValueError("state: not the weights of a fairseq NAT, its embedding or first layer is missing")
    target, table, crf = (weights.get(name) for name in (_COPIES[1], _POSITIONS[0], "crf_layer.E1.weight"))
    told: dict[str, Any] = {
        "encoder_layers": _layers(weights, "encoder"),
        "decoder_layers": _layers(weights, "decoder"),
        "dim": embedding.shape[1],
        "ffn_dim": inside.shape[0],
        "heads": heads,
        "pre_norm": "encoder.layer_norm.weight" in weights,
        "positions": "sinusoidal" if table is None else "learned",
        "share_embeddings": target is None or torch.equal(target, embedding),
        "crf": "none" if crf is None else "dynamic" if any("crf_layer.f." in name for name in weights) else "static",
    }
    if table is not None:
        told["max_positions"] = table.shape[0] - 2
    if crf is not None:
        told["rank"] = crf.shape[1]
    length = weights.get("decoder.embed_length.weight")
    if length is not None:
        told["length_classes"] = length.shape[0]
    return preset("fairseq", **(told | changes))


def to_published(model: Nat) -> dict[str, Tensor]:
    """The weights of `model` under fairseq's names, as copies.

    Raises:
        ValueError: the model has parts that fairseq's do not have.
    """
    config = model.config
    foreign = {
        "positional attention": config.positional_attention,
        "dynamic transitions": config.crf == "dynamic",
        "an output bias": config.output_bias,
        "a constant length": config.length == "constant",
        "one boundary symbol": config.boundaries != "bos-eos",
    }
    found = [name for name, present in foreign.items() if present]
    if found:
        raise ValueError(f"model: fairseq's models know no {' and no '.join(found)}")
    names = {own: theirs for theirs, own in _RENAMED.items()}
    result = {names.get(name, name): value.detach().clone() for name, value in model.state_dict().items()}
    for name in _POSITIONS:
        if name in result:
            result[name] = torch.cat([torch.zeros_like(result[name][:1]), result[name]])
    result[_COPIES[2]] = result[_COPIES[1]].clone()
    return result


def _layers(weights: Mapping[str, Tensor], stack: str) -> int:
    numbers = [re.match(rf"{stack}\.layers\.(\d+)\.", name) for name in weights]
    return 1 + max((int(match[1]) for match in numbers if match), default=0)
