"""The report as one HTML page that needs no network and reads without JavaScript."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape

from sextet_bench.pictures import COLOURS
from sextet_bench.sections import CLAIM_HEADER, Section, claim_words, number_text
from sextet_bench.verdict import CellResult

STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --soft: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --line: #30363d; --soft: #161b22; } img { background: #fff; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { border: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top; }
th { background: var(--soft); }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid; }
.verdict { font-size: .85em; font-weight: 600; } summary { cursor: pointer; } img { max-width: 100%; }
pre { white-space: pre-wrap; font-size: .8em; margin: .3rem 0; }
"""

SCRIPT = """
for (const table of document.querySelectorAll('table')) {
  table.querySelectorAll('thead th').forEach((cell, index) => {
    const button = document.createElement('button');
    button.textContent = cell.textContent; cell.replaceChildren(button);
    button.title = 'sort';
    button.addEventListener('click', () => {
      const up = cell.getAttribute('aria-sort') !== 'ascending';
      table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
      cell.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const key = row => { const text = row.cells[index].textContent; const number = parseFloat(text);
                           return Number.isNaN(number) ? text : number; };
      const rows = [...table.tBodies[0].rows].sort((a, b) => { const x = key(a), y = key(b);
        return typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : typeof x === 'number' ? -1 : 1; });
      table.tBodies[0].append(...(up ? rows : rows.reverse()));
    });
  });
}
"""


def html_page(sections: Sequence[Section], picture: bytes | None) -> str:
    """The whole page."""
    body = ["<h1>Six papers, measured</h1>"]
    if picture is not None:
        data = base64.b64encode(picture).decode()
        body.append(f'<img alt="Every claim with its effect and interval" src="data:image/png;base64,{data}">')
    for part in sections:
        body += _section(part)
    styles = STYLE + "".join(
        f".v-{word.replace(' ', '-')} {{ color: light-dark({colour}, color-mix(in srgb, {colour}, white 45%)); }}\n"
        for word, colour in COLOURS.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>sextet: report</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{styles}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(part: Section) -> list[str]:
    result, table = part.result, part.result.table
    lines = [f'<h2 id="{escape(table.id.replace("/", "-"))}">{escape(table.id)}: {escape(table.title)}</h2>']
    lines.append(f"<p>{escape(table.metric)} in {escape(table.unit)}; profile {escape(result.profile_name)}.</p>")
    rows = [(escape(title), *(_cell(cell) if cell else "" for cell in cells)) for title, cells in part.rows]
    lines.append(_table(part.header, rows))
    if result.claims:
        claims = [
            (*map(escape, claim_words(claim, table.unit)), _word(claim.verdict.word, claim.verdict.note))
            for claim in result.claims
        ]
        lines.append(_table(CLAIM_HEADER, claims))
    if table.reading and result.records:
        lines.append(f"<p>{escape(table.reading.strip())}</p>")
    lines.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in part.notes) + "</ul>")
    return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(result: CellResult) -> str:
    """Number, verdict, and behind a click where it comes from."""
    text = escape(number_text(result)) + "<br>" + _word(result.verdict.word, result.verdict.note)
    if not result.records:
        return text
    last = result.records[-1]
    lines = [f"seed {r.seed}: {r.value:.4f}, {r.n} {r.unit}s, {r.wall_s:.1f} s, {r.device}" for r in result.records]
    lines += ["config " + json.dumps(dict(last.config)), f"commit {last.commit[:10]}, {last.finished}"]
    lines += [f"data {name} {content[:12]}" for name, content in last.data.items()]
    return f"{text}<details><summary>more</summary><pre>{escape(chr(10).join(lines))}</pre></details>"


def _word(word: str, note: str) -> str:
    title = f' title="{escape(note)}"' if note else ""
    return f'<span class="verdict v-{word.replace(" ", "-")}"{title}>{escape(word)}</span>'
