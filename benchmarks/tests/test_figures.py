from __future__ import annotations

import contextlib
import math
import xml.etree.ElementTree as ET

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_checkout import TABLE, write_table

from sextet_bench.charts import Chart, Curve, Point, Scale, bounds, log_ticks, ticks
from sextet_bench.figures import figure_charts
from sextet_bench.readme import pictures
from sextet_bench.run import plan_tasks, run_here
from sextet_bench.svg import chart_figure, chart_svg
from sextet_bench.tables import TableError, read_table

FIGURE = {
    "id": "spread",
    "title": "Good and bad",
    "x_title": "offset",
    "x": [1, 10],
    "log_x": True,
    "series": [{"title": "both", "cells": ["good/a", "bad/a"]}, {"title": "one", "cells": ["bad/a", None]}],
}


def with_figure(**changes) -> str:
    return yaml.safe_dump({**yaml.safe_load(TABLE), "figures": [{**FIGURE, **changes}]})


def test_a_figure_is_read(tmp_path):
    (figure,) = read_table(write_table(tmp_path, with_figure())).figures
    assert (figure.id, figure.x, figure.log_x) == ("spread", (1, 10), True)
    assert [series.cells for series in figure.series] == [("good/a", "bad/a"), ("bad/a", None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "../up"}, "an id is small letters"),
        ({"x": [1]}, "two or more numbers, or two or more words"),
        ({"x": [1, "two"]}, "two or more numbers, or two or more words"),
        ({"x": [10, 1]}, "expected increasing numbers"),
        ({"x": [0, 1]}, "expected positive numbers"),
        ({"x": ["a", "b"]}, "expected positive numbers"),
        ({"series": []}, "expected at least one"),
        ({"series": [{"title": "t", "cells": ["good/a"]}]}, "t: expected a cell (or null) for each of 2 x"),
        ({"series": [{"title": "t", "cells": ["good/a", "bed/a"]}]}, "no cell 'bed/a'; did you mean bad/a"),
        ({"series": [{"titel": "t", "cells": []}]}, "unknown key 'titel'; did you mean title"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_bad_figures_are_refused_with_the_place(tmp_path, changes, message):
    with pytest.raises(TableError, match=r"main\.yaml: figures") as error:
        read_table(write_table(tmp_path, with_figure(**changes)))
    assert message in str(error.value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(sorted(FIGURE)), value=PLAIN)
def test_only_table_errors_leave_the_reader(tmp_path_factory, key, value):
    path = tmp_path_factory.mktemp("fuzz") / "main.yaml"
    path.write_text(with_figure(**{key: value}))
    with contextlib.suppress(TableError):
        read_table(path)


@pytest.fixture
def result(toy):
    table = read_table(write_table(toy.root, with_figure()))
    list(run_here(toy, plan_tasks(toy, table, "laptop")[0]))
    return toy.results(table, "laptop")


def test_a_chart_has_measured_means_with_intervals_and_dashed_references(result):
    (chart,) = figure_charts(result)
    assert (chart.id, chart.y_title, chart.x_ticks) == ("toy-main-laptop-spread", "accuracy (points)", (1.0, 10.0))
    assert [curve.title for curve in chart.curves] == ["both", "both, paper", "one", "one, paper"]
    both, paper, one, _ = chart.curves
    good = result.cell("good/a").verdict.estimate
    assert both.points[0].y == good.mean
    assert (both.points[0].low, both.points[0].high) == good.interval()
    assert [(point.x, point.y, point.low) for point in paper.points] == [(1.0, 3.0, None), (10.0, 20.0, None)]
    assert [point.x for point in one.points] == [1.0]
    assert [curve.dashed for curve in chart.curves] == [False, True, False, True]


def test_words_stand_at_whole_numbers(toy, result):
    table = read_table(write_table(toy.root, with_figure(x=["few", "many"], log_x=False)))
    (chart,) = figure_charts(toy.results(table, "laptop"))
    assert chart.x_words == ("few", "many")
    assert [point.x for point in chart.curves[0].points] == [0.0, 1.0]
    assert chart_svg(chart).count(">many<") == 1


def test_nothing_is_drawn_before_anything_was_measured(toy):
    table = read_table(write_table(toy.root, with_figure()))
    assert figure_charts(toy.results(table, "laptop")) == []


def test_pictures_are_named_by_paper_table_and_figure(result):
    drawn = {str(path): picture for path, picture in pictures([result, result])}
    names = ("toy-claims", "toy-main-spread", "toy-main-spread-laptop", "toy-cost")
    assert set(drawn) == {"claims.png", *(f"figures/{name}.png" for name in names)}
    assert all(picture.startswith(b"\x89PNG") for picture in drawn.values())


def test_the_svg_is_well_formed_and_says_what_it_shows(result):
    (chart,) = figure_charts(result)
    drawing = ET.fromstring(chart_svg(chart))
    assert drawing.find("title").text == "Good and bad"
    assert drawing.get("aria-labelledby") == f"{chart.id}-t {chart.id}-d"
    assert "both, paper: 3 at 1, 20 at 10" in drawing.find("desc").text
    assert len([mark for mark in drawing.iter("path") if mark.get("class") == "mark"]) == 6
    figure = ET.fromstring(chart_figure(chart))
    assert figure.find("figcaption").text == "Good and bad"
    assert ["".join(item.itertext()) for item in figure.iter("li")] == [curve.title for curve in chart.curves]


def test_titles_cannot_become_markup():
    chart = Chart("a", "<b>", "x<", "y&", (Curve("<i>", (Point(0, 1, note="<u>"),), 0),))
    assert "".join(ET.fromstring(chart_figure(chart)).itertext()).count("<") == 7


@settings(deadline=None)
@given(
    low=st.floats(-1e6, 1e6),
    span=st.floats(1e-3, 1e6),
    log=st.booleans(),
)
def test_ticks_are_few_within_and_increasing(low, span, log):
    low = abs(low) + 1e-3 if log else low
    found = (log_ticks if log else ticks)(low, low + span)
    assert len(found) <= 10
    assert found == sorted(set(found))
    slack = 1e-6 * (span + abs(low)) if not log else 0.002 * (low + span)
    assert all(low - slack <= value <= low + span + slack for value in found)


def test_ticks_worked_example():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(49.2, 83.1) == [50, 60, 70, 80]
    assert log_ticks(0.1, 1) == [0.1, 0.2, 0.5, 1]
    assert log_ticks(1, 1e6) == [1, 10, 100, 1e3, 1e4, 1e5, 1e6]


def test_scales_put_ends_on_ends_and_ratios_apart():
    assert Scale((0, 10), (100, 0))(5) == 50
    middle = Scale((1, 100), (0, 200), log=True)(10)
    assert math.isclose(middle, 100)
    assert bounds([3.0, 3.0]) == (1.5, 4.5)
    assert bounds([]) == (0.0, 1.0)
