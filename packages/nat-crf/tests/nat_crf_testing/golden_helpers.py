"""`helpers*.npz`: uniform copy, masked mean, label-smoothed loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nat_crf.lengths import masked_mean, uniform_copy_index
from nat_crf.objective import smoothed_cross_entropy
from nat_crf.sequences import length_mask
from nat_crf_testing.golden_file import GoldenFile, require

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
FACTOR = 0.5


def check(path: Path) -> None:
    file = GoldenFile(path)
    source, target = file.integers("ua_src_len", "U"), file.integers("ua_tgt_len", "U")
    mask = file.booleans("ua_mask", "U", "J")
    require(torch.equal(mask, length_mask(target, mask.shape[1])), "ua_mask: not the target lengths")
    require(int(source.min()) >= 1, "ua_src_len: below 1")
    file.equal("ua_index", uniform_copy_index(source, target, mask.shape[1]), "U", "J")

    states, lengths = file.floats("mp_x", "B", "S", "d"), file.integers("mp_len", "B")
    require(int(lengths.min()) >= 1 and int(lengths.max()) <= states.shape[1], "mp_len: out of range")
    file.close("mp_out", masked_mean(states, length_mask(lengths, states.shape[1])), "B", "d", **TOLERANCE)

    logits, targets = file.floats("ls_logits", "N", "T", "V"), file.integers("ls_target", "N", "T")
    mask = file.booleans("ls_mask", "N", "T")
    for name, smoothing in (("ls0.0", 0.0), ("ls0.1", 0.1)):
        leaf = logits.clone().requires_grad_()
        loss, nll = smoothed_cross_entropy(leaf, targets, mask, smoothing)
        (FACTOR * loss).backward()
        assert leaf.grad is not None
        file.close(f"{name}_loss", FACTOR * loss, **TOLERANCE)
        file.close(f"{name}_nll", nll, **TOLERANCE)
        file.close(f"{name}_grad", leaf.grad, "N", "T", "V", **TOLERANCE)
    file.finish()


def visible(key: str, arrays: dict[str, np.ndarray]) -> Sequence[int]:
    """Indices whose change must be reported: for inputs those of real positions."""
    value = arrays[key]
    if key == "ls_target":
        return [int(index) for index in np.flatnonzero(arrays["ls_mask"])[[0, -1]]]
    if key in ("mp_x", "ls_logits"):
        return [0, int(np.argmax(np.abs(arrays["ls0.1_grad"])))] if key == "ls_logits" else [0]
    if key == "ua_src_len":
        return [int(np.argmax(arrays["ua_tgt_len"]))]
    return sorted({0, value.size // 2, value.size - 1})
