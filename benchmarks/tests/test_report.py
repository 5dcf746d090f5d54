from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import yaml
from toy_checkout import TABLE, write_table

from sextet_bench.cost import cost_charts, row_seconds
from sextet_bench.curves import MOST_POINTS, stage_charts, table_charts
from sextet_bench.overview import hours_left, hours_text, summary
from sextet_bench.report import all_results, markdown, write_report
from sextet_bench.run import plan_tasks, run_here
from sextet_bench.sections import section
from sextet_bench.speed_report import SpeedError, amount, read_speeds
from sextet_bench.tables import read_table

VOID = {"meta", "img", "br", "link", "input"}
SPEED = {
    "environment": {"processor": "a chip", "threads": 1, "torch": "2.15"},
    "results": [
        {
            "name": "ours / theirs",
            "setting": "small",
            "mode": "forward",
            "ours_ms": 2.0,
            "theirs_ms": 3000.0,
            "ratio": {"median": 3.0, "low": 2.5, "high": 3.5},
            "target": 5.0,
            "verdict": "NOT MET (>= 5x)",
        },
        {"name": "size", "ours": 74.6, "theirs": None, "unit": "kB", "ratio": None, "least": None, "verdict": "met"},
    ],
}


class Outline(HTMLParser):
    """Collects cells and visible text, and insists that every tag is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.text, self.sources = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


@pytest.fixture
def result(toy):
    content = yaml.safe_load(TABLE)
    content["profiles"]["laptop"]["config"] = {"steps": 4}
    content["profiles"]["paper"] = {"recipe": "toy", "seeds": [1], "seconds": 7200, "gpus": 1, "needs": "a machine"}
    table = read_table(write_table(toy.root, yaml.safe_dump(content)))
    list(run_here(toy, plan_tasks(toy, table, "laptop")[0]))
    speeds = toy.root / "benchmarks/speed/results"
    speeds.mkdir(parents=True)
    (speeds / "toy.json").write_text(json.dumps(SPEED))
    return toy.results(table, "laptop")


def test_markdown_shows_numbers_references_verdicts_and_claims(result):
    text = markdown([section(result)])
    (number,) = [line for line in text.splitlines() if line.startswith("| Good |")]
    assert "(3)<br>" in number
    (claim,) = [line for line in text.splitlines() if line.startswith("| good over bad |")]
    assert "| it is better | > 1 points | +3.00 [+3.00, +3.00] |" in claim
    assert claim.endswith("| holds |")
    assert "Reference numbers (paper): nowhere. Margin ±2 points: it is a toy." in text
    assert "6 runs" in text


def test_the_page_is_whole_needs_no_network_and_reads_without_scripts(toy, result, tmp_path):
    write_report(tmp_path / "report", [result], toy)
    page = (tmp_path / "report/report.html").read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert all(source.startswith(("data:", "#")) for source in outline.sources)
    assert "://" not in page
    assert any("sextet explain toy/main/good/a" in cell and "seed 1: " in cell for cell in outline.cells)
    assert any("+3.00 [+3.00, +3.00]" in cell for cell in outline.cells)
    shown = "".join(outline.text)
    assert "1 of 1 measured claims hold, 0 do not, 0 are not settled." in shown
    assert "3.00 [2.50, 3.50]" in shown
    for name in ("claims", "cost", "speed"):
        assert (tmp_path / f"report/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_every_table_whatever_was_asked_for(toy, result, tmp_path):
    write_report(tmp_path / "report", [], toy)
    page = (tmp_path / "report/report.html").read_text()
    assert 'id="toy-main-laptop"' in page
    assert 'id="toy-main-paper"' in page
    assert "not run; about 4 h on 1 GPU; needs a machine" in page
    assert (tmp_path / "report/report.md").read_text() == "# Report\n"
    assert all_results(toy, [result])[0] is result


def test_every_anchor_leads_somewhere_and_stands_once(toy, result, tmp_path):
    write_report(tmp_path / "report", [result], toy)

    class Ids(HTMLParser):
        ids: list = []  # noqa: RUF012
        targets: list = []  # noqa: RUF012

        def handle_starttag(self, tag, attributes):
            found = dict(attributes)
            self.ids += [found["id"]] if "id" in found else []
            self.targets += [found["href"][1:]] if found.get("href", "").startswith("#") else []
            self.targets += found.get("aria-labelledby", "").split()

    parser = Ids()
    parser.feed((tmp_path / "report/report.html").read_text())
    assert len(parser.ids) == len(set(parser.ids))
    assert set(parser.targets) <= set(parser.ids)


def test_the_page_is_valid_html(toy, result, tmp_path):
    html5lib = pytest.importorskip("html5lib", reason="the HTML check needs html5lib (uv sync --group report)")
    write_report(tmp_path / "report", [result], toy)
    html5lib.HTMLParser(strict=True).parse((tmp_path / "report/report.html").read_text())


def test_a_table_without_runs_says_so_and_has_no_picture(toy, tmp_path):
    table = read_table(toy.tables / "toy/main.yaml")
    write_report(tmp_path / "report", [toy.results(table, "laptop")])
    assert "– (3)<br>not run" in (tmp_path / "report/report.md").read_text()
    assert not (tmp_path / "report/claims.png").exists()


def test_text_from_table_files_cannot_become_markup(toy, tmp_path):
    table = read_table(write_table(toy.root, TABLE.replace("title: A toy", "title: <script>alert(1)</script>")))
    write_report(tmp_path / "report", [toy.results(table, "laptop")])
    page = (tmp_path / "report/report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_summary_counts_and_prices_what_is_left(toy, result):
    paper = toy.results(result.table, "paper")
    assert summary([result, paper]) == (
        "1 of 1 measured claims hold, 0 do not, 0 are not settled. 2 of 4 numbers were measured in 1 tables. "
        "The rest would take about 4 h of one GPU."
    )
    assert hours_left(result) == 0
    assert hours_left(paper) == 4
    assert [hours_text(hours) for hours in (0.001, 0.5, 2.34, 1234)] == ["1 min", "30 min", "2.3 h", "1,234 h"]


def test_training_curves_are_means_over_seeds_one_for_each_row(toy, result):
    (chart,) = table_charts(toy.runs, result.table, "laptop")
    assert (chart.title, chart.x_title, chart.y_title) == ("A: loss", "step", "loss")
    assert [curve.title for curve in chart.curves] == ["Good (3 runs)", "Bad (3 runs)"]
    for curve in chart.curves:
        assert [point.x for point in curve.points] == list(range(4))
        assert curve.points[-1].y < curve.points[0].y


def test_long_logs_are_thinned_to_their_means_and_many_curves_are_parted(toy):
    for number in range(20):
        folder = toy.runs / f"stages/pretrain-{number}"
        (folder / "loop").mkdir(parents=True)
        config = {"seed": number % 2, "model": {"width": number // 2, "depth": 3}}
        (folder / "complete.json").write_text(json.dumps({"config": config}))
        lines = [json.dumps({"step": step, "loss": float(step % 2)}) for step in range(1200)]
        (folder / "loop/log.jsonl").write_text("\n".join(lines))
    charts = stage_charts(toy.runs)["pretrain"]
    assert [len(chart.curves) for chart in charts] == [8, 2]
    assert charts[0].title == "loop, loss"
    assert [curve.title for curve in charts[0].curves][:2] == ["model.width 0 (2 runs)", "model.width 1 (2 runs)"]
    points = charts[0].curves[0].points
    assert len(points) == MOST_POINTS
    assert all(point.y == 0.5 for point in points)


def test_a_row_costs_its_longest_run_in_the_median_over_seeds(result):
    own = {("good", 1): 7.0, ("good", 2): 0.5, ("good", 3): 1.0, ("bad", 1): 1.0, ("bad", 2): 1.0, ("bad", 3): 1.0}
    stages = {"good": {"backbone": 50.0, "tuned": 2.0}, "bad": {"backbone": 50.0}}

    def timed(record, row):
        return replace(record, own_s=own[row, record.seed], stages=stages[row])

    cells = tuple(
        replace(item, records=tuple(timed(record, item.cell.row.id) for record in item.records))
        for item in result.cells
    )
    changed = replace(result, cells=cells)
    assert row_seconds(changed) == {"good": 3.0, "bad": 1.0}
    (chart,) = cost_charts([changed])
    assert [[point.x for point in curve.points] for curve in chart.curves] == [[3.0], [1.0]]


def test_speed_records_are_read_whatever_their_fields_are_called(toy, result):
    fast, size = read_speeds(toy.root / "benchmarks/speed/results")
    assert (fast.method, fast.setting, fast.ratio, fast.word) == (
        "toy", "small, forward", (2.5, 3.0, 3.5), "does not hold",
    )  # fmt: skip
    assert (size.ours, size.unit, size.ratio, size.word) == (74.6, "kB", None, "holds")
    assert [amount(value) for value in (0.01234, 12.34, 3467.9)] == ["0.0123", "12.3", "3,468"]


def test_every_speed_record_of_the_suite_is_read():
    from sextet_bench.house import House

    folder = House.of_checkout().root / "benchmarks/speed/results"
    assert {item.method for item in read_speeds(folder)} == {path.stem for path in folder.glob("*.json")}


@pytest.mark.parametrize("content", ["[]", "{}", '{"environment": {}, "results": [{}]}', "{"])
def test_other_files_are_no_speed_records(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SpeedError, match=r"x\.json: expected a result of benchmarks/speed"):
        read_speeds(tmp_path)
