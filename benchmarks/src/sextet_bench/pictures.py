"""Pictures made from results, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from sextet_bench.charts import Chart, Curve, number
from sextet_bench.speed_report import Speed
from sextet_bench.svg import x_marks
from sextet_bench.verdict import ClaimResult, TableResult

COLOURS = {
    "holds": "#1a7f37",
    "reproduced": "#1a7f37",
    "above": "#0969da",
    "below": "#cf222e",
    "does not hold": "#cf222e",
    "inconclusive": "#9a6700",
    "stale": "#8250df",
    "measured": "#57606a",
    "not run": "#8c959f",
}
# Okabe and Ito's colours, which the colour-blind can tell apart; black last
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#000000")
MARKERS = ("o", "s", "^", "D")


def claims_picture(results: Sequence[TableResult]) -> bytes | None:
    """A forest plot of every claim that has an effect, one panel a paper and unit: interval, threshold, verdict colour.

    PNG, or None where no claim has an effect.
    """
    panels: dict[tuple[str, str], list[ClaimResult]] = {}
    for result in results:
        for claim in result.claims:
            if claim.verdict.estimate is not None:
                panels.setdefault((result.table.paper, result.table.unit), []).append(claim)
    if not panels:
        return None
    pyplot = _pyplot()
    heights = [len(claims) + 2.4 for claims in panels.values()]
    size = (11, 0.24 * sum(heights))
    figure, grid = pyplot.subplots(
        len(panels), figsize=size, height_ratios=heights, layout="constrained", squeeze=False
    )
    for axes, ((paper, unit), claims) in zip(grid[:, 0], panels.items(), strict=True):
        _forest(axes, paper, unit, claims)
    return _png(pyplot, figure)


def _forest(axes: Any, paper: str, unit: str, claims: Sequence[ClaimResult]) -> None:
    """One paper's claims in one unit, top to bottom."""
    for line, item in enumerate(reversed(claims)):
        found, colour = item.verdict.estimate, COLOURS[item.verdict.word]
        assert found is not None
        low, high = found.interval()
        limits = (-item.claim.by, item.claim.by) if item.claim.kind == "equal" else (item.claim.by,)
        axes.plot([low, high], [line, line], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot([found.mean], [line], "o", color=colour, markersize=5)
        axes.plot(limits, [line] * len(limits), "|", color="#24292f", markersize=10)
        axes.text(
            1.01, line, item.verdict.word, color=colour, va="center", fontsize=9, transform=axes.get_yaxis_transform()
        )
    axes.axvline(0, color="#d0d7de", linewidth=1, zorder=0)
    _lines(axes, paper, [item.claim.text for item in reversed(claims)])
    axes.set_xlabel(f"paired effect with 95% interval ({unit}); tick: what the claim asks for", fontsize=9)


def chart_picture(chart: Chart) -> bytes:
    """A chart as PNG."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    _chart(axes, chart)
    axes.legend(frameon=False, fontsize=9)
    return _png(pyplot, figure)


def charts_picture(charts: Sequence[Chart]) -> bytes | None:
    """Several charts below each other, each with its key beside it, as PNG; None for none."""
    if not charts:
        return None
    pyplot = _pyplot()
    size = (9, 3.4 * len(charts))
    figure, grid = pyplot.subplots(len(charts), figsize=size, layout="constrained", squeeze=False)
    for axes, chart in zip(grid[:, 0], charts, strict=True):
        _chart(axes, chart)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return _png(pyplot, figure)


def speed_picture(speeds: Sequence[Speed]) -> bytes | None:
    """How many times longer theirs takes, on one logarithmic axis, a panel a method; PNG, or None for no ratios."""
    panels: dict[str, list[Speed]] = {}
    for item in speeds:
        if item.ratio:
            panels.setdefault(item.method, []).append(item)
    if not panels:
        return None
    pyplot = _pyplot()
    heights = [len(items) + 2.4 for items in panels.values()]
    size = (11, 0.24 * sum(heights))
    figure, grid = pyplot.subplots(
        len(panels), figsize=size, height_ratios=heights, layout="constrained", squeeze=False, sharex=True
    )
    for axes, (method, items) in zip(grid[:, 0], panels.items(), strict=True):
        _ratios(axes, method, items)
    grid[-1, 0].set_xlabel("how many times longer theirs takes, with 95% interval; tick: what is asked for", fontsize=9)
    return _png(pyplot, figure)


def _ratios(axes: Any, method: str, items: Sequence[Speed]) -> None:
    for line, item in enumerate(reversed(items)):
        low, median, high = item.ratio or (1.0, 1.0, 1.0)
        axes.plot([low, high], [line, line], color=COLOURS[item.word], linewidth=2.5, solid_capstyle="butt")
        axes.plot([median], [line], "o", color=COLOURS[item.word], markersize=5)
        if item.target:
            axes.plot([item.target], [line], "|", color="#24292f", markersize=10)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: number(value))
    axes.axvline(1, color="#d0d7de", linewidth=1, zorder=0)
    names = [f"{item.name} ({item.setting})" if item.setting else item.name for item in reversed(items)]
    _lines(axes, method, names)


def _lines(axes: Any, title: str, names: Sequence[str]) -> None:
    """What forest plots have in common: a name a line, bottom to top, and a title."""
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _chart(axes: Any, chart: Chart) -> None:
    for curve in chart.curves:
        _draw(axes, curve)
    if chart.log_x:
        axes.set_xscale("log")
    places, words = zip(*x_marks(chart), strict=True)
    axes.set_xticks(places, words)
    axes.minorticks_off()
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    axes.set_title(chart.title, loc="left", fontsize=11)
    axes.grid(color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Any, curve: Curve) -> None:
    colour = PALETTE[curve.colour % len(PALETTE)]
    xs, ys = [point.x for point in curve.points], [point.y for point in curve.points]
    axes.plot(
        xs,
        ys,
        color=colour,
        label=curve.title,
        linestyle=("--" if curve.dashed else "-") if curve.joined else "",
        linewidth=1.6,
        marker=MARKERS[curve.colour % len(MARKERS)] if curve.marked else "",
        markersize=6,
        markerfacecolor="white" if curve.dashed else colour,
    )
    for point in curve.points:
        if point.low is not None and point.high is not None:
            axes.plot([point.x, point.x], [point.low, point.high], color=colour, linewidth=1.6)


def _pyplot() -> Any:
    """Matplotlib without a display; imported late, since it is slow to import."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _png(pyplot: Any, figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()
