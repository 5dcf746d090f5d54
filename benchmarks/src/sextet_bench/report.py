"""The report: Markdown, one self-contained HTML page, pictures, all from the same results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sextet.files import write_atomic
from sextet_bench.cost import cost_charts
from sextet_bench.curves import stage_charts, table_charts
from sextet_bench.house import House
from sextet_bench.markup import anchor
from sextet_bench.page import Extras, html_page
from sextet_bench.pictures import charts_picture, claims_picture, speed_picture
from sextet_bench.sections import CLAIM_HEADER, Section, claim_words, number_text, section
from sextet_bench.speed_report import read_speeds
from sextet_bench.tables import select_tables
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


def write_report(folder: Path, results: Sequence[TableResult], house: House | None = None) -> None:
    """Write `report.md`, `report.html`, `claims.png`, `cost.png` and `speed.png` into `folder`.

    Args:
        folder: where to.
        results: what was asked for: all of `report.md`.
        house: where the other tables, the training logs and the speed records lie; the page shows them too, so that it
            is the one place to look whatever was run last. Without it the page has `results` alone.
    """
    everything = [section(result) for result in (all_results(house, results) if house else results)]
    more = extras(house, everything)
    write_atomic(folder / "report.md", markdown([section(result) for result in results]).encode())
    write_atomic(folder / "report.html", html_page(everything, more).encode())
    pictures = {
        "claims": claims_picture(results),
        "cost": charts_picture(cost_charts(results)),
        "speed": speed_picture(more.speeds),
    }
    for name, picture in pictures.items():
        if picture is not None:
            write_atomic(folder / f"{name}.png", picture)


def all_results(house: House, known: Sequence[TableResult]) -> list[TableResult]:
    """Results of every table at every profile, in the order of the files; those that are known already as they are."""
    found = {(result.table.id, result.profile_name): result for result in known}
    return [
        found.get((table.id, profile)) or house.results(table, profile)
        for table in select_tables(house.tables, ())
        for profile in table.profiles
    ]


def extras(house: House | None, sections: Sequence[Section]) -> Extras:
    """Training curves and speed records of a house."""
    if house is None:
        return Extras()
    results = [part.result for part in sections]
    curves = {
        anchor(result.table.id, result.profile_name): table_charts(house.runs, result.table, result.profile_name)
        for result in results
    }
    speeds = read_speeds(house.root / "benchmarks/speed/results")
    return Extras(curves, stage_charts(house.runs), speeds)
