"""The command line `infocl`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

from sextet import cli


def export(
    encoder: Path,
    out: Path,
    to: Literal["timm", "onnx", "detectron2"],
    stem: Literal["cifar", "stl10", "imagenet"],
    dataset: str = "ImageNet",
    size: int = 224,
) -> None:
    """Write a pre-trained encoder for another library.

    Args:
        encoder: a file of weights, as `infocl paper` keeps them in its stages, or somebody else's.
        out: a folder for timm, a file `.onnx` or `.pkl`.
        to: for what.
        stem: of the encoder.
        dataset: whose normalisation it wants; for timm.
        size: side of its images; for timm and ONNX.
    """
    from infocl.checkpoints import architecture, load_encoder_file
    from infocl.detection_export import write_detectron2
    from infocl.export import save_folder, save_onnx, torchvision_state

    network = load_encoder_file(encoder, stem)
    state = torchvision_state(network)
    if to == "timm":
        save_folder(network, out, dataset, architecture(state), size)
    elif to == "onnx":
        save_onnx(network, out, size)
    else:
        write_detectron2(state, out)
    print(json.dumps({"written": str(out), "architecture": architecture(state), "dim": network.dim}))


def main() -> None:
    """Entry point."""
    commands = {
        "laptop": cli.Deferred("infocl.recipe:RECIPE", "The experiments at laptop size, on open images."),
        "paper": cli.Deferred("infocl.paper:PAPER", "The paper's experiments."),
        "export": export,
    }
    description = "Contrastive learning beyond the minimal sufficient representation."
    sys.exit(cli.main(commands, prog="infocl", description=description))
