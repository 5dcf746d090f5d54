from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from toy_checkout import change, numbers, write_table

from sextet_bench.record import read_records
from sextet_bench.run import Reporter, attempt, plan_tasks, run_here
from sextet_bench.tables import TableError

SEXTET = [sys.executable, "-m", "sextet_bench.cli"]


def test_worked_example(toy):
    table = change(toy)
    to_do, done = plan_tasks(toy, table, "laptop")
    assert (len(to_do), len(done)) == (6, 0)
    assert [task.seed for task in to_do[:3]] == [1, 2, 3]
    outcomes = list(run_here(toy, to_do))
    assert {outcome.kind for outcome in outcomes} == {"done"}
    result = toy.results(table, "laptop")
    assert [cell.verdict.word for cell in result.cells] == ["reproduced", "below"]
    assert [claim.verdict.word for claim in result.claims] == ["holds"]


def test_what_was_run_is_not_run_again_until_something_changes(toy):
    list(run_here(toy, plan_tasks(toy, change(toy), "laptop")[0]))
    assert plan_tasks(toy, change(toy), "laptop")[0] == []
    to_do, done = plan_tasks(toy, change(toy, good={"offset": 3.5}), "laptop")
    assert ({task.cell_id for task in to_do}, len(done)) == ({"good/a"}, 3)


def test_a_failed_run_and_missing_data_do_not_stop_the_others(toy, capsys):
    table = change(toy, good={"needs": "pictures"}, bad={"fail": "out of luck"})
    to_do, _ = plan_tasks(toy, table, "laptop")
    reporter = Reporter(len(to_do))
    for outcome in run_here(toy, to_do):
        reporter.tell(outcome)
    assert (reporter.kinds, reporter.exit_code) == ({"data missing": 3, "failed": 3}, 1)
    shown = capsys.readouterr().err
    assert "pictures: put it there" in shown
    assert "RuntimeError: out of luck" in shown
    assert "out of luck" in (to_do[-1].folder(toy) / "error.log").read_text()


def test_only_names_parts_of_cells(toy):
    assert {task.cell_id for task in plan_tasks(toy, change(toy), "laptop", ("goo",))[0]} == {"good/a"}
    with pytest.raises(TableError, match="no cell 'gud/a'; did you mean good/a"):
        plan_tasks(toy, change(toy), "laptop", ("gud/a",))


def test_a_run_folder_of_another_config_is_refused(toy):
    table = change(toy, good={"steps": 2})
    task = plan_tasks(toy, table, "laptop")[0][0]
    task.folder(toy).mkdir(parents=True)
    (task.folder(toy) / "config.json").write_text(json.dumps({"x": 1}))
    assert "begun with another configuration" in attempt(toy, task).message


def test_killed_and_started_again_it_ends_with_the_same_numbers(toy):
    table = change(toy, good={"steps": 10}, bad={"steps": 10})
    list(run_here(toy, plan_tasks(toy, table, "laptop")[0]))
    expected = numbers(toy)
    apart = {**os.environ, "SEXTET_ROOT": str(toy.root / "again")}
    again = write_table(toy.root / "again", (toy.tables / "toy/main.yaml").read_text()).parents[3]
    for delay in (4.0, 5.5):
        process = subprocess.Popen([*SEXTET, "run", "toy"], env=apart, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(delay)
        process.kill()
        process.communicate()
    subprocess.run([*SEXTET, "run", "toy"], env=apart, check=True, capture_output=True)
    records = read_records(again / "runs/records", "toy/main", "laptop")
    assert {(record.cell, record.seed): record.scores for record in records} == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_so_and_leaves_with_its_code(toy, number, code):
    change(toy, good={"steps": 200})
    process = subprocess.Popen([*SEXTET, "run", "toy"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = toy.runs / "work/toy/main/laptop/good/a/seed-1/checkpoints"
    for _ in range(300):
        if log.exists() and any(log.iterdir()):
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "state saved in" in err
