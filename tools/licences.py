"""Write docs/licences.md: the licence of every direct dependency, and of every dataset.

Usage: python tools/licences.py [--check]
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import tyro

from sextet.data import OPEN
from sextet_bench.house import House, all_passports
from sextet_bench.report import markdown_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/licences.md"
LONGEST = 60
INTRODUCTION = """<!-- written by `python tools/licences.py`; do not edit -->

# Licences

The code here is under the MIT licence. It contains no code of the papers' authors. Datasets are not redistributed: each
is fetched or adopted on your machine, under its own terms.

## Direct dependencies

As their own metadata say. Extras are needed for what they are named after only.
"""


def dependencies() -> dict[str, set[str]]:
    """Distribution -> the packages of the workspace that ask for it, with the extra's name where it is one."""
    users: dict[str, set[str]] = defaultdict(set)
    for path in sorted(ROOT.glob("*/pyproject.toml")) + sorted(ROOT.glob("packages/*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        groups = {"": project.get("dependencies", []), **project.get("optional-dependencies", {})}
        for extra, wanted in groups.items():
            for requirement in wanted:
                name = re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower()
                users[name].add(f"{project['name']}[{extra}]" if extra else project["name"])
    ours = {name.partition("[")[0] for found in users.values() for name in found}
    return {name: users[name] for name in sorted(users) if name not in ours}


def licence_of(distribution: str) -> str:
    """Its licence in a few words, from its metadata; empty where it is not installed."""
    try:
        about = metadata(distribution)
    except PackageNotFoundError:
        return ""
    said, classified, text = (about.get_all(key) or [] for key in ("License-Expression", "Classifier", "License"))
    classes = [line.rsplit(" :: ", 1)[-1] for line in classified if line.startswith("License ::")]
    first = [line.strip().partition("\n")[0][:LONGEST] for line in text]
    return ", ".join(said or classes or first) or "not said"


def page() -> str:
    """The whole page."""
    rows = [
        (name, licence_of(name) or "not installed here", ", ".join(sorted(users)))
        for name, users in dependencies().items()
    ]
    lines = [INTRODUCTION, *markdown_table(("distribution", "licence", "needed by"), rows), "", "## Datasets", ""]
    passports = all_passports(House.of_checkout(), OPEN)
    sets = [(f"`{name}`", passport.licence, passport.homepage) for name, passport in sorted(passports.items())]
    lines += markdown_table(("set", "licence", "homepage"), sets)
    return "\n".join(lines) + "\n"


def main(check: bool = False) -> int:
    """Write the page; `--check` only says whether it lists every dependency and dataset.

    Which words stand for a licence depends on the versions that are installed, so `--check` compares names alone.
    """
    text = page()
    if not check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    missing = [line for line in map(_first_cell, text.splitlines()) if line and f"| {line} |" not in before]
    if missing:
        print(f"docs/licences.md lacks {', '.join(missing)}; run python tools/licences.py", file=sys.stderr)
    return int(bool(missing))


def _first_cell(line: str) -> str:
    return line.split(" | ")[0].removeprefix("| ") if line.startswith("| ") else ""


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
