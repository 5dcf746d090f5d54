"""The report as one HTML page that needs no network and reads without JavaScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

from sextet_bench.charts import Chart
from sextet_bench.cost import cost_charts
from sextet_bench.markup import anchor, verdict_class
from sextet_bench.overview import CLAIM_WORDS, NUMBER_WORDS, claims_table, matrix, summary
from sextet_bench.pictures import COLOURS
from sextet_bench.sections import Section
from sextet_bench.speed_report import Speed, speed_table
from sextet_bench.svg import chart_figure
from sextet_bench.table_section import curves_html, section_html

MEANINGS = {
    "reproduced": "two one-sided tests place the mean within the margin around the reference",
    "above": "a one-sided test places the mean beyond the margin, on the high side",
    "below": "the same on the low side",
    "measured": "there is nothing to compare it with at this profile",
    "holds": "one-sided tests on the paired effect place it beyond what the claim asks for",
    "does not hold": "they place it on the other side",
    "inconclusive": "no test decides after Holm's correction over the table",
    "not run": "it was not run here; what it would take stands with it",
    "stale": "config, data or the method's source has changed since the run",
}

COST_NOTE = (
    "Seconds as recorded: of each row the longest of its runs, the one that trains what the others find (median over "
    "the seeds). What several rows share, such as pre-training, stands with the row that was run first."
)


@dataclass(frozen=True)
class Extras:
    """What the page shows beside the tables' results.

    Attributes:
        curves: section (`markup.anchor`) -> training curves of its runs.
        stages: name of a shared stage -> its training curves.
        speeds: what was timed side by side.
    """

    curves: Mapping[str, Sequence[Chart]] = field(default_factory=dict)
    stages: Mapping[str, Sequence[Chart]] = field(default_factory=dict)
    speeds: Sequence[Speed] = ()


def html_page(sections: Sequence[Section], extras: Extras) -> str:
    """The whole page: paper by paper, what was measured before what was not run."""
    sections = sorted(sections, key=lambda part: (part.result.table.paper, not part.result.records))
    results = [part.result for part in sections]
    costs = "".join(map(chart_figure, cost_charts(results)))
    names = [anchor(part.result.table.id, part.result.profile_name) for part in sections]
    parts = {
        "overview": ("Overview", matrix(results)),
        "claims": ("Claims", claims_table(results)),
        "tables": (
            "Tables",
            "".join(
                section_html(part, extras.curves.get(name, ())) for part, name in zip(sections, names, strict=True)
            ),
        ),
        "cost": (
            "Cost against accuracy",
            f'<p>{COST_NOTE}</p><div class="charts">{costs}</div>' if costs else "<p>Nothing yet.</p>",
        ),
        "speed": ("Speed side by side", speed_table(extras.speeds)),
        "stages": ("Training of shared stages", _stages(extras.stages)),
        "words": ("What the words mean", _words()),
    }
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _) in parts.items())
    body = [
        '<a class="skip" href="#overview">to the overview</a>',
        f'<header><h1>Six papers, measured</h1><p class="lead">{escape(summary(results))}</p>',
        f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav></header>',
        _tools(sorted({result.table.paper for result in results})),
        "<main>",
        *(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, (title, content) in parts.items()),
        "</main>",
    ]
    script = _asset("report.js")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>sextet: report</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<style>\n{_asset('report.css')}{_colours()}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return files("sextet_bench").joinpath("assets", name).read_text(encoding="utf-8")


def _colours() -> str:
    """Colours of the verdicts, lighter on dark ground."""
    return "".join(
        f".{verdict_class(word)} {{ color: light-dark({colour}, color-mix(in srgb, {colour}, white 45%)); }}\n"
        for word, colour in COLOURS.items()
    )


def _tools(papers: Sequence[str]) -> str:
    """Filters; they are hidden until the script that serves them runs."""
    words = list(dict.fromkeys((*CLAIM_WORDS, *NUMBER_WORDS)))
    chosen = {"paper": papers, "verdict": words}
    selects = "".join(
        f'<label>{name}<select name="{name}"><option value="">all</option>'
        + "".join(f"<option>{escape(value)}</option>" for value in values)
        + "</select></label>"
        for name, values in chosen.items()
    )
    return (
        '<search class="tools" aria-label="Filter" hidden>'
        '<label>words<input type="search" name="text" placeholder="press / to search" autocomplete="off"></label>'
        f'{selects}<button type="button" name="all">show all</button>'
        '<button type="button" name="theme">light / dark</button>'
        '<output aria-live="polite"></output></search>'
    )


def _stages(stages: Mapping[str, Sequence[Chart]]) -> str:
    if not stages:
        return "<p>Nothing was trained here that several runs share.</p>"
    return "".join(curves_html(charts, name) for name, charts in sorted(stages.items()))


def _words() -> str:
    items = "".join(
        f'<dt class="verdict {verdict_class(word)}">{word}</dt><dd>{escape(text)}</dd>'
        for word, text in MEANINGS.items()
    )
    return (
        f"<dl>{items}</dl><p>Intervals are of 95%. With three or more seeds they are Student's over the seeds' means, "
        "with fewer over the episodes, images or sentences of the seeds that are there. Claims are judged in pairs, on "
        "the same units of the same seeds.</p>"
    )
