"""Tasks of VTAB-1K and a few-shot dataset with few and small images, adopted from folders laid out as the official
ones, beside the weights of a tiny backbone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bi_adapter.backbone import Architecture
from bi_adapter.fewshot import FEW_SHOT, FEW_SHOT_PASSPORTS
from bi_adapter.vtab import PASSPORTS, TASKS
from bi_adapter_testing.made_up import adopt_backbone
from bi_adapter_testing.official_data import small_few_shot, small_task, write_few_shot, write_vtab
from sextet.data import adopt

TINY_VIT = Architecture(image_size=16, patch_size=8, dim=12, depth=2, heads=2)
TOY: dict[str, Any] = {
    "dim": 2, "scales": [1.0, 10.0], "draws": 2, "backbone": {"image_size": 16, "patch_size": 8, "dim": 12, "depth": 2,
    "heads": 2}, "tuning": {"epochs": 2, "batch_size": 8, "warmup": 0, "lr": 0.01},
}  # fmt: skip
TRAIN, VAL = 16, 8
SHOT_CLASSES = 4
"""Images of the first so many of the 37 breeds."""


def n_test(task: str) -> int:
    """Test images of a made-up task: every class has some."""
    return max(12, TASKS[task].n_classes)


def write_benchmark(raw: Path, root: Path, tasks: Iterable[str]) -> Path:
    """Write tasks, the few-shot dataset `pets` and a backbone below `raw` and adopt them into the store `root`."""
    adopt_backbone(TINY_VIT, raw / "backbone", root)
    for name in tasks:
        task = TASKS[name]
        write_vtab(raw / "vtab", task, TRAIN, VAL, n_test(name))
        adopt(small_task(PASSPORTS[name], task, TRAIN, VAL, n_test(name)), raw / "vtab", root)
    pets = replace(FEW_SHOT["pets"], n_classes=SHOT_CLASSES)
    adopt(small_few_shot(FEW_SHOT_PASSPORTS["pets"], pets), write_few_shot(raw / "few", pets), root)
    return root
