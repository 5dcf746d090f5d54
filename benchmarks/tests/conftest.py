from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
from toy_checkout import RECIPE, TABLE, write_table

from sextet_bench.house import House


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A checkout at `tmp_path` with the table `toy/main`; its package is importable in subprocesses too."""
    site = tmp_path / "site"
    info = site / "toy_recipe-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "toy_recipe.py").write_text(RECIPE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_recipe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sextet.recipes]\ntoy = toy_recipe:RECIPE\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("SEXTET_ROOT", str(tmp_path))
    monkeypatch.setenv("SEXTET_DATA", str(tmp_path / "data"))
    sys.modules.pop("toy_recipe", None)
    importlib.invalidate_caches()
    write_table(tmp_path, TABLE)
    return House.of_checkout()
