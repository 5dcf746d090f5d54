"""One table in the report: paper and measured values with intervals drawn, claims, figures, curves, provenance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from sextet_bench.charts import Chart, Scale, bounds
from sextet_bench.figures import figure_charts
from sextet_bench.markup import Slot, anchor, row, table, verdict_span
from sextet_bench.overview import claim_drawing, claim_scale, hours_left, hours_text, marks, note_text
from sextet_bench.sections import CLAIM_HEADER, Section, claim_words, half_width
from sextet_bench.svg import chart_figure, interval_svg
from sextet_bench.tables import Table
from sextet_bench.verdict import CellResult, TableResult

_WIDTH = 90


def section_html(part: Section, curves: Sequence[Chart]) -> str:
    """The whole section; it is open where something was measured."""
    result, shown = part.result, part.result.table
    name = anchor(shown.id, result.profile_name)
    attributes = "".join(f' {key}="{escape(value)}"' for key, value in marks(result).items())
    state = "" if result.records else f"not run; about {_cost_left(result)}"
    head = (
        f'<summary><h3>{escape(shown.id)}: {escape(shown.title)}</h3> <span class="faint">profile '
        f"{escape(result.profile_name)}{'; ' + escape(state) if state else ''}</span></summary>"
    )
    body = [f"<p>{escape(shown.metric)} in {escape(shown.unit)}{_direction(shown)}.</p>", _numbers(part)]
    if result.claims:
        body.append(_claims(result))
    if shown.reading and result.records:
        body.append(f'<p class="reading">{escape(shown.reading.strip())}</p>')
    figures = figure_charts(result)
    if figures:
        body.append(f'<div class="charts">{"".join(map(chart_figure, figures))}</div>')
    if curves:
        body.append(curves_html(curves, "training curves"))
    notes = [*part.notes, *(f"Not run: {why}." for why in _reasons(result))]
    body.append('<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
    opened = " open" if result.records else ""
    return (
        f'<section id="{escape(name)}"{attributes}><details class="table"{opened}>{head}{"".join(body)}'
        "</details></section>"
    )


def curves_html(curves: Sequence[Chart], title: str) -> str:
    """Charts behind a click."""
    charts = "".join(map(chart_figure, curves))
    return f'<details><summary>{escape(title)}</summary><div class="charts">{charts}</div></details>'


def _direction(shown: Table) -> str:
    return ", higher is better" if shown.higher_is_better else ", lower is better"


def _reasons(result: TableResult) -> list[str]:
    """Why cells were not run, each reason once."""
    notes = [item.verdict.note.rpartition(";")[0] for item in result.cells if item.verdict.word == "not run"]
    return list(dict.fromkeys(notes))


def _cost_left(result: TableResult) -> str:
    profile = result.profile
    on = f"{profile.gpus} GPU{'s' if profile.gpus > 1 else ''}" if profile.gpus else "CPU"
    return f"{hours_text(hours_left(result))} on {on}" + (f"; needs {profile.needs.strip()}" if profile.needs else "")


def _numbers(part: Section) -> str:
    """The grid of numbers; every measured one is drawn on a scale common to the table."""
    result = part.result
    comparable = bool(result.table.numbers and result.profile_name in result.table.numbers.profiles)
    scale = _scale(result, comparable)
    rows = [
        row([Slot(escape(title)), *(_number(cell, result, scale, comparable) if cell else Slot("") for cell in cells)])
        for title, cells in part.rows
    ]
    wanted = "; band: margin around the reference" if comparable and scale else ""
    drawn = f"; line: 95% interval{wanted}" if scale else ""
    return table(part.header, rows, f"{result.table.id} at profile {result.profile_name}: numbers{drawn}")


def _scale(result: TableResult, comparable: bool) -> Scale | None:
    values = []
    for item in result.cells:
        if item.verdict.estimate is not None:
            values += item.verdict.estimate.interval()
            if comparable and item.cell.reference is not None:
                values.append(item.cell.reference)
    return Scale(bounds(values), (6.0, _WIDTH - 6.0)) if values else None


def _number(item: CellResult, result: TableResult, scale: Scale | None, comparable: bool) -> Slot:
    """Measured value and interval, drawn; reference; verdict; and behind a click where it comes from."""
    shown, found, reference = result.table, item.verdict.estimate, item.cell.reference
    kind = shown.numbers.kind if shown.numbers else ""
    referred = "" if reference is None else f'<span class="reference">{kind} {reference:g}</span>'
    word = "" if item.verdict.word == "measured" else verdict_span(item.verdict)
    if found is None or scale is None:
        if not item.records:
            return Slot(referred or word, "" if reference is None else reference)
        only = sum(record.value for record in item.records) / len(item.records) * shown.scale
        return Slot(_provenance(item, result, f"{only:.2f}") + f"{referred} {word}", only)
    low, high = found.interval()
    text = f"{found.mean:.2f} ± {half_width(found):.2f}"
    margin = shown.numbers.margin if comparable and shown.numbers else 0.0
    marked = () if reference is None or not comparable else (reference,)
    drawing = interval_svg(
        low, found.mean, high, scale, word=item.verdict.word, label=f"{text} {shown.unit}: {item.verdict.word}",
        ticks_at=marked, band=(marked[0] - margin, marked[0] + margin) if marked else None, width=_WIDTH,
    )  # fmt: skip
    number = f"{found.mean:.2f} <small>± {half_width(found):.2f}</small>"
    return Slot(_provenance(item, result, number, drawing) + f"{referred} {word}", found.mean)


def _provenance(item: CellResult, result: TableResult, number: str, drawing: str = "") -> str:
    """The number; behind a click on it, its runs, config, data, code and command."""
    last = item.records[-1]
    lines = [item.verdict.note] * bool(item.verdict.note)
    lines += [
        f"seed {r.seed}: {r.value * result.table.scale:.4f}, {r.n} {r.unit}s, {r.wall_s:.1f} s, "
        f"{r.peak_bytes / 2**20:.0f} MiB, {r.device}"
        for r in item.records
    ]
    lines += [f"recipe {last.recipe}, config {json.dumps(dict(last.config))}"]
    lines += [f"commit {last.commit[:10]}{' with local changes' if last.dirty else ''}, {last.finished}"]
    lines += [" ".join(f"{name} {version}" for name, version in last.versions.items())]
    lines += [f"data {name} {content[:12]}" for name, content in last.data.items()]
    lines += [f"sextet explain {result.table.id}/{item.cell.id} --profile {result.profile_name}"]
    content = escape("\n".join(lines))
    head = f'<span class="number">{number}</span> {drawing}'
    return f"<details><summary>{head}</summary><pre>{content}</pre></details>"


def _claims(result: TableResult) -> str:
    unit, scale = result.table.unit, claim_scale(result.claims)
    rows = [
        row(
            [
                Slot(escape(words[0]), css="text"),
                Slot(escape(words[1]), css="text"),
                Slot(escape(words[2]), css="amount"),
                claim_drawing(item, scale, unit),
                Slot(escape(words[3]), item.verdict.estimate.mean if item.verdict.estimate else "", "amount"),
                Slot(escape(words[4]), "" if item.verdict.p is None else item.verdict.p, "amount"),
                Slot(verdict_span(item.verdict) + note_text(item), item.verdict.word, "decision"),
            ]
        )
        for item in result.claims
        for words in [claim_words(item, unit)]
    ]
    header = (*CLAIM_HEADER[:3], "drawn", *CLAIM_HEADER[3:])
    return table(header, rows, f"{result.table.id} at profile {result.profile_name}: claims")
