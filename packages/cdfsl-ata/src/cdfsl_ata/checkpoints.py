"""Weights of CloserLookFewShot, CrossDomainFewShot and CDFSL-ATA, read without executing anything, and written.

Their files (`399.tar`, `best_model.tar`) are dictionaries `{"epoch": ..., "state": ...}`; the state has the encoder
under `feature.`, the head beside it, and after pre-training a `classifier` that few-shot learners ignore.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from sextet.checkpoint import CheckpointError, load_foreign
from sextet.files import write_atomic

_ALIAS = re.compile(r"((?:^|\.)(?:trunk\.\d+|layer\d+))\.trunk\.(\d+)\.")
"""Convolution blocks register their layers twice: `C` and `BN`, and as the first two of an inner `trunk`."""
_TWICE = {"C": 0, "BN": 1}
_OWNER = re.compile(r"((?:^|\.)(?:trunk\.\d+|layer\d+))\.(C|BN)\.")
_OPTIONAL = ("gamma", "beta", "num_batches_tracked")


@dataclass(frozen=True)
class Loaded:
    """What came of loading.

    Attributes:
        loaded: names of the module's tensors that were set.
        missing: names that the file does not have.
        ignored: names in the file that the module does not have.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]


def read_published(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a published checkpoint, one name each: without `module.` prefixes and aliases.

    `.safetensors` files and plain state dicts are read too.

    Raises:
        CheckpointError: unreadable, or anything but tensors and plain values.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        content: object = load_foreign(path)
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged or hostile file makes of the reader
            raise CheckpointError(
                f"{path}: cannot be read as plain weights ({type(error).__name__}: {error})"
            ) from error
    for key in ("state", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: expected a dictionary with a state, found {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: expected tensors by name, found {type(value).__name__} at {name!r}")
    names = {name: name.removeprefix("module.") for name in content}
    return {names[name]: value for name, value in content.items() if not _ALIAS.search(names[name])}


def load_published(module: nn.Module, weights: Mapping[str, Tensor]) -> Loaded:
    """Set a learner's, or an encoder's, tensors by name, as the published code does: what is not there stays.

    An encoder finds its names below `feature.` as well. Noise scales of feature-wise transformations and counters of
    batches never count as missing.

    Args:
        module: changed in place.
        weights: as `read_published` gives them.

    Raises:
        CheckpointError: no name fits, or one does with another shape.
    """
    own = module.state_dict()
    if not own.keys() & weights.keys():
        weights = {
            name.removeprefix("feature."): value for name, value in weights.items() if name.startswith("feature.")
        }
    fitting = {name: value for name, value in weights.items() if name in own}
    if not fitting:
        raise CheckpointError(f"weights: no name fits this {type(module).__name__}; expected such as {next(iter(own))}")
    for name, value in fitting.items():
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"weights: {name} has shape {list(value.shape)}, this {type(module).__name__} needs "
                f"{list(own[name].shape)}; is it another architecture?"
            )
    module.load_state_dict(fitting, strict=False)
    missing = (name for name in own if name not in fitting and name.rpartition(".")[2] not in _OPTIONAL)
    return Loaded(tuple(fitting), tuple(missing), tuple(name for name in weights if name not in own))


def write_published(module: nn.Module, path: Path | str, epoch: int) -> None:
    """A checkpoint as the published code reads it, aliases included; for a learner, names start with `feature.`."""
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        state[name] = value.detach().cpu().clone()
        if found := _OWNER.search(name):
            state[f"{name[: found.end(1)]}.trunk.{_TWICE[found[2]]}.{name[found.end() :]}"] = state[name]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    torch.save({"epoch": epoch, "state": state}, temporary)
    temporary.replace(path)


def export_encoder(learner: nn.Module, path: Path | str) -> None:
    """The encoder's weights alone, as safetensors with names such as `trunk.0.weight`; loads by `load_published`.

    Args:
        learner: with an encoder `feature`, or an encoder.
        path: ends in `.safetensors`.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: expected a file ending in .safetensors, got {path.name!r}")
    encoder = getattr(learner, "feature", learner)
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    write_atomic(path, safetensors.torch.save(weights, metadata={"format": "pt"}))
