"""Learning rates and parameter groups (sections 6 and 7)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from torch import nn


def learning_rate(epoch: float, peak: float, floor: float, warmup: float, epochs: float) -> float:
    """Linear from 0 over `warmup` epochs, then a cosine from `peak` to `floor`, at a fractional epoch."""
    if epoch < warmup:
        return peak * epoch / warmup
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay in pre-training a ViT: all but vectors and biases; class and mask tokens are decayed."""
    return parameter.ndim > 1 and not name.endswith(".bias")


def is_decayed_swin(name: str, parameter: nn.Parameter) -> bool:
    """The same for Swin, without position biases and tokens."""
    return is_decayed(name, parameter) and "position_bias" not in name and "token" not in name


def is_decayed_in_fine_tuning(name: str, parameter: nn.Parameter) -> bool:
    """In fine-tuning: all but vectors, biases, class token and positions."""
    return is_decayed(name, parameter) and name not in ("cls_token", "pos_embed")


def parameter_groups(
    model: nn.Module, weight_decay: float, decayed: Callable[[str, nn.Parameter], bool] = is_decayed
) -> list[dict[str, Any]]:
    """Two groups for AdamW: with and without decay."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    return [
        {"params": [value for name, value in named if decayed(name, value)], "weight_decay": weight_decay},
        {"params": [value for name, value in named if not decayed(name, value)], "weight_decay": 0.0},
    ]


def vit_layer(name: str, depth: int) -> int:
    """0 for patches, class token and positions; i + 1 for block i; depth + 1 for the rest."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    block = re.match(r"blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1


def swin_layer(name: str, depths: tuple[int, ...]) -> int:
    """0 for patches; the number of the block from 1; a merge as the last block of its stage; the rest above all."""
    if name.startswith("patch_embed"):
        return 0
    found = re.match(r"layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.", name)
    if found is None:
        return sum(depths) + 1
    stage = int(found[1])
    within = depths[stage] if found[2] is None else int(found[2]) + 1
    return sum(depths[:stage]) + within


def layer_scale(layer: int, depth: int, decay: float) -> float:
    """decay^(depth + 1 - layer), what the learning rate of a layer is multiplied by."""
    return decay ** (depth + 1 - layer)
