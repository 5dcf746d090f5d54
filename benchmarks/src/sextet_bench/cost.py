"""What accuracy costs: the measured means of a table against the time that its rows take."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from sextet_bench.charts import Chart, Curve, Point
from sextet_bench.markup import anchor
from sextet_bench.record import Record
from sextet_bench.verdict import CellResult, TableResult


def cost_charts(results: Sequence[TableResult]) -> list[Chart]:
    """A chart for each table in which two rows or more were measured."""
    charts = map(cost_chart, results)
    return [chart for chart in charts if len(chart.curves) > 1]


def row_seconds(result: TableResult) -> dict[str, float]:
    """What each row takes: the longest of its cells' runs, median over seeds.

    A run takes its own seconds and those of the stages it stands on, whichever run built them; a stage that every row
    of the table stands on (a pre-trained backbone) is left out.
    """
    users: dict[str, set[str]] = {}
    for item in result.cells:
        for record in item.records:
            for stage in record.stages:
                users.setdefault(stage, set()).add(item.cell.row.id)
    rows = {item.cell.row.id for item in result.cells if item.records}
    costs: dict[str, float] = {}
    for item in result.cells:
        if item.records:
            spent = median(
                record.own_s + sum(took for stage, took in record.stages.items() if users[stage] != rows)
                for record in item.records
            )
            costs[item.cell.row.id] = max(costs.get(item.cell.row.id, 1e-3), spent)
    return costs


def cost_chart(result: TableResult) -> Chart:
    """A point a cell: what its row takes, and the mean with its 95% interval; a colour a row."""
    table, costs, curves = result.table, row_seconds(result), []
    for row in table.rows:
        cells = [item for item in result.cells if item.cell.row.id == row.id and item.verdict.estimate is not None]
        if cells:
            cost = costs[row.id]
            points = tuple(_point(item, cost) for item in cells)
            curves.append(Curve(row.title, points, len(curves), joined=False))
    return Chart(
        id=f"cost-{anchor(table.id, result.profile_name)}",
        title=f"{table.id}, {result.profile_name}",
        x_title=f"seconds on {_device(result.records)}",
        y_title=f"{table.metric} ({table.unit})",
        curves=tuple(curves),
        log_x=True,
    )


def _point(item: CellResult, cost: float) -> Point:
    found = item.verdict.estimate
    assert found is not None
    low, high = found.interval()
    return Point(cost, found.mean, low, high, f"{item.cell.id}: {found.mean:.2f} in {cost:.3g} s")


def _device(records: Sequence[Record]) -> str:
    names = sorted({record.device for record in records})
    return names[0] if len(names) == 1 else "several devices"
