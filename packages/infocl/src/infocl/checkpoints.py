"""Encoders out of other people's checkpoints, the published code's among them; nothing in a file is executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from infocl.networks import LAYERS, Encoder, Stem
from sextet.checkpoint import CheckpointError, load_foreign

PREFIXES = ("module.", "state_dict.", "online_encoder.", "encoder.", "backbone.", "encoder_q.", "f.", "net.", "model.")
"""What wrappers put before an encoder's names, outermost first; any of them may be absent."""

_RENAMED = (
    (re.compile(r"\b(shortcut\.0|ds_conv1)\."), "downsample.0."),
    (re.compile(r"\b(shortcut\.1|shortcut_bn|ds_bn1)\."), "downsample.1."),
)
"""The published code's names of projection shortcuts."""

_ENTRY = re.compile(r"(conv1|bn1|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01]))\.\w+")


def canonical_name(name: str) -> str | None:
    """torchvision's name of an encoder's entry as others write it; None for an entry of something else.

    `module.encoder.layer2.0.shortcut_bn.weight` -> `layer2.0.downsample.1.weight`.
    """
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name if _ENTRY.fullmatch(name) else None


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's entries of a state dict under torchvision's names; heads, targets and decoders are left out.

    Raises:
        CheckpointError: two entries that mean the same, or none that belongs to an encoder.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        canonical = canonical_name(name)
        if canonical is None:
            continue
        if canonical in found:
            raise CheckpointError(f"{name}: expected one entry for {canonical}, found several; pick one network first")
        found[canonical] = value
    if not found:
        raise CheckpointError(f"expected entries of a ResNet, found {', '.join(list(state)[:5]) or 'none'}")
    return found


def architecture(state: Mapping[str, Tensor]) -> str:
    """Which of `networks.LAYERS` a state with torchvision's names belongs to.

    Raises:
        CheckpointError: none of them.
    """
    blocks = [len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")}) for stage in range(1, 5)]
    bottleneck = "layer1.0.conv3.weight" in state
    for name, (kind, layers) in LAYERS.items():
        if layers == blocks and bottleneck == (kind.expansion == 4):
            return name
    raise CheckpointError(f"expected a ResNet of {', '.join(LAYERS)}, found stages of {blocks} blocks")


def load_encoder_file(path: Path, stem: Stem | None = None) -> Encoder:
    """An encoder, in evaluation mode, out of a checkpoint of the published code, of torchvision, timm or `export`.

    Args:
        path: see `sextet.checkpoint.load_foreign` for what may be read.
        stem: `cifar` or `stl10` where the file's first convolution is 3x3: its stride is not in the file. A 7x7 one is
            `imagenet`.

    Raises:
        CheckpointError: unreadable, no ResNet, or shapes that do not fit.
        ValueError: a stem is needed, or does not go with the file.
    """
    state = encoder_state(load_foreign(path))
    if "conv1.weight" not in state:
        raise CheckpointError(f"{path}: expected conv1.weight, found {', '.join(list(state)[:5])}")
    large = state["conv1.weight"].shape[-1] == 7
    if stem is None and not large:
        raise ValueError(f"{path}: stem: expected cifar (stride 1) or stl10 (stride 2), which the file does not tell")
    stem = stem or "imagenet"
    if large != (stem == "imagenet"):
        kernel = "7x7" if large else "3x3"
        raise ValueError(f"{path}: stem: expected one with a first convolution of {kernel}, got {stem}")
    encoder = Encoder(architecture(state), stem)
    own = encoder.state_dict()
    # torch before 0.4 counted no batches
    state |= {name: torch.tensor(0) for name in own if name.endswith("num_batches_tracked") and name not in state}
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return encoder.eval()
