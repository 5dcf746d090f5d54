from __future__ import annotations

from dataclasses import replace

import pytest
from test_record import example
from toy_checkout import TABLE, write_table

from sextet_bench.check import compare
from sextet_bench.tables import read_table


@pytest.mark.parametrize(("shift", "ok"), [(0.0, True), (1.9, True), (-1.9, True), (2.1, False), (-2.1, False)])
def test_a_number_moved_when_it_left_its_interval(tmp_path, shift, ok):
    table = read_table(write_table(tmp_path, TABLE))
    before = example(tmp_path)
    now = replace(before, value=before.value + shift * before.standard_error)
    assert compare(before, now, table).ok is ok


def test_numbers_of_other_data_are_not_compared(tmp_path):
    table = read_table(write_table(tmp_path, TABLE))
    before = example(tmp_path)
    finding = compare(before, replace(before, value=99.0, data={"mnist": "other"}), table)
    assert finding.ok
    assert "not compared" in finding.text
