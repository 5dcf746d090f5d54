"""Speed measured side by side: what `benchmarks/speed` wrote, as rows for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from sextet_bench.charts import Scale, bounds
from sextet_bench.markup import Slot, row, table
from sextet_bench.svg import interval_svg


class SpeedError(ValueError):
    """A file that is not a result of `benchmarks/speed`."""


@dataclass(frozen=True)
class Speed:
    """One thing timed: ours beside theirs, or ours beside a limit.

    Attributes:
        method: name of the file, which is the method's.
        name: what was timed; "ours / theirs" where there is a peer.
        setting: sizes and the like.
        ours, theirs: in `unit`.
        ratio: (low, median, high) of how many times longer theirs takes.
        target: the ratio that is asked for.
        verdict: the benchmark's own words.
        environment: processor, threads, versions, commit.
    """

    method: str
    name: str
    setting: str
    ours: float | None
    theirs: float | None
    unit: str
    ratio: tuple[float, float, float] | None
    target: float | None
    verdict: str
    environment: str

    @property
    def word(self) -> str:
        """The verdict on the ratio, or on ours where there is none, as the report colours it."""
        if not self.verdict:
            return "measured"
        return "does not hold" if "NOT MET" in self.verdict.partition("memory")[0] else "holds"


def read_speeds(folder: Path) -> list[Speed]:
    """All results below a folder, file by file.

    Raises:
        SpeedError: naming the file and what is missing there.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            environment = _environment(content["environment"])
            found += [_speed(path.stem, item, environment) for item in content["results"]]
        except (ValueError, KeyError, TypeError) as error:
            raise SpeedError(f"{path}: expected a result of benchmarks/speed ({error!r})") from error
    return found


def _speed(method: str, item: Mapping[str, Any], environment: str) -> Speed:
    ratio, target = item.get("ratio"), item.get("target", item.get("least"))
    batch = f"batch: {item['batch']}" if "batch" in item else ""
    return Speed(
        method=method,
        name=item["name"],
        setting=", ".join(word for word in (item.get("setting", ""), item.get("mode", ""), batch) if word),
        ours=item.get("ours_ms", item.get("ours")),
        theirs=item.get("theirs_ms", item.get("theirs")),
        unit=item.get("unit", "ms"),
        ratio=None if ratio is None else (ratio["low"], ratio["median"], ratio["high"]),
        target=target,
        verdict=item.get("verdict", ""),
        environment=environment,
    )


def _environment(content: Mapping[str, Any]) -> str:
    words = [str(content[key]) for key in ("processor",) if content.get(key)]
    if "threads" in content:
        words.append(f"{content['threads']} thread{'' if content['threads'] == 1 else 's'}")
    words += [f"{key} {content[key]}" for key in ("torch", "python") if content.get(key)]
    words += [f"commit {content['commit'][:7]}"] if content.get("commit") else []
    return ", ".join(words)


def speed_scale(speeds: Sequence[Speed], places: tuple[float, float]) -> Scale:
    """A logarithmic scale with room for all ratios, targets and 1."""
    values = [1.0]
    for item in speeds:
        values += [*(item.ratio or ()), *([item.target] if item.target else [])]
    low, high = bounds(values)
    return Scale((max(low, 1e-6) * 0.9, high * 1.1), places, log=True)


def speed_table(speeds: Sequence[Speed]) -> str:
    """All ratios on one logarithmic scale, with strokes at 1 and at the target."""
    if not speeds:
        return "<p>Nothing was timed yet: <code>make bench</code>.</p>"
    scale = speed_scale(speeds, (6.0, 174.0))
    header = ("ours / theirs", "method", "target", "ratio, drawn", "times faster [95%]", "ours", "theirs", "setting")
    rows = [_row(item, scale) for item in speeds]
    machines = sorted({item.environment for item in speeds})
    caption = "How many times longer theirs takes; thin stroke: equal, thick stroke: what is asked for; logarithmic"
    return table(header, rows, caption) + f'<p class="faint">Measured on {escape("; ".join(machines))}.</p>'


def amount(value: float) -> str:
    """Three digits, without powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _row(item: Speed, scale: Scale) -> str:
    text = drawing = ""
    if item.ratio:
        low, median, high = item.ratio
        text = f"{median:.2f} [{low:.2f}, {high:.2f}]"
        at = (item.target,) if item.target else ()
        drawing = interval_svg(
            low, median, high, scale, word=item.word, label=text, ticks_at=at, base=1.0, width=180
        )  # fmt: skip
    median_or_none = item.ratio[1] if item.ratio else ""
    amounts = [
        Slot("" if value is None else f"{amount(value)} {item.unit}", "" if value is None else value, "amount")
        for value in (item.ours, item.theirs)
    ]
    word = item.word.replace(" ", "-")
    verdict = f'<span class="verdict v-{word}">{escape(item.verdict)}</span>'
    slots = [
        Slot(escape(item.name), css="text"),
        Slot(escape(item.method), css="name"),
        Slot(verdict, css="decision"),
        Slot(drawing, median_or_none),
        Slot(text, median_or_none, "amount"),
        *amounts,
        Slot(escape(item.setting), css="note"),
    ]
    return row(slots)
