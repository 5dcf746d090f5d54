"""What accuracy costs: the measured means of a table against the time that its rows take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from sextet_bench.charts import Chart, Curve, Point
from sextet_bench.markup import anchor
from sextet_bench.record import Record
from sextet_bench.verdict import CellResult, TableResult

RowKey = tuple[str, str, str]  # paper, profile, row


def cost_charts(results: Sequence[TableResult]) -> list[Chart]:
    """A chart for each table in which two rows or more were measured."""
    costs = row_seconds(results)
    charts = [cost_chart(result, costs) for result in results]
    return [chart for chart in charts if len(chart.curves) > 1]


def row_seconds(results: Sequence[TableResult]) -> dict[RowKey, float]:
    """What each row of a paper takes: the longest of its cells' runs, over all tables, median over seeds.

    A run that finds a network trained by another run of its row does not pay for it, so the longest counts. What all
    seeds share (a pre-trained backbone) is paid by one seed alone, so the median leaves it out. What rows share is not
    told apart: it stands with the row that was run first.
    """
    costs: dict[RowKey, float] = {}
    for result in results:
        for item in result.cells:
            if item.records:
                key = result.table.paper, result.profile_name, item.cell.row.id
                spent = max(median(seconds(record) for record in item.records), 1e-3)
                costs[key] = max(costs.get(key, 0.0), spent)
    return costs


def cost_chart(result: TableResult, costs: Mapping[RowKey, float]) -> Chart:
    """A point a cell: what its row takes, and the mean with its 95% interval; a colour a row."""
    table, curves = result.table, []
    for row in table.rows:
        cells = [item for item in result.cells if item.cell.row.id == row.id and item.verdict.estimate is not None]
        if cells:
            cost = costs[table.paper, result.profile_name, row.id]
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


def seconds(record: Record) -> float:
    """Seconds on the device, or of the wall clock where no device was used."""
    return record.device_s or record.wall_s


def _point(item: CellResult, cost: float) -> Point:
    found = item.verdict.estimate
    assert found is not None
    low, high = found.interval()
    return Point(cost, found.mean, low, high, f"{item.cell.id}: {found.mean:.2f} in {cost:.3g} s")


def _device(records: Sequence[Record]) -> str:
    names = sorted({record.device for record in records})
    return names[0] if len(names) == 1 else "several devices"
