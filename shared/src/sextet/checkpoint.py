"""Atomic, pickle-free, resumable state: one folder a checkpoint, tensors in safetensors, everything else in JSON.

A checkpoint is written to a temporary folder, synced to disk and renamed, so a folder with a final name is whole. The
last two are kept; a damaged newest one is reported and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch

from sextet.files import remove_leftovers, sync_folder, write_synced

FORMAT = 1
_STEP = re.compile(r"step-(\d{9})")


class CheckpointError(ValueError):
    """A checkpoint or weight file that cannot be read as what it should be."""


class Stateful(Protocol):
    """What a checkpoint can hold: modules, optimizers, schedulers, our own counters."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as nested dicts, lists, tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Put back what `state_dict` returned."""
        ...


def save(directory: Path, state: Mapping[str, Any], step: int, *, keep: int = 2) -> Path:
    """Write `state` as the checkpoint of `step` and remove all but the newest `keep`.

    Args:
        directory: the folder that holds the checkpoints of one run; made when absent.
        state: nested dicts, lists and tuples of tensors, arrays, numbers, strings, booleans and None.
        step: steps done, 0..999,999,999; becomes part of the folder's name.

    Raises:
        ValueError: `step` or `keep` out of range.
        CheckpointError: something in `state` is of another type.
        OSError: the disk is full or the folder not writable; what was there before is untouched.
    """
    if not 0 <= step < 10**9 or keep < 1:
        raise ValueError(f"expected 0 <= step < 10**9 and keep >= 1, got {step} and {keep}")
    tensors: dict[str, torch.Tensor] = {}
    tree = _flatten(dict(state), "", tensors)
    try:
        blob = safetensors.torch.save(tensors)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"state: safetensors cannot hold a tensor of this type ({error})") from error
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    temporary = directory / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    replaced = temporary.with_name(f"{temporary.name}-replaced")
    temporary.mkdir()
    try:
        write_synced(temporary / "tensors.safetensors", blob)
        header = {"format": FORMAT, "step": step, "sha256": _digest(step, tree, blob), "tree": tree}
        write_synced(temporary / "state.json", json.dumps(header, allow_nan=True).encode())
        final = directory / f"step-{step:09d}"
        if final.exists():
            os.replace(final, replaced)
        os.replace(temporary, final)
        sync_folder(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    others = [folder for folder in _folders(directory) if folder != final]
    for old in others[: max(0, len(others) - keep + 1)]:
        shutil.rmtree(old)
    return final


def load(folder: Path) -> tuple[int, dict[str, Any]]:
    """Read one checkpoint folder: (step, state), tensors on the CPU.

    Raises:
        CheckpointError: the folder is incomplete, damaged or of another format; the message names the file.
    """
    try:
        header = json.loads((folder / "state.json").read_text())
        blob = (folder / "tensors.safetensors").read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}: not a whole checkpoint ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: expected checkpoint format {FORMAT}")
    try:
        if _digest(header["step"], header["tree"], blob) != header["sha256"]:
            raise CheckpointError(f"{folder}: damaged, the content does not have the hash that state.json names")
        state = _unflatten(header["tree"], safetensors.torch.load(blob))
        step = int(header["step"])
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{folder}: state.json does not describe its tensors ({error!r})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{folder}: expected a mapping in state.json, found {type(state).__name__}")
    return step, state


def load_latest(directory: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest readable checkpoint of a run, or None where there is none yet.

    A damaged one is skipped with a warning; if all are damaged, the newest one's error is raised.
    """
    failure: CheckpointError | None = None
    for folder in reversed(_folders(directory)):
        try:
            return load(folder)
        except CheckpointError as error:
            warnings.warn(f"{error}; trying the one before it", stacklevel=2)
            failure = failure or error
    if failure is not None:
        raise failure
    return None


def load_foreign(path: Path) -> dict[str, torch.Tensor]:
    """Weights from somebody else's file, without ever executing what is in it.

    Args:
        path: `.safetensors`, `.npz`, or a torch file (`.pt`, `.pth`, `.bin`, `.ckpt`) that holds a state dict, plain or
            one level down under `state_dict` or `model`.

    Raises:
        CheckpointError: unreadable, or it holds anything but tensors and plain containers.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as plain weights ({type(error).__name__}: {error})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a state dict of tensors, found {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: expected a state dict of tensors, found {type(value).__name__} at {key!r}")
    return content


def _folders(directory: Path) -> list[Path]:
    """Checkpoint folders, oldest step first."""
    if not directory.is_dir():
        return []
    return sorted(folder for folder in directory.iterdir() if _STEP.fullmatch(folder.name))


def _flatten(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON for everything but tensors, which go to `tensors` under their path and leave a reference."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, np.ndarray):
        return {"$array": _flatten(_from_numpy(value, path), path, tensors)}
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta:
            raise CheckpointError(f"state{path}: expected a dense tensor, found {value.layout} on {value.device}")
        # the number keeps {"a": {"b": t}} and {"a/b": t} apart
        key = f"{len(tensors)}:{path}".encode("ascii", "backslashreplace").decode()
        tensors[key] = value.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": key}
    if isinstance(value, Mapping):
        for key in value:
            if key is not None and not isinstance(key, str | int | float):
                raise CheckpointError(f"state{path}: expected strings or numbers as keys, found {key!r}")
        return {"$dict": [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_flatten(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    raise CheckpointError(f"state{path}: expected tensors and plain values, found {type(value).__name__}")


def _from_numpy(array: np.ndarray, path: str) -> torch.Tensor:
    """A copy that torch can own: writable, positive strides, native byte order."""
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise CheckpointError(f"state{path}: expected an array of numbers, found dtype {array.dtype}") from error


def _digest(step: Any, tree: Any, blob: bytes) -> str:
    """SHA-256 over all that a checkpoint says: step, plain values, tensors."""
    total = hashlib.sha256(json.dumps([step, tree]).encode())
    total.update(blob)
    return total.hexdigest()


def _unflatten(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unflatten(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "$tensor":
        return tensors[content]
    if kind == "$array":
        return _unflatten(content, tensors).numpy()
    if kind == "$float":
        return float(content)
    if kind == "$tuple":
        return tuple(_unflatten(item, tensors) for item in content)
    if kind == "$dict":
        return {key: _unflatten(item, tensors) for key, item in content}
    raise ValueError(f"unknown entry {kind}")
