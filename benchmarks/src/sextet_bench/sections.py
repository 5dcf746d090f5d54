"""What is shown of a table, in words: the common ground of the Markdown and the HTML report."""

from __future__ import annotations

from dataclasses import dataclass

from sextet_bench.statistics import Estimate
from sextet_bench.verdict import CellResult, ClaimResult, TableResult

CLAIM_HEADER = ("claim", "the paper says", "wanted", "paired effect [95%]", "p (Holm)", "verdict")


@dataclass(frozen=True)
class Section:
    """What is shown of one table: text, and two grids of strings with a verdict word a row or cell."""

    result: TableResult
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[CellResult | None, ...]], ...]
    notes: tuple[str, ...]


def section(result: TableResult) -> Section:
    """Arrange one table's results for showing."""
    table = result.table
    cells = {found.cell.id: found for found in result.cells}
    rows = tuple(
        (row.title, tuple(cells.get(f"{row.id}/{column.id}") for column in table.columns)) for row in table.rows
    )
    records = result.records
    notes = [f"Departure: {text}" for text in table.departures]
    if table.numbers and result.profile_name in table.numbers.profiles:
        numbers = table.numbers
        margin = f"Margin ±{numbers.margin:g} {table.unit}: {numbers.margin_reason}."
        seen = "" if numbers.verified else ", not verified in their source"
        notes.insert(0, f"Reference numbers ({numbers.kind}{seen}): {numbers.source}. {margin}")
    if records:
        newest = max(record.finished for record in records)
        commits = sorted({record.commit[:10] + ("+" if record.dirty else "") for record in records})
        devices = sorted({record.device for record in records})
        hours = sum(record.wall_s for record in records) / 3600
        notes.append(
            f"{len(records)} runs, {hours * 60:.0f} minutes in all on {', '.join(devices)}; last {newest[:16]} UTC; "
            f"commit {', '.join(commits)}."
        )
    header = ("", *(column.title for column in table.columns))
    return Section(result, header, rows, tuple(notes))


def number_text(result: CellResult) -> str:
    """`72.13 ± 0.40 (72.1)`: mean, half of the 95% interval, reference."""
    found = result.verdict.estimate
    reference = "" if result.cell.reference is None else f" ({result.cell.reference:g})"
    if found is None:
        return f"–{reference}"
    return f"{found.mean:.2f} ± {half_width(found):.2f}{reference}"


def half_width(found: Estimate) -> float:
    """Half of the 95% interval."""
    low, high = found.interval()
    return (high - low) / 2


def effect_text(result: ClaimResult) -> str:
    """`+5.88 [+5.1, +6.7]`: paired effect with its 95% interval."""
    found = result.verdict.estimate
    if found is None:
        return "–"
    low, high = found.interval()
    return f"{found.mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def threshold_text(result: ClaimResult, unit: str) -> str:
    """What the effect must show for the claim to hold."""
    claim = result.claim
    return f"within ±{claim.by:g} {unit}" if claim.kind == "equal" else f"> {claim.by:g} {unit}"


def claim_words(result: ClaimResult, unit: str) -> tuple[str, str, str, str, str]:
    """The first five columns under `CLAIM_HEADER`; the verdict is each report's own to set."""
    p = "–" if result.verdict.p is None else f"{result.verdict.p:.2g}"
    return result.claim.text, result.claim.says or "–", threshold_text(result, unit), effect_text(result), p
