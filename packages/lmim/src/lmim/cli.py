"""The command line `lmim`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from sextet import cli


def convert(
    checkpoint: Path,
    out: Path,
    to: Literal["lmim", "timm", "torchvision", "transformers"] = "timm",
    heads: int | None = None,
    geometry: Literal["published", "correct"] = "published",
) -> None:
    """Turn a released checkpoint into weights for this package or another library, as safetensors.

    Args:
        checkpoint: `.pth` as released, or `.safetensors` of this package; nothing in it is executed.
        out: the file to write.
        to: whose names the weights get. `lmim` keeps everything; the others get the encoder with its last norm.
        heads: of a ViT; width / 64 by default.
        geometry: of a Swin: published for released files, correct for those trained here.
    """
    from lmim.conversion import load_released
    from lmim.exports import export, save_safetensors

    model = load_released(checkpoint, heads=heads, geometry=geometry)
    save_safetensors(model if to == "lmim" else export(model, to), out)
    print(f"{out}: {to}, {sum(value.numel() for value in model.parameters()):,} parameters were read")


def shards(folder: Path, split: Literal["train", "val"] = "train", megabytes: int = 1024) -> None:
    """Pack ImageNet, adopted before, into tar files in webdataset's format, which can be adopted in its place.

    Args:
        folder: where they go.
        split: train or val.
        megabytes: of a shard.
    """
    from lmim.image_index import ImageIndex
    from lmim.imagenet import IMAGENET
    from lmim.shards import write_shards
    from sextet.data import load

    arrays = load(IMAGENET)
    classes = [name.decode() for name in arrays["classes"].tolist()]
    paths = write_shards(ImageIndex(arrays, split), split, classes, folder, shard_bytes=megabytes << 20)
    print(f"{folder}: {len(paths)} shards of {split}")


def main() -> None:
    """Entry point."""
    commands = {
        "laptop": cli.Deferred("lmim.recipe:RECIPE", "The experiments at laptop size, on open images."),
        "paper": cli.Deferred("lmim.paper:PAPER", "The paper's experiments on ImageNet."),
        "segmentation": cli.Deferred("lmim.segmentation_recipe:RECIPE", "The paper's segmentation on ADE20K."),
        "detection": cli.Deferred("lmim.detection_recipe:RECIPE", "Objects on COCO, by a recipe of our own."),
        "convert": convert,
        "shards": shards,
    }
    sys.exit(cli.main(commands, prog="lmim", description="Local multi-scale masked image modelling."))
