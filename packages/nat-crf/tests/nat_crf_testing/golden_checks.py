"""Which family checks a golden file, by the prefix of its name; and the rule for whole folders.

A family is a module of this package with

    check(path) -> None                      raises unless every array of the file is documented and right
    visible(key, arrays) -> Sequence[int]    flat indices of `arrays[key]` of which a change must be reported

Families are imported when a file of theirs comes up.
"""

import importlib
import re
from pathlib import Path
from types import ModuleType

from nat_crf_testing.golden_file import GoldenError, require

_FAMILIES = {
    r"d?crf_.+\.npz": "golden_crf",
    r"model_.+\.npz": "golden_model",
    r"helpers.*\.npz": "golden_helpers",
    r"bleu.*\.npz": "golden_bleu",
}


def golden_files(folder: Path) -> list[Path]:
    """Everything in the folder except its README.md; raises where there is nothing to check."""
    require(folder.is_dir(), f"{folder}: not a folder")
    files = sorted(path for path in folder.iterdir() if path.name != "README.md")
    require(bool(files), f"{folder}: no golden files")
    return files


def family(path: Path) -> ModuleType:
    """The module that checks this file."""
    for pattern, module in _FAMILIES.items():
        if re.fullmatch(pattern, path.name) and path.is_file():
            return importlib.import_module(f"nat_crf_testing.{module}")
    raise GoldenError(f"{path.name}: not a golden file this contract knows")


def check_file(path: Path) -> None:
    """Raise GoldenError (or what NumPy raises for a damaged file) unless every array of the file is right."""
    family(path).check(path)
