"""What the recipes on ImageNet need in tests: the data made up and adopted, jobs in this process, a very small Swin."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from lmim.config import FineTuningConfig, MimConfig, PretrainingConfig, Run
from lmim.imagenet import IMAGENET, decode_imagenet
from lmim_testing.official_files import write_imagenet
from sextet.data import adopt

PRETRAINING = PretrainingConfig(epochs=1, warmup_epochs=0, batch=8)
FINE_TUNING = FineTuningConfig(
    epochs=1, warmup_epochs=0, batch=8, mixup=0.0, cutmix=0.0, erasing=0.0, rand_augment=""
)  # fmt: skip


def dense_swin(dim: int) -> Run:
    """Four stages, one block each."""
    model = MimConfig(
        backbone="swin", image=64, patch=4, dim=dim, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), scales=(1.0,) * 4,
        decoder_dims=(8,), decoder_heads=2, mask_ratio=0.5,
    )  # fmt: skip
    return Run(model, PRETRAINING, FINE_TUNING)


def adopt_imagenet(folder: Path, per_class: int, val: int) -> Path:
    """Adopt a made-up ImageNet of three classes; the data folder."""
    toy = replace(IMAGENET, decode=partial(decode_imagenet, n_classes=3), counts={})
    adopt(toy, write_imagenet(folder / "raw", per_class=per_class, val=val), folder / "data")
    return folder / "data"


def launch_here(job, arguments, *, folder, device, processes):
    """In place of `sextet.processes.launch`: one process, whatever was asked for."""
    job(None, device, *arguments)
