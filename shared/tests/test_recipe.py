from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from sextet import cuda
from sextet.recipe import RunContext, Scores, configure, fingerprint, module_closure, plain, suggestion


@dataclass(frozen=True)
class Inner:
    steps: int = 10
    decay: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Config:
    rate: float = 0.1
    name: str = "x"
    inner: Inner = field(default_factory=Inner)
    free: str | None = None


def context(tmp_path, seed=0, **options):
    return RunContext(directory=tmp_path / "run", stages=tmp_path / "stages", seed=seed, **options)


def test_scores_are_what_numpy_says():
    values = np.random.default_rng(0).normal(size=50)
    scores = Scores(tuple(values))
    assert scores.mean == pytest.approx(values.mean())
    assert scores.standard_error == pytest.approx(values.std(ddof=1) / 50**0.5)
    assert Scores((1.0,)).standard_error == 0.0


def test_configs_take_what_fits():
    config = configure(Config, {"rate": 1, "inner": {"decay": [[3, 0.5]]}, "free": "y"})
    assert config == Config(rate=1.0, inner=Inner(decay=((3, 0.5),)), free="y")
    assert type(config.rate) is float
    assert configure(config, {"name": "z"}) == Config(rate=1.0, name="z", inner=config.inner, free="y")
    assert configure(Config, {"inner": Inner(steps=3)}).inner.steps == 3
    assert configure(Config, {}) == Config()
    assert plain(config) == {"rate": 1.0, "name": "x", "inner": {"steps": 10, "decay": [[3, 0.5]]}, "free": "y"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratte": 1.0}, "Config has no field 'ratte'; did you mean rate"),
        ({"inner": {"step": 1}}, "Inner has no field 'step'; did you mean steps"),
        ({"rate": "fast"}, "Config.rate: expected float like 0.1, got 'fast'"),
        ({"inner": 3}, "Config.inner: expected Inner like"),
        ({"inner": {"steps": True}}, "Inner.steps: expected int like 10, got True"),
        ({"inner": {"steps": 3.0}}, "Inner.steps: expected int like 10, got 3.0"),
        ({"inner": {"decay": 3}}, r"Inner.decay: expected tuple like \(\), got 3"),
        ({"rate": True}, "Config.rate: expected float like 0.1, got True"),
        ({"rate": None}, "Config.rate: expected float like 0.1, got None"),
        ({"zzz": 1}, "Config has no field 'zzz'; known: free, inner, name, rate"),
    ],
)
def test_configs_refuse_the_rest(values, message):
    with pytest.raises(ValueError, match=message):
        configure(Config, values)


def test_fingerprints_do_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_stage_is_built_once_for_each_config_and_kind_of_device(tmp_path, monkeypatch):
    built = []

    def build(folder):
        built.append(folder)
        (folder / "result").write_text("x")

    one = context(tmp_path).stage("net", {"seed": 1}, build)
    assert context(tmp_path, seed=5).stage("net", {"seed": 1}, build) == one
    others = {
        context(tmp_path).stage("net", {"seed": 2}, build),
        context(tmp_path).stage("head", {"seed": 1}, build),
    }
    assert context(tmp_path, device="cpu").stage("net", {"seed": 1}, build) == one
    monkeypatch.setattr(cuda, "select_device", lambda _: torch.device("cuda"))
    others.add(context(tmp_path).stage("net", {"seed": 1}, build))
    assert len({one, *others}) == len(built) == 4
    assert (one / "result").read_text() == "x"


def test_a_stage_that_broke_off_is_called_again_with_its_folder(tmp_path):
    def broken(folder):
        (folder / "half").write_text("done")
        raise RuntimeError("power cut")

    def build(folder):
        calls.append((folder / "half").exists())
        if len(calls) == 1:
            broken(folder)

    calls = []
    with pytest.raises(RuntimeError, match="power cut"):
        context(tmp_path).stage("net", {}, build)
    context(tmp_path).stage("net", {}, build)
    context(tmp_path).stage("net", {}, build)
    assert calls == [False, True]


def test_what_stages_cost_is_told_to_every_run_that_stands_on_them(tmp_path):
    def inner(folder):
        time.sleep(0.06)

    def outer(folder):
        ran.stage("inner", {}, inner)
        time.sleep(0.03)

    first, second = context(tmp_path), context(tmp_path)
    for ran in (first, second):
        ran.stage("outer", {}, outer)
        ran.stage("outer", {}, outer)
    costs = {name.partition("-")[0]: cost for name, cost in first.ledger.costs.items()}
    assert 0.06 <= costs["inner"] < 0.5
    assert 0.03 <= costs["outer"] < 0.5
    assert second.ledger.costs == first.ledger.costs
    assert first.ledger.inside_s >= sum(costs.values())


