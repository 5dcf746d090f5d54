"""Small pieces of HTML that the parts of the report share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sextet_bench.verdict import Verdict


@dataclass(frozen=True)
class Slot:
    """One cell of a table: its HTML, what it is sorted by (its text by default), and its class."""

    html: str
    sort: float | str | None = None
    css: str = ""


def row(slots: Sequence[Slot], attributes: Mapping[str, str] | None = None) -> str:
    """A row; its first cell is its heading."""
    cells = "".join(_cell(slot, "td" if index else "th") for index, slot in enumerate(slots))
    return f"<tr{_attributes(attributes or {})}>{cells}</tr>"


def table(
    header: Sequence[str], rows: Iterable[str], caption: str, *, above: str = "", turned: Sequence[str] = ()
) -> str:
    """A table that scrolls sideways where it is too wide.

    Args:
        header: titles of the columns.
        rows: from `row`.
        caption: what the table is.
        above: HTML of a row of headings over `header`.
        turned: titles that are written upwards.
    """
    heads = "".join(_head(title, title in turned) for title in header)
    return (
        f'<section class="wide" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead>{above}<tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></section>"
    )


def verdict_span(verdict: Verdict) -> str:
    """A verdict's word in its colour, with its note behind it."""
    title = f' title="{escape(verdict.note)}"' if verdict.note else ""
    return f'<span class="verdict {verdict_class(verdict.word)}"{title}>{escape(verdict.word)}</span>'


def verdict_class(word: str) -> str:
    """CSS class of a verdict."""
    return f"v-{word.replace(' ', '-')}"


def anchor(table_id: str, profile_name: str) -> str:
    """Id of the section of a table at a profile."""
    return f"{table_id.replace('/', '-')}-{profile_name}"


def _head(title: str, turned: bool) -> str:
    if not title:
        return "<td></td>"
    content = f"<span>{escape(title)}</span>" if turned else escape(title)
    return f'<th scope="col"{_attributes({"class": "turned"} if turned else {})}>{content}</th>'


def _cell(slot: Slot, tag: str) -> str:
    attributes = {"class": slot.css} if slot.css else {}
    if slot.sort is not None:
        attributes["data-sort"] = f"{slot.sort:g}" if isinstance(slot.sort, float | int) else slot.sort
    scope = ' scope="row"' if tag == "th" else ""
    return f"<{tag}{scope}{_attributes(attributes)}>{slot.html}</{tag}>"


def _attributes(attributes: Mapping[str, str]) -> str:
    return "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
