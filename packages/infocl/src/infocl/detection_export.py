"""Encoders for detectron2 (7.5)."""

from __future__ import annotations


def detectron2_name(name: str) -> str:
    """The name of an encoder's weight in detectron2's ResNet: `layer1.0.bn1.weight` -> `res2.0.conv1.norm.weight`."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    for stage in range(4, 0, -1):
        name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
    for number in (1, 2, 3):
        name = name.replace(f"bn{number}.", f"conv{number}.norm.")
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
