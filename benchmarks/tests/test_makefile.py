from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from sextet_bench.house import House
from sextet_bench.record import read_records
from sextet_bench.tables import find_tables


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_reproduce_is_allowed_the_hours_that_the_laptop_tables_take():
    """Tables were added until `make reproduce` asked for more than the default budget and refused to start."""
    house = House.of_checkout()
    words = ["make", "--dry-run", "--assume-old=.venv/.ready", "reproduce"]
    shown = subprocess.run(words, cwd=house.root, capture_output=True, text=True, check=True).stdout
    (budget,) = re.findall(r"run all --profile laptop .*--budget-hours (\S+)", shown)
    records = [r for table in find_tables(house.tables) for r in read_records(house.published, table, "laptop")]
    hours = sum(record.wall_s for record in records) / 3600
    assert 0 < hours < float(budget)
