from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml
from toy_checkout import TABLE, write_table

from sextet.training import Training
from sextet_bench.probe import WARM_UP, fast_forward, measure, measure_rows
from sextet_bench.record import read_records
from sextet_bench.run import plan_tasks
from sextet_bench.tables import read_table


def toy_tasks(toy, **config):
    content = yaml.safe_load(TABLE)
    content["rows"][0]["config"] |= config
    table = read_table(write_table(toy.root, yaml.safe_dump(content)))
    return table, plan_tasks(toy, table, "laptop")[0]


def test_a_run_is_worked_out_from_a_few_of_its_steps(toy):
    _, tasks = toy_tasks(toy, steps=400)  # a step of the toy sleeps 0.05 s
    cost = measure(toy, tasks[0], steps=4)
    assert 400 * 0.05 <= cost.own < 400 * 0.05 * 3
    assert cost.shared == 0
    assert read_records(toy.records, "toy/main", "laptop") == []
    assert not (toy.runs / "probe").exists()


def test_loops_are_cut_short_told_and_left_as_if_done(tmp_path):
    parameter = torch.nn.Parameter(torch.zeros(()))
    seen, found = [], []
    with (
        fast_forward(3, found.append),
        Training(tmp_path, steps=1000, state={"m": torch.nn.ParameterList([parameter])}) as training,
    ):
        seen += list(training)
    assert seen == list(range(WARM_UP + 3))
    assert (found[0].directory, found[0].steps) == (tmp_path, 1000)
    with Training(tmp_path, steps=1000, state={"m": torch.nn.ParameterList([parameter])}) as training:
        assert list(training) == []


@pytest.mark.parametrize("steps", [0, 1, WARM_UP])
def test_loops_shorter_than_the_measurement(tmp_path, steps):
    found, state = [], {"m": torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(()))])}
    with fast_forward(5, found.append), Training(tmp_path, steps=steps, state=state) as training:
        assert list(training) == list(range(steps))
    assert found[0].steps == steps
    assert found[0].seconds >= 0


def test_rows_that_cannot_run_are_told_and_left_out(toy, capsys):
    table, _ = toy_tasks(toy, fail="no luck")
    assert set(measure_rows(toy, table, "laptop", (), steps=1)) == {"bad/a"}
    assert "toy/main good/a seed 1: not measured (RuntimeError: no luck)" in capsys.readouterr().err


def test_an_only_names_the_cells(toy):
    table, _ = toy_tasks(toy)
    assert set(measure_rows(replace(toy), table, "laptop", ("good",), steps=1)) == {"good/a"}
