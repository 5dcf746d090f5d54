"""Datasets out of thin air, in the store as if they had been fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from bi_adapter.backbone import Architecture, backbone_passport, make_backbone
from sextet.data import Passport, adopt, fetch


class Nothing:
    """A source that has nothing to fetch."""

    def describe(self) -> str:
        """Its name."""
        return "nothing"

    def fetch(self, into: Path) -> dict[str, str]:
        """Get nothing."""
        return {}


def adopt_arrays(passport: Passport, arrays: Mapping[str, np.ndarray], root: Path) -> None:
    """Store arrays under a passport's name, whatever their content."""
    fetch(replace(passport, sources=(Nothing(),), decode=lambda _: dict(arrays), content_sha256=None, counts={}), root)


def adopt_backbone(architecture: Architecture, raw: Path, root: Path) -> None:
    """Store random weights for a backbone, as a file of timm's names brings them."""
    torch.manual_seed(0)
    raw.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(make_backbone(architecture).state_dict(), raw / "model.safetensors")
    adopt(backbone_passport(architecture), raw, root)
