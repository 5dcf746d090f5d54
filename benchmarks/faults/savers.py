"""Processes that only save, and one that may not write large files."""

from __future__ import annotations

import resource
from pathlib import Path

import torch
from benchmarks.faults.machine import beat
from benchmarks.faults.translation_trainers import dynamic_crf

from sextet import checkpoint


def save_for_ever(folder: Path, _device: torch.device, _spoilt: int | None, *, again: bool) -> dict[str, torch.Tensor]:
    """Save as fast as possible; each step twice where `again`. A beat is a save that has returned."""
    found = checkpoint.load_latest(folder)
    step = 0 if found is None else found[0]
    while True:
        step += 1
        for _ in range(1 + again):
            checkpoint.save(folder, {"x": torch.full((100_000,), step)}, step)
            beat()


def limited(folder: Path, device: torch.device, spoilt: int | None) -> dict[str, torch.Tensor]:
    """Training with no room for a checkpoint's tensors. It needs no rights; the error is EFBIG and not ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    return dynamic_crf(folder, device, spoilt)
