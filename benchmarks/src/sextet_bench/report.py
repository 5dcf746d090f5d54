"""The report: Markdown, one self-contained HTML page, one picture, all from the same sections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sextet.checkpoint import write_atomic
from sextet_bench.page import html_page
from sextet_bench.pictures import claims_picture
from sextet_bench.sections import CLAIM_HEADER, Section, claim_words, number_text, section
from sextet_bench.verdict import TableResult


def markdown(sections: Sequence[Section]) -> str:
    """The whole report as Markdown."""
    lines = ["# Report", ""]
    for part in sections:
        table, result = part.result.table, part.result
        lines += [
            f"## {table.id}: {table.title}",
            "",
            f"{table.metric} in {table.unit}; profile {result.profile_name}.",
            "",
        ]
        grid = [
            (title, *(f"{number_text(c)}<br>{c.verdict.word}" if c else "" for c in cells))
            for title, cells in part.rows
        ]
        lines += markdown_table(part.header, grid)
        if result.claims:
            verdicts = [c.verdict.word + (f" ({c.verdict.note})" if c.verdict.note else "") for c in result.claims]
            claims = [(*claim_words(c, table.unit), word) for c, word in zip(result.claims, verdicts, strict=True)]
            lines += ["", *markdown_table(CLAIM_HEADER, claims)]
        if table.reading and result.records:
            lines += ["", table.reading.strip()]
        lines += ["", *(f"- {note}" for note in part.notes), ""]
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(words) + " |" for words in (header, ["---"] * len(header), *rows)]


def write_report(folder: Path, results: Sequence[TableResult]) -> None:
    """Write `report.md`, `report.html` and `claims.png` into `folder`."""
    sections = [section(result) for result in results]
    picture = claims_picture(results)
    write_atomic(folder / "report.md", markdown(sections).encode())
    write_atomic(folder / "report.html", html_page(sections, picture).encode())
    if picture is not None:
        write_atomic(folder / "claims.png", picture)
