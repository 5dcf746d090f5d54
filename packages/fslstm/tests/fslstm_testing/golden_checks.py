"""Which check a golden file gets, by its name; and the rule for whole folders."""

import re
from pathlib import Path

from fslstm_testing import golden_heads, golden_networks
from fslstm_testing.golden_file import GoldenError, GoldenFile, require

_HEADS = "(?P<head>lssvm|rr|svm|nn)"
_PATTERNS = {
    "head": rf"head_{_HEADS}_(?P<case>.+)\.npz",
    "psm": rf"psm_{_HEADS}_(?P<case>.+)\.npz",
    "iam": r"iam_(?P<case>.+)\.npz",
    "episode": r"episode_(?P<case>.+)\.npz",
    "backbone": r"backbone_(?P<name>conv4|resnet12)(_.+)?\.npz",
    "resblock": r"resblock_(?P<inputs>\d+)_(?P<outputs>\d+)\.npz",
    "dropblock": r"dropblock_.+\.npz",
    "schedules": r"schedules\.npz",
    "sampler": r"sampler_.+\.npz",
}


def golden_files(folder: Path) -> list[Path]:
    """Everything in the folder except its README.md; raises where there is nothing to check."""
    require(folder.is_dir(), f"{folder}: not a folder")
    files = sorted(path for path in folder.iterdir() if path.name != "README.md")
    require(bool(files), f"{folder}: no golden files")
    return files


def check_file(path: Path) -> None:
    """Raise GoldenError (or what NumPy raises for a damaged file) unless every array of the file is right."""
    kind, match = _kind(path)
    file = GoldenFile(path)
    if kind == "head":
        golden_heads.check_head(file, match["head"], match["case"])
    elif kind == "psm":
        golden_heads.check_psm(file, match["head"], match["case"])
    elif kind == "iam":
        golden_heads.check_iam(file, match["case"])
    elif kind == "episode":
        golden_heads.check_episode_file(file, match["case"])
    elif kind == "backbone":
        golden_networks.check_backbone(file, match["name"])
    elif kind == "resblock":
        golden_networks.check_resblock(file, (int(match["inputs"]), int(match["outputs"])))
    elif kind == "dropblock":
        golden_networks.check_drop_block(file)
    elif kind == "schedules":
        golden_networks.check_schedules(file)
    else:
        golden_networks.check_sampler(file)
    file.finish()


def _kind(path: Path) -> tuple[str, re.Match[str]]:
    for kind, pattern in _PATTERNS.items():
        match = re.fullmatch(pattern, path.name)
        if match and path.is_file():
            return kind, match
    raise GoldenError(f"{path.name}: not a golden file this contract knows")