def test_a_stage_that_fails_leaves_the_ledger_as_it_was(tmp_path):
    def broken(folder):
        raise RuntimeError("power cut")

    ran = context(tmp_path)
    kept = ran.stage("kept", {}, lambda _: None)
    before = dict(ran.ledger.costs)
    with pytest.raises(RuntimeError, match="power cut"):
        ran.stage("net", {}, broken)
    assert ran.ledger.costs == before == {kept.name: pytest.approx(0, abs=0.1)}


def test_changed_code_is_another_stage(tmp_path, package):
    module = importlib.import_module("toy_closure.loop")
    one = context(tmp_path).stage("net", {}, module.build)
    assert context(tmp_path).stage("net", {}, functools.partial(module.build)) == one
    other = context(tmp_path).stage("net", {}, module.build, uses=["toy_closure.unused"])
    (package / "maths.py").write_text("x = 2")
    changed = context(tmp_path).stage("net", {}, module.build)
    assert len({one, other, changed}) == 3
    assert set(json.loads((one / "complete.json").read_text())["code"]) == {
        "toy_closure.extra.late", "toy_closure.loop", "toy_closure.maths"
    }  # fmt: skip


def test_a_build_with_bound_arguments_is_called_with_them(tmp_path):
    def build(number, folder, *, name):
        (folder / name).write_text(str(number))

    folder = context(tmp_path).stage("net", {}, functools.partial(functools.partial(build, 3), name="x"))
    assert (folder / "x").read_text() == "3"


def test_a_killed_build_goes_on_and_its_leftovers_are_gone(tmp_path):
    def build(folder):
        if (folder / "half").exists():
            assert not list(folder.glob(".tmp-*"))
            return
        (folder / "half").touch()
        (folder / f".tmp-{os.getpid()}-x").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        context(tmp_path).stage("net", {}, build)
    folder = context(tmp_path).stage("net", {}, build)
    assert sorted(path.name for path in folder.iterdir()) == ["complete.json", "half"]


TWO_PROCESSES = """
import sys, time
sys.path.insert(0, str(folder))
import toy_stage
from sextet.recipe import RunContext
RunContext(directory=folder, stages=folder / "stages", seed=0).stage("net", {}, toy_stage.build)
"""


def test_two_processes_build_one_stage(tmp_path, fork):
    (tmp_path / "toy_stage.py").write_text(
        "import os, time\ndef build(folder):\n    (folder / str(os.getpid())).touch()\n    time.sleep(0.3)\n"
    )
    processes = [fork(TWO_PROCESSES, {"folder": tmp_path}) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (folder,) = (tmp_path / "stages").glob("net-*")
    assert len([path for path in folder.iterdir() if path.name != "complete.json"]) == 1


def test_two_at_once_build_one_stage(tmp_path):
    built = []

    def build(folder):
        built.append(folder)
        time.sleep(0.3)

    threads = [threading.Thread(target=context(tmp_path).stage, args=("net", {}, build)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on the path whose `loop` imports `maths` at the top and `extra.late` inside a function."""
    root = tmp_path / "toy_closure"
    (root / "extra").mkdir(parents=True)
    files = {
        "__init__": "", "extra/__init__": "", "extra/late": "", "unused": "", "maths": "x = 1",
        "loop": "import numpy\nfrom toy_closure.maths import x\ndef f():\n    from toy_closure.extra import late\n"
        "def build(folder):\n    pass\n",
    }  # fmt: skip
    for name, text in files.items():
        (root / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield root
    for name in [name for name in sys.modules if name.startswith("toy_closure")]:
        del sys.modules[name]


def test_the_code_behind_a_function_is_found_lazy_imports_too(package):
    assert list(module_closure("toy_closure.loop")) == [
        "toy_closure.extra.late",
        "toy_closure.loop",
        "toy_closure.maths",
    ]


def test_a_changed_file_changes_its_hash_alone(package):
    before = module_closure("toy_closure.loop")
    (package / "maths.py").write_text("x = 1  # changed")
    after = module_closure("toy_closure.loop")
    assert {name for name in before if before[name] != after[name]} == {"toy_closure.maths"}


def test_the_closure_reaches_the_shared_package():
    closure = module_closure("sextet.recipe")
    assert {"sextet.recipe", "sextet.files"} <= set(closure)
    assert "sextet.episodes" not in closure


def test_suggestions():
    assert suggestion("tabel", ["table", "chair"]) == "; did you mean table?"
    assert suggestion("zzz", ["table", "chair"]) == "; known: chair, table"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "at least one finite number, got none"),
        ((float("nan"),), "expected finite numbers, got nan at image 0"),
        ((1.0, float("inf")), "expected finite numbers, got inf at image 1"),
    ],
)
def test_scores_must_be_numbers(values, message):
    with pytest.raises(ValueError, match=message):
        Scores(values, unit="image")
