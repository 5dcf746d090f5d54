"""What a run leaves behind, for comparison to the last bit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sextet import checkpoint, training

WALL_TIME = ("meter",)
"""Parts of a checkpoint that measure time."""


def newest(folder: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """Path of each `checkpoints` folder below a run -> its newest checkpoint."""
    found = {}
    for place in sorted(folder.rglob("checkpoints")):
        latest = checkpoint.load_latest(place)
        if latest is not None:
            found[str(place.relative_to(folder))] = latest
    return found


def steps_saved(folder: Path) -> int:
    """Steps done and saved, over all stages of a run."""
    return sum(step for step, _ in newest(folder).values())


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders that are still there."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".tmp-*"))


def ending(folder: Path) -> dict[str, str]:
    """Name -> digest of all that a run left: each part of each newest checkpoint, logs, results, other arrays."""
    found = {}
    for name, (step, state) in newest(folder).items():
        parts = {**state.pop("parts"), **state}
        for part, content in parts.items():
            if part not in WALL_TIME:
                found[f"{name} {step} {part}"] = digest(content)
    for path in sorted(folder.rglob("log.jsonl")):
        found[str(path.relative_to(folder))] = digest(
            [str(sorted(line.items())) for line in training.read_log(path.parent)]
        )
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            found[str(path.relative_to(folder))] = digest({name: arrays[name] for name in arrays.files})
    if (folder / "result").exists():
        found["result"] = digest(checkpoint.load_latest(folder / "result"))
    return found


def digest(content: Any) -> str:
    """SHA-256 of nested state: of every tensor its type, shape and bytes; of the rest its representation."""
    total = hashlib.sha256()
    _feed(total, content)
    return total.hexdigest()


def _feed(total: Any, content: Any) -> None:
    if isinstance(content, torch.Tensor):
        total.update(f"{content.dtype}{list(content.shape)}".encode())
        total.update(content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(content, np.ndarray):
        total.update(f"{content.dtype}{content.shape}".encode() + content.tobytes())
    elif isinstance(content, dict):
        for key in sorted(content, key=str):
            total.update(f"{key!r}:".encode())
            _feed(total, content[key])
    elif isinstance(content, list | tuple):
        total.update(f"{type(content).__name__}{len(content)}".encode())
        for item in content:
            _feed(total, item)
    else:
        total.update(repr(content).encode())
