"""Figures of the checks that are too long for every push, as files in the repository and as a page of the docs."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sextet.files import write_atomic
from sextet_bench.report import markdown_table

NOTE = "<!-- written by `sextet readme` from benchmarks/evidence; do not edit -->"
INTRODUCTION = """# Trust

What was tried against the code, and what came of it. Each table is written by the command above it, so it can be
measured again; what runs on every push, and the speed side by side with other code, stands on pages of its own:
[architecture](architecture.md), [speed](speed.md).
"""


class EvidenceError(ValueError):
    """A file that is no evidence."""


@dataclass(frozen=True)
class Evidence:
    """One check's figures.

    Attributes:
        title: heading.
        command: what measures it again.
        text: what was done, and what a reader should know to judge the figures.
        columns: headings of the table.
        rows: the table, numbers or text.
        date: ISO day; today by default.
        machine: processor kind and versions.
    """

    title: str
    command: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    machine: str = f"{platform.machine()}, Python {platform.python_version()}"


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write one check's figures as JSON."""
    write_atomic(path, (json.dumps(asdict(evidence), indent=1) + "\n").encode())


def read_evidence(path: Path) -> Evidence:
    """One check's figures.

    Raises:
        EvidenceError: naming the file and what is wrong in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["columns"] = tuple(content["columns"])
        content["rows"] = tuple(map(tuple, content["rows"]))
        evidence = Evidence(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{path}: expected the figures of a check ({error!r})") from error
    for row in evidence.rows:
        if len(row) != len(evidence.columns):
            raise EvidenceError(f"{path}: a row of {len(row)} under {len(evidence.columns)} columns")
    return evidence


def trust_page(folder: Path) -> str:
    """The page `docs/trust.md` from all files of a folder, by name."""
    parts = [NOTE, "", INTRODUCTION]
    for path in sorted(folder.glob("*.json")):
        item = read_evidence(path)
        parts += [f"## {item.title}", "", f"`{item.command}`, {item.date}, {item.machine}.", "", item.text, ""]
        parts += [*markdown_table(item.columns, [tuple(map(_cell, row)) for row in item.rows]), ""]
    return "\n".join(parts)


def _cell(value: str | int | float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if isinstance(value, float) else value
