from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from toy_checkout import TABLE, write_table

from sextet.data import DIGITS, Passport
from sextet_bench import plan as module
from sextet_bench.plan import describe, describe_all, plan, speed_factor
from sextet_bench.probe import Cost
from sextet_bench.run import execute, plan_tasks
from sextet_bench.tables import TableError, read_table

DEVICES = "v100: 1.0\nh100: 4.0\n"


def planned(toy, *, on="", costs=None, **profile):
    """The plan of the toy table with other settings in its profile."""
    content = yaml.safe_load(TABLE)
    content["profiles"]["laptop"] |= profile
    (toy.tables.parent / "devices.yaml").write_text(DEVICES)
    return plan(toy, read_table(write_table(toy.root, yaml.safe_dump(content))), "laptop", on=on, costs=costs)


def test_worked_example(toy):
    made = planned(toy, seconds=600, gpus=2, seconds_on="v100", memory_gb=20, disk_gb=3, needs="patience")
    assert made.hours == pytest.approx(6 * 600 / 3600)
    assert made.gpu_hours == pytest.approx(2.0)
    shown = describe(made)
    for part in ("6 runs to do, 0 done", "about 1.0 h", "for v100", "memory a run: 20 GB", "disk: 3 GB", "patience"):
        assert part in shown


def test_hours_are_scaled_to_another_device(toy):
    made = planned(toy, on="h100", seconds=600, gpus=1, seconds_on="v100")
    assert made.gpu_hours == pytest.approx(6 * 600 / 3600 / 4)
    assert "scaled to h100" in describe(made)
    assert planned(toy, on="h100", seconds=600, gpus=1).gpu_hours == pytest.approx(1.0)  # nobody said on what


def test_devices_are_known_or_named(toy):
    with pytest.raises(TableError, match="no device 'h10'; did you mean h100"):
        planned(toy, on="h10", seconds_on="v100")
    path = Path(module.__file__).parents[2] / "devices.yaml"
    assert speed_factor(path, "v100", "h100") * speed_factor(path, "h100", "v100") == pytest.approx(1.0)


def test_what_was_measured_goes_before_what_was_declared(toy):
    table = read_table(toy.tables / "toy/main.yaml")
    (first, *_), _ = plan_tasks(toy, table, "laptop")
    record = execute(toy, first)
    made = planned(toy, seconds=600)
    assert len(made.tasks) == 5
    assert made.hours == pytest.approx((2 * record.wall_s + 3 * 600) / 3600)
    assert made.basis.startswith("as the table file expects")


def test_costs_of_some_cells_stand_for_the_others(toy):
    made = planned(toy, costs={"good/a": Cost(own=10.0, shared=7.0)})
    assert made.hours * 3600 == pytest.approx(6 * 10 + 3 * 7)


def test_several_plans_are_summed_and_missing_data_told_once(toy, monkeypatch):
    missing = replace(DIGITS, name="pictures", homepage="https://example.org", sources=(), licence="CC0", size="1 TB")
    made = planned(toy, seconds=600, disk_gb=3)
    both = [replace(made, data=_states(missing)), replace(made, data=_states(missing, DIGITS))]
    shown = describe_all(both).splitlines()
    assert shown[0] == "2 tables, 12 runs to do: 2.0 h on CPUs, 0 min on GPUs"
    assert shown[1] == "disk, datasets apart: 6 GB"
    assert [line for line in shown if "pictures" in line] == [
        "missing pictures: 1 TB, CC0; by hand: https://example.org; for toy/main, toy/main"
    ]
    assert "fetched when it is run; for toy/main" in shown[2]


def _states(*passports: Passport):
    return tuple((passport, "absent") for passport in passports)
