"""The command `nat-crf build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from nat_crf.paper import PaperConfig, build_translator
from sextet.recipe import RunContext


def build(
    into: Path,
    folder: Path,
    config: Annotated[PaperConfig, tyro.conf.arg(name="")],
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Train a translator and write it as a folder for `nat-crf translate`.

    Args:
        into: folder of the translator.
        folder: where the stages keep their state; the same folder continues them.
        config: data, model and recipe.
        seed: of the model.
        device: where to compute.
    """
    context = RunContext(directory=folder, stages=folder / "stages", seed=seed, device=device)
    build_translator(config, context).save(into)
    print(f"{into}: translate with `nat-crf translate --model {into}`")
