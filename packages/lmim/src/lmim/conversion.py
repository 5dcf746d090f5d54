"""Released checkpoints into our models, and pre-trained encoders into classifiers (sections 5.4, 7 and 12).

Our weights have the released names, so that a state dict alone tells its model: `config_of` reads it off the shapes.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmim.classifiers import SwinClassifier, VitClassifier
from lmim.config import MimConfig
from lmim.swin_mim import SwinLocalMim
from lmim.vit import LocalMim, default_taps
from sextet.checkpoint import CheckpointError, load_foreign

State = Mapping[str, Tensor]
PretrainedModel = LocalMim | SwinLocalMim


class GeometryError(ValueError):
    """A checkpoint of another geometry than the model's; the message names every size that differs."""


def load_released(
    path: str | Path, model: PretrainedModel | None = None, *, heads: int | None = None, geometry: str = "published"
) -> PretrainedModel:
    """A pre-training model with the weights of a released checkpoint, or of a file with the same names.

    Nothing in the file is executed: it is read with `weights_only`, and of other classes than tensors only the
    `argparse.Namespace` of its settings is let in.

    Args:
        path: `.pth` with {model, optimizer, epoch, scaler, args}, or `.safetensors`.
        model: filled in place; by default one is made to measure.
        heads: of a ViT, which its weights do not tell; width / 64 by default.
        geometry: of a Swin: `published` for the released files, `correct` for those trained here.

    Raises:
        sextet.checkpoint.CheckpointError: it cannot be read as weights.
        GeometryError: it belongs to a model of other sizes, which the message names.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = load_foreign(Path(path))
    found = config_of(state, heads=heads, geometry=geometry)
    if model is None:
        model = make_pretrained(found)
    load_released_state(model, state, where=str(path))
    return model


def make_pretrained(config: MimConfig) -> PretrainedModel:
    """The pre-training model of a config."""
    return LocalMim.of(config) if config.backbone == "vit" else SwinLocalMim.of(config)


def load_released_state(model: PretrainedModel, state: State, *, where: str = "checkpoint") -> None:
    """Put a state dict with the released names into a model, in place.

    Raises:
        GeometryError: it belongs to a model of other sizes.
    """
    state = renamed(state)
    own = model.state_dict()
    check_geometry(where, own, state)
    fixed = {name for name in own if name.endswith("pos_embed") and name not in state}
    missing, unknown = model.load_state_dict(dict(state), strict=False)
    missing = sorted(set(missing) - fixed)
    if missing or unknown:
        raise GeometryError(f"{where}: expected exactly the model's weights; missing {missing}, unknown {unknown}")


def renamed(state: State) -> dict[str, Tensor]:
    """Released names to ours: the biases of the HOG filters become `hog_biases`, [taps, 2]; what follows from the
    sizes (Sobel filters, indices of relative positions) goes."""
    biases = {name: value for name, value in state.items() if re.fullmatch(r"hog_enc\.\d+\.conv\.bias", name)}
    kept = {
        name: value
        for name, value in state.items()
        if not name.startswith("hog_enc.") and not name.endswith("relative_position_index")
    }
    if biases:
        kept["hog_biases"] = torch.stack([biases[name] for name in sorted(biases)])
    return kept


def check_geometry(where: str, own: State, state: State) -> None:
    """Raise GeometryError, with names of what differs, unless both describe models of the same sizes."""
    there, here = (dataclasses.asdict(config_of(each)) for each in (state, own))
    differing = [f"{key} {there[key]} there, {here[key]} here" for key in here if there[key] != here[key]]
    if differing:
        raise GeometryError(f"{where}: a checkpoint of another geometry: {'; '.join(differing)}")
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if shapes:
        name = shapes[0]
        raise GeometryError(f"{where}: {name} is {list(state[name].shape)} there, {list(own[name].shape)} here")


def config_of(state: State, *, heads: int | None = None, geometry: str = "published") -> MimConfig:
    """The model that a state dict of ours, or with the released names, belongs to.

    Args:
        state: of a pre-training model, or of its encoder alone.
        heads: of a ViT; width / 64 by default.
        geometry: of a Swin.

    Raises:
        GeometryError: it belongs to none.
    """
    try:
        if any(name.startswith("encoder.layers.") for name in state):
            return _swin_config(state, geometry)
        return _vit_config(state, heads)
    except (KeyError, IndexError, AttributeError) as error:
        raise GeometryError(
            f"checkpoint: expected the weights of a LocalMIM ViT (cls_token, blocks.0.attn.qkv.weight, ...) or Swin "
            f"(encoder.layers.0.blocks.0...), found {sorted(state)[:4]} without {error}"
        ) from error


def count(state: State, pattern: str) -> int:
    """How many numbers stand where `pattern` has its group, from 0."""
    numbers = {int(found[1]) for name in state if (found := re.match(pattern, name))}
    return max(numbers, default=-1) + 1


def _vit_config(state: State, heads: int | None) -> MimConfig:
    dim, depth, taps = state["cls_token"].shape[-1], count(state, r"blocks\.(\d+)\."), count(state, r"norm\.(\d+)\.")
    channels, patch = state["patch_embed.proj.weight"].shape[1:3]
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    scales = tuple(_scale(state, tap) for tap in range(count(state, r"decoder\.(\d+)\.")))
    return MimConfig(
        image=grid * patch, patch=patch, channels=channels, dim=dim, depths=(depth,),
        heads=(heads or max(1, dim // 64),), taps=default_taps(depth) if taps == 4 and depth >= 7 else (),
        scales=scales, **_decoders(state, channels),
    )  # fmt: skip


def _swin_config(state: State, geometry: str) -> MimConfig:
    stages = count(state, r"encoder\.layers\.(\d+)\.")
    block = "encoder.layers.{}.blocks.0.attn.relative_position_bias_table"
    tables = [state[block.format(stage)] for stage in range(stages)]
    dim, channels, patch = state["encoder.patch_embed.proj.weight"].shape[:3]
    units = 7
    if "decoder.0.pos_embed" in state:  # cells of the first tap: 4 a unit and axis
        units = round(state["decoder.0.pos_embed"].shape[1] ** 0.5) // 4
    return MimConfig(
        backbone="swin", image=units * 8 * patch, patch=patch, channels=channels, dim=dim,
        depths=tuple(count(state, rf"encoder\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)),
        heads=tuple(table.shape[1] for table in tables), window=(round(len(tables[0]) ** 0.5) + 1) // 2,
        geometry=geometry, scales=(1.0,) * stages, **_decoders(state, channels),
    )  # fmt: skip


def _scale(state: State, tap: int) -> float:
    """Of a tap's rescaling head: as many doublings as transposed convolutions, or halvings by the pooling before."""
    weights = {
        int(found[1]): value
        for name, value in state.items()
        if (found := re.fullmatch(rf"decoder\.{tap}\.pred\.(\d+)\.weight", name)) and value.ndim == 4
    }
    first = min(weights)
    return 0.5 if first else 2.0 ** (len(weights) - 1)


