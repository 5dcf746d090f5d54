"""The documentation's page on speed, written from the speed records."""

from __future__ import annotations

from collections.abc import Sequence

from sextet_bench.report import markdown_table
from sextet_bench.speed_report import Speed, amount

NOTE = "<!-- written by `sextet readme` from benchmarks/speed/results; do not edit -->"
INTRODUCTION = """# Speed

Ours and a peer's, timed in turn in one run; a ratio of 2 says that the peer takes twice as long. In brackets the 95 %
interval of the median ratio. A target is what was asked for before anything was measured. `make bench` measures it
again, in `runs/speed`; what each row does, and why, stands on the paper's page.

![How many times longer the peers take](figures/speed.png)
"""


def speed_page(speeds: Sequence[Speed]) -> str:
    """The page `docs/speed.md`."""
    missed = [item for item in speeds if item.word == "does not hold"]
    lines = [NOTE, "", INTRODUCTION, f"{len(speeds)} comparisons, {len(missed)} below their target:", ""]
    lines += [
        f"- {item.method}: {item.name}{_setting(item)}: {_ratio(item) or _seconds(item.ours, item)}, {item.verdict}"
        for item in missed
    ]
    for method in sorted({item.method for item in speeds}):
        found = [item for item in speeds if item.method == method]
        machines = "; ".join(sorted({item.environment for item in found}))
        lines += ["", f"## {method}", "", f"{machines}.", ""]
        lines += markdown_table(
            ("ours / theirs", "setting", "times faster", "ours", "theirs", "target"), [_row(item) for item in found]
        )
    return "\n".join(lines) + "\n"


def _row(item: Speed) -> tuple[str, ...]:
    return (
        item.name, item.setting, _ratio(item), _seconds(item.ours, item), _seconds(item.theirs, item), item.verdict,
    )  # fmt: skip


def _setting(item: Speed) -> str:
    return f" ({item.setting})" if item.setting else ""


def _ratio(item: Speed) -> str:
    return "" if item.ratio is None else "{1:.2f} [{0:.2f}, {2:.2f}]".format(*item.ratio)


def _seconds(value: float | None, item: Speed) -> str:
    return "" if value is None else f"{amount(value)} {item.unit}"
