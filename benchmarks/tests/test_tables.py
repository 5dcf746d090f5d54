from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_checkout import TABLE, write_table

from sextet.recipe import configure
from sextet_bench.house import House, find_recipe
from sextet_bench.tables import TableError, find_tables, read_table, select_tables


def test_worked_example(tmp_path):
    table = read_table(write_table(tmp_path, TABLE))
    assert table.id == "toy/main"
    assert [cell.id for cell in table.cells] == ["good/a", "bad/a"]
    assert table.cell("good/a").reference == 3.0
    assert table.cell("good/a").config(table.profile("laptop")) == {"offset": 3.0}
    assert table.profile("laptop").seeds == (1, 2, 3)


def test_config_of_a_cell_is_profile_then_column_then_row(tmp_path):
    content = yaml.safe_load(TABLE)
    content["profiles"]["laptop"]["config"] = {"offset": 1.0, "spread": 1.0, "steps": 1}
    content["columns"][0]["config"] = {"offset": 2.0, "spread": 2.0}
    table = read_table(write_table(tmp_path, yaml.safe_dump(content)))
    assert table.cell("good/a").config(table.profile("laptop")) == {"offset": 3.0, "spread": 2.0, "steps": 1}


def test_skipped_cells_are_not_there(tmp_path):
    content = yaml.safe_load(TABLE)
    content["columns"].append({"id": "b", "title": "B"})
    content["rows"][0]["skip"] = ["b"]
    table = read_table(write_table(tmp_path, yaml.safe_dump(content)))
    assert [cell.id for cell in table.cells] == ["good/a", "bad/a", "bad/b"]


def test_a_number_as_a_title_is_read_as_text(tmp_path):
    table = read_table(write_table(tmp_path, TABLE.replace("title: A}", "title: 8}")))
    assert [column.title for column in table.columns] == ["8"]


def test_every_table_of_the_suite_is_whole():
    house = House.of_checkout()
    tables = [read_table(path) for path in find_tables(house.tables).values()]
    assert tables
    for (name, path), table in zip(find_tables(house.tables).items(), tables, strict=True):
        assert table.id == name, path
        for profile in table.profiles.values():
            recipe = find_recipe(profile.recipe)
            for cell in table.cells:
                configure(recipe.config, cell.config(profile))


@pytest.mark.parametrize(
    ("names", "wanted"),
    [((), 2), (("all",), 2), (("toy",), 2), (("toy/main",), 1), (("toy-main",), 1), (("toy/main", "toy"), 2)],
)
def test_selection(tmp_path, names, wanted):
    write_table(tmp_path, TABLE)
    write_table(tmp_path, TABLE.replace("name: main", "name: other"), "toy/other")
    assert len(select_tables(tmp_path / "benchmarks/tables", names)) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("wmt", {"toy/wmt-de", "toy/wmt-de-large", "toy/wmt-en"}),
        ("toy-wmt", {"toy/wmt-de", "toy/wmt-de-large", "toy/wmt-en"}),
        ("wmt-de", {"toy/wmt-de"}),
        ("toy/wmt-de", {"toy/wmt-de"}),
        ("wmt-de-large", {"toy/wmt-de-large"}),
        ("other", {"toy/other"}),
    ],
)
def test_a_table_alone_or_the_beginning_of_its_name(tmp_path, name, wanted):
    for table in ("wmt-de", "wmt-de-large", "wmt-en", "other", "wmtx"):
        write_table(tmp_path, TABLE.replace("name: main", f"name: {table}"), f"toy/{table}")
    assert {table.id for table in select_tables(tmp_path / "benchmarks/tables", (name,))} == wanted


@pytest.mark.parametrize("name", ["wm", "to", "toy-w", "toy/"])
def test_part_of_a_word_is_no_name(tmp_path, name):
    write_table(tmp_path, TABLE.replace("name: main", "name: wmt-de"), "toy/wmt-de")
    with pytest.raises(TableError, match="unknown table"):
        select_tables(tmp_path / "benchmarks/tables", (name,))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric: accuracy", "metrik: accuracy", "unknown key 'metrik'; did you mean metric"),
        ("title: A toy\n", "", "missing 1 required positional argument: 'title'"),
        ("left: good/a", "left: god/a", "no cell 'god/a'; did you mean good/a"),
        ("quick_cells: [good/a", "quick_cells: [goo/a", "no cell 'goo/a'"),
        ("id: bad,", "id: good,", "ids stand twice: good"),
        ("numbers: {a: 20.0}", "numbers: {c: 20.0}", "no such column: c"),
        ("  laptop:", "  labtop:", "unknown profile 'labtop'; did you mean laptop"),
        ("by: 1.0", "kind: equal", "kind is greater, or equal with by > 0"),
        ("rows:", "rows: 3\nxrows:", "rows: expected a list, got int"),
        ("paper: toy", "{", "cannot be read as YAML"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path, old, new, message):
    assert old in TABLE
    with pytest.raises(TableError, match=r"main\.yaml") as error:
        read_table(write_table(tmp_path, TABLE.replace(old, new)))
    assert message in str(error.value)


def test_unknown_names_suggest_the_nearest(tmp_path):
    write_table(tmp_path, TABLE)
    with pytest.raises(TableError, match="unknown table 'toy/man'; did you mean toy/main"):
        select_tables(tmp_path / "benchmarks/tables", ("toy/man",))
    table = read_table(tmp_path / "benchmarks/tables/toy/main.yaml")
    with pytest.raises(TableError, match="has no profile gpu; it has laptop"):
        table.profile("gpu")
    with pytest.raises(TableError, match="no installed package offers the recipe 'nothing'"):
        find_recipe("nothing")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(sorted(yaml.safe_load(TABLE))), value=PLAIN)
def test_only_table_errors_leave_the_reader(tmp_path_factory, key, value):
    content = {**yaml.safe_load(TABLE), key: value}
    path = tmp_path_factory.mktemp("fuzz") / "main.yaml"
    path.write_text(yaml.safe_dump(content))
    with contextlib.suppress(TableError):
        read_table(path)
