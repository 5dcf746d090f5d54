from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from sextet import cli
from sextet.data import DataError, DataMissing
from sextet.recipe import Recipe, Scores
from sextet.training import Interrupted


def greet(name: str = "you") -> None:
    print(f"hello {name}")


def count() -> int:
    return 1


def fail(kind: str) -> None:
    raise {
        "value": ValueError("n_way: expected 2 or more, got 1"),
        "data": DataError("broken"),
        "missing": DataMissing("glyphs: get them there"),
        "signal": Interrupted(signal.SIGTERM, Path("here")),
        "bug": KeyError("bug"),
    }[kind]


def run(*words):
    return cli.main({"greet": greet, "count": count, "fail": fail}, prog="toy", description="A toy.", args=words)


def test_worked_example(capsys):
    assert run("greet", "--name", "Ada") == 0
    assert capsys.readouterr().out == "hello Ada\n"
    assert run("count") == cli.CHECK_FAILED


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("value", cli.BAD_INPUT, "toy: n_way: expected 2 or more, got 1\n"),
        ("data", cli.BAD_INPUT, "toy: broken\n"),
        ("missing", cli.DATA_MISSING, "toy: glyphs: get them there\n"),
        ("signal", 143, "toy: SIGTERM: state saved in here; the same command continues from there\n"),
    ],
)
def test_errors_for_people(capsys, kind, code, message):
    assert run("fail", "--kind", kind) == code
    assert capsys.readouterr().err == message


def test_bugs_keep_their_traceback(monkeypatch):
    with pytest.raises(KeyError):
        run("fail", "--kind", "bug")
    monkeypatch.setenv("SEXTET_TRACEBACK", "1")
    with pytest.raises(ValueError, match="n_way"):
        run("fail", "--kind", "value")


def test_unknown_commands_and_options_leave_with_2(capsys):
    for words in (("gret",), ("greet", "--nam", "x"), ("fail",)):
        with pytest.raises(SystemExit) as stop:
            run(*words)
        assert stop.value.code == 2
    assert "greet" in capsys.readouterr().err


@dataclass(frozen=True)
class Config:
    """Config.

    Attributes:
        offset: added to the seed.
    """

    offset: float = 0.0


def test_a_recipe_is_a_command(tmp_path, capsys):
    def measure(config, context):
        return {"sum": Scores((config.offset + context.seed, config.offset - context.seed))}

    recipe = Recipe(config=Config, run=measure, data=lambda _: (), describe="Adds.")
    words = ("add", "--offset", "2", "--seed", "3", "--folder", str(tmp_path))
    assert cli.main({"add": cli.recipe_command(recipe), "count": count}, prog="toy", description="", args=words) == 0
    assert json.loads(capsys.readouterr().out) == {"sum": {"mean": 2.0, "standard_error": 3.0, "n": 2}}
