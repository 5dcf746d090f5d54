from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_checkout import TABLE, write_table

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
