from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from sextet import checkpoint, cli
from sextet.data import DataError, DataMissing
from sextet.errors import Interrupted, NonFiniteLoss
from sextet.recipe import Recipe, Scores


def greet(name: str = "you") -> None:
    print(f"hello {name}")


def count() -> int:
    return 1


def fail(kind: str) -> None:
    noted = ValueError("broken")
    noted.add_note("This was in step 6")
    raise {
        "value in a step": noted,
        "value": ValueError("n_way: expected 2 or more, got 1"),
        "data": DataError("broken"),
        "missing": DataMissing("glyphs: get them there"),
        "signal": Interrupted(signal.SIGTERM, Path("here")),
        "disk": OSError(errno.ENOSPC, "No space left on device", "weights"),
        "bug": KeyError("bug"),
        "nan": NonFiniteLoss("loss became nan at step 7"),
    }[kind]


def run(*words):
    return cli.main({"greet": greet, "count": count, "fail": fail}, prog="toy", description="A toy.", args=words)


def test_worked_example(capsys):
    assert run("greet", "--name", "Ada") == 0
    assert capsys.readouterr().out == "hello Ada\n"
    assert run("count") == cli.CHECK_FAILED
    assert cli.main({"true": lambda: True, "count": count}, prog="toy", description="", args=["true"]) == 0


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("value", cli.BAD_INPUT, "toy: n_way: expected 2 or more, got 1\n"),
        ("value in a step", cli.BAD_INPUT, "toy: broken\nThis was in step 6\n"),
        ("data", cli.BAD_INPUT, "toy: broken\n"),
        ("missing", cli.DATA_MISSING, "toy: glyphs: get them there\n"),
        ("disk", cli.SYSTEM_REFUSED, f"toy: [Errno {errno.ENOSPC}] No space left on device: 'weights'\n"),
        ("nan", cli.CHECK_FAILED, "toy: loss became nan at step 7\n"),
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


def test_a_deferred_command_is_imported_when_it_is_asked_for(tmp_path, monkeypatch, capsys):
    (tmp_path / "late_module.py").write_text("""
from sextet.recipe import Recipe, Scores
from test_cli_config import Config
RECIPE = Recipe(config=Config, run=lambda c, _: {"m": Scores((c.offset,))}, data=lambda _: (), describe="Adds.")
def shout(word: str = "hey") -> None:
    print(word.upper())
""")
    (tmp_path / "test_cli_config.py").write_text("""
from dataclasses import dataclass
@dataclass(frozen=True)
class Config:
    "Config."
    offset: float = 0.0
""")
    monkeypatch.syspath_prepend(tmp_path)
    commands = {
        "add": cli.Deferred("late_module:RECIPE", "Adds numbers."), "shout": cli.Deferred("late_module:shout", "Loud."),
        "count": count,
    }  # fmt: skip
    main = partial(cli.main, commands, prog="toy", description="")
    with pytest.raises(SystemExit, match="0"):
        main(args=["--help"])
    shown = capsys.readouterr().out
    assert "Adds numbers." in shown
    assert "Loud." in shown
    assert main(args=["count"]) == cli.CHECK_FAILED
    assert "late_module" not in sys.modules
    assert main(args=["shout", "--word", "ho"]) == 0
    assert "HO" in capsys.readouterr().out
    assert main(args=["add", "--offset", "2", "--folder", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["m"]["mean"] == 2.0


PROGRAM = """
import sys, time
from pathlib import Path
from sextet import checkpoint, cli
from sextet.training import Training

def train(folder: Path) -> None:
    with Training(folder, steps=200, state={}) as run:
        for step in run:
            (folder / "started").touch()
            time.sleep(0.05)

sys.exit(cli.main({"train": train, "other": lambda: None}, prog="toy", description="", args=sys.argv[1:]))
"""


def test_a_terminated_program_says_where_it_stopped_and_leaves_with_143(tmp_path):
    words = [sys.executable, "-c", PROGRAM, "train", "--folder", str(tmp_path)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(3000):
            if (tmp_path / "started").exists():
                break
            time.sleep(0.01)
        process.terminate()
        message = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert message == f"toy: SIGTERM: state saved in {tmp_path}; the same command continues from there\n"
    assert checkpoint.load_latest(tmp_path / "checkpoints")[0] < 200
