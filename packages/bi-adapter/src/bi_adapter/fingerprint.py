"""Which backbone an adapter was trained for: its name, and a hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bi_adapter.installation import base_tensors

_SAMPLES = 64


def backbone_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and evenly spaced weights of the backbone, without classifier and adapters.

    At least 64 weights of every tensor (all of a smaller one), as float32, so that it takes milliseconds at any size:
    it tells trainings apart, it is no proof against a change of single weights. It does not depend on whether adapters
    are attached.
    """
    digest = hashlib.sha256()
    samples = []
    for name, tensor in base_tensors(model).items():
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        for part in _stored_parts(tensor.detach()):
            flat = part.reshape(-1)
            samples.append(flat[:: max(1, len(flat) // _SAMPLES)].float())
    if samples:
        digest.update(torch.cat(samples).cpu().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _stored_parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor itself, or the plain ones that a quantised one (a tensor subclass, as torchao's) is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()  # pyright: ignore[reportAttributeAccessIssue]
    for name in names:
        yield from _stored_parts(getattr(tensor, name))


def backbone_name(model: nn.Module) -> str:
    """What timm or transformers call the model, or the name of its class where it was made by hand."""
    timm_config: Any = getattr(model, "pretrained_cfg", None)
    if isinstance(timm_config, dict) and timm_config.get("architecture"):
        return ".".join(str(timm_config[key]) for key in ("architecture", "tag") if timm_config.get(key))
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    return name if isinstance(name, str) and name else type(model).__name__