def _decoders(state: State, channels: int) -> dict[str, Any]:
    """The settings of the decoders and their targets; HOG has equally many numbers for cells of every size."""
    taps = count(state, r"decoder\.(\d+)\.")
    dims = tuple(state[f"decoder.{tap}.embed.weight"].shape[0] for tap in range(taps))
    last = [max(name for name in state if re.match(rf"decoder\.{tap}\.pred\..*bias", name)) for tap in range(taps)]
    outs = [len(state[name]) for name in last]
    hog = any(name.startswith("hog_") for name in state) or len(set(outs)) == 1
    return {
        "decoder_dims": dims if len(set(dims)) > 1 else dims[:1],
        "decoder_heads": 8 if "cls_token" in state else 4,
        "decoder_depth": count(state, r"decoder\.0\.blocks\.(\d+)\."),
        "target": "hog" if hog else "normalised-pixels",
        "bins": outs[0] // channels if hog else 9,
        "hog_bias": "hog_biases" in state or "hog_enc.0.conv.bias" in state,
    }


def standard_merges(state: State) -> dict[str, Tensor]:
    """Weights of Swin's published pre-training with the merged 2 x 2 blocks in the standard order, and the other way.

    Blocks 1 and 2 of the four change places in the merges' norms and in the columns of their reductions; doing it twice
    changes nothing.
    """
    moved = dict(state)
    for name, value in state.items():
        if re.search(r"downsample\.(norm\.(weight|bias)|reduction\.weight)$", name):
            blocks = value.unflatten(-1, (4, -1))
            moved[name] = blocks[..., [0, 2, 1, 3], :].flatten(-2)
    return moved


def encoder_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights that a pre-trained model passes on, under the names of `VitClassifier` or `SwinClassifier`.

    Tap norms and decoders are left out. Merges of a Swin of published geometry come in the standard order, which the
    published fine-tuning code forgot to do.

    Args:
        model: `LocalMim`, `SwinLocalMim`, or a classifier.

    Raises:
        TypeError: another model.
    """
    state = model.state_dict()
    if isinstance(model, SwinLocalMim):
        state = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        state = standard_merges(state) if model.encoder.geometry == "published" else state
    elif not isinstance(model, LocalMim | VitClassifier | SwinClassifier):
        raise TypeError(f"model: expected a model of this package, got {type(model).__name__}")
    kept = ("patch_embed.", "cls_token", "pos_embed", "blocks.", "layers.")
    return {name: value.detach() for name, value in state.items() if name.startswith(kept)}


def start_classifier(classifier: VitClassifier | SwinClassifier, state: State) -> None:
    """Put pre-trained weights into a classifier, in place; its norm and its head stay as they are.

    Args:
        classifier: see `make_classifier`.
        state: of `encoder_state`.

    Raises:
        GeometryError: an encoder of other sizes.
        sextet.checkpoint.CheckpointError: weights of something else.
    """
    own = classifier.state_dict()
    new = ("norm.", "fc_norm.", "head.")
    wanted = {name for name in own if not name.startswith(new)}
    if wanted != set(state):
        difference = sorted(wanted ^ set(state))
        raise CheckpointError(f"encoder: expected exactly the classifier's weights, differing: {difference[:4]}")
    for name in sorted(wanted):
        if own[name].shape != state[name].shape:
            raise GeometryError(f"encoder: {name} is {list(state[name].shape)} there, {list(own[name].shape)} here")
    classifier.load_state_dict(dict(state), strict=False)
