"""The figures that table files ask for, from results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sextet_bench.charts import Chart, Curve, Point
from sextet_bench.tables import Figure, Series
from sextet_bench.verdict import TableResult


def figure_charts(result: TableResult) -> list[Chart]:
    """The charts of all figures of a table for which something was measured."""
    charts = [figure_chart(result, figure) for figure in result.table.figures]
    return [chart for chart in charts if any(not curve.dashed for curve in chart.curves)]


def figure_chart(result: TableResult, figure: Figure) -> Chart:
    """Measured means with 95% intervals, and dashed the reference numbers where the profile may be compared with them.

    Series without any measured or reference number are left out.
    """
    table, numeric = result.table, not isinstance(figure.x[0], str)
    xs = [float(x) for x in figure.x] if numeric else [float(index) for index in range(len(figure.x))]
    curves = []
    for colour, series in enumerate(figure.series):
        measured = tuple(_measured(result, series, xs))
        reference = tuple(_references(result, series, xs))
        curves += [Curve(series.title, measured, colour)] * bool(measured)
        curves += [Curve(f"{series.title}, {_kind(result)}", reference, colour, dashed=True)] * bool(reference)
    return Chart(
        id=f"{table.paper}-{table.name}-{result.profile_name}-{figure.id}",
        title=figure.title,
        x_title=figure.x_title,
        y_title=figure.y_title or f"{table.metric} ({table.unit})",
        curves=tuple(curves),
        x_words=() if numeric else tuple(str(x) for x in figure.x),
        x_ticks=tuple(xs) if numeric else (),
        log_x=figure.log_x,
    )


def _kind(result: TableResult) -> str:
    """What the reference numbers are called in the key."""
    return "pilot" if result.table.numbers and result.table.numbers.kind == "pilot" else "paper"


def _measured(result: TableResult, series: Series, xs: Sequence[float]) -> Iterator[Point]:
    for x, cell_id in zip(xs, series.cells, strict=True):
        if cell_id is None:
            continue
        verdict = result.cell(cell_id).verdict
        if verdict.estimate is None:
            continue
        mean, (low, high) = verdict.estimate.mean, verdict.estimate.interval()
        yield Point(x, mean, low, high, f"{series.title}, {cell_id}: {mean:.2f} [{low:.2f}, {high:.2f}]")


def _references(result: TableResult, series: Series, xs: Sequence[float]) -> Iterator[Point]:
    numbers = result.table.numbers
    if numbers is None or result.profile_name not in numbers.profiles:
        return
    for x, cell_id in zip(xs, series.cells, strict=True):
        reference = None if cell_id is None else result.table.cell(cell_id).reference
        if reference is not None:
            yield Point(x, reference, note=f"{series.title}, {cell_id}: {reference:g} ({numbers.source})")
