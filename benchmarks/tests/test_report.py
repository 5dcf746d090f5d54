from __future__ import annotations

from html.parser import HTMLParser

import pytest
from toy_checkout import TABLE, write_table

from sextet_bench.report import markdown, write_report
from sextet_bench.run import plan_tasks, run_here
from sextet_bench.sections import section
from sextet_bench.tables import read_table

VOID = {"meta", "img", "br", "link", "input"}


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

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


@pytest.fixture
def result(toy):
    table = read_table(toy.tables / "toy/main.yaml")
    list(run_here(toy, plan_tasks(toy, table, "laptop")[0]))
    return toy.results(table, "laptop")


def test_markdown_shows_numbers_references_verdicts_and_claims(result):
    text = markdown([section(result)])
    (number,) = [line for line in text.splitlines() if line.startswith("| Good |")]
    assert "(3)<br>reproduced" in number
    (claim,) = [line for line in text.splitlines() if line.startswith("| good over bad |")]
    assert "| it is better | > 1 points | +3.00 [+3.00, +3.00] |" in claim
    assert claim.endswith("| holds |")
    assert "Reference numbers (paper): nowhere. Margin ±2 points: it is a toy." in text
    assert "6 runs" in text


def test_the_page_is_whole_needs_no_network_and_reads_without_scripts(result, tmp_path):
    write_report(tmp_path / "report", [result])
    page = (tmp_path / "report/report.html").read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert all(source.startswith("data:") for source in outline.sources)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert any(cell.startswith("3.") and "reproduced" in cell and "seed 1" in cell for cell in outline.cells)
    assert any("+3.00 [+3.00, +3.00]" in cell for cell in outline.cells)
    assert (tmp_path / "report/claims.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_without_runs_says_so_and_has_no_picture(toy, tmp_path):
    table = read_table(toy.tables / "toy/main.yaml")
    write_report(tmp_path / "report", [toy.results(table, "laptop")])
    assert "not run" in (tmp_path / "report/report.md").read_text()
    assert not (tmp_path / "report/claims.png").exists()


def test_text_from_table_files_cannot_become_markup(toy, tmp_path):
    table = read_table(write_table(toy.root, TABLE.replace("title: A toy", "title: <script>alert(1)</script>")))
    write_report(tmp_path / "report", [toy.results(table, "laptop")])
    page = (tmp_path / "report/report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
