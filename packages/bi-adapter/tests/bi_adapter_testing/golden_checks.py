"""Which module checks a golden file, by its name."""

from __future__ import annotations

import re
from pathlib import Path

from bi_adapter_testing import golden_core, golden_data, golden_models, golden_released

BESIDE = re.compile(r"README\.md|LICENSE.*|released_.*\.bin")
"""Not checked on their own: a released `.bin` is read by the `.npz` of its name."""


def golden_files(folder: Path) -> list[Path]:
    """Everything to check in a folder."""
    files = sorted(path for path in folder.iterdir() if not BESIDE.fullmatch(path.name))
    alone = [path.name for path in folder.glob("released_*.bin") if path.with_suffix(".npz") not in files]
    assert not alone, f"released files without description: {alone}"
    return files


def check_file(path: Path) -> None:
    """Fail unless everything in the file is documented and what this package computes."""
    families = [module for module in (golden_core, golden_data, golden_models, golden_released) if module.knows(path)]
    assert len(families) == 1, f"{path.name}: not a golden file this contract knows"
    families[0].check(path)
