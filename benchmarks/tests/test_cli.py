from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from toy_checkout import TABLE, write_table

from sextet import cli as exit_codes
from sextet_bench import cli


def sextet(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["sextet", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.fixture
def readme(toy):
    path = toy.root / "README.md"
    path.write_text("before\n<!-- status:begin -->\nold\n<!-- status:end -->\nafter\n")
    (toy.root / "docs").mkdir()
    (toy.root / "docs/index.md").write_text("<!-- status:begin -->\n<!-- status:end -->\n")
    return path


def test_from_plan_to_published(toy, readme, monkeypatch, capsys):
    assert sextet(monkeypatch, "plan", "toy") == 0
    assert "6 runs to do, 0 done" in capsys.readouterr().out
    assert sextet(monkeypatch, "run", "toy/main") == 0
    shown = capsys.readouterr().out
    assert "[6/6, 0 min left] toy/main bad/a seed 3:" in shown
    assert "report.html" in shown
    assert sextet(monkeypatch, "run", "toy") == 0
    assert "0 runs to do, 6 done" in capsys.readouterr().out
    assert sextet(monkeypatch, "accept", "toy") == 0
    assert "| toy/main | laptop | 1 reproduced, 1 below | 1 holds |" in (toy.root / "docs/index.md").read_text()
    assert "| toy | 1 tables, 6 runs | 1 | 0 | 0 | – | 0 |" in readme.read_text()
    assert readme.read_text().startswith("before\n<!-- status:begin -->\n| paper | measured |")
    assert readme.read_text().endswith("<!-- status:end -->\nafter\n")
    assert (toy.root / "docs/claims.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(toy.published.rglob("*.json"))) == 6
    assert sextet(monkeypatch, "readme", "--check") == 0
    readme.write_text(readme.read_text().replace("6 runs", "7 runs"))
    assert sextet(monkeypatch, "readme", "--check") == exit_codes.CHECK_FAILED


def test_check_passes_and_fails(toy, readme, monkeypatch, capsys):
    sextet(monkeypatch, "run", "toy")
    sextet(monkeypatch, "accept", "toy")
    assert sextet(monkeypatch, "check", "--quick") == 0
    assert "0 failed" in capsys.readouterr().out
    assert sextet(monkeypatch, "check") == 0
    content = yaml.safe_load(TABLE)
    content["rows"][0]["config"]["offset"] = 0.5
    write_table(toy.root, yaml.safe_dump(content))
    capsys.readouterr()
    assert sextet(monkeypatch, "check", "--quick") == exit_codes.CHECK_FAILED
    shown = capsys.readouterr().out
    assert "FAIL  toy/main good/a seed 1: " in shown
    assert "FAIL  toy/main: good over bad: does not hold" in shown


def test_check_fails_when_a_published_claim_does_not_hold(toy, readme, monkeypatch, capsys):
    content = yaml.safe_load(TABLE)
    content["claims"][0]["by"] = 10.0
    write_table(toy.root, yaml.safe_dump(content))
    sextet(monkeypatch, "run", "toy")
    sextet(monkeypatch, "accept", "toy")
    assert sextet(monkeypatch, "check") == exit_codes.CHECK_FAILED
    assert "FAIL  toy/main: good over bad: does not hold" in capsys.readouterr().out


def test_explain_tells_everything_behind_a_number(toy, monkeypatch, capsys):
    sextet(monkeypatch, "run", "toy")
    capsys.readouterr()
    assert sextet(monkeypatch, "explain", "toy/main/good/a") == 0
    shown = capsys.readouterr().out
    for part in ("verdict: reproduced", '"offset": 3.0', "sextet run toy/main", "seed 2: ", "source: toy_recipe"):
        assert part in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "tot"), "unknown table 'tot'; did you mean toy"),
        (("run", "toy", "--only", "gud/a"), "no cell 'gud/a'; did you mean good/a"),
        (("run", "toy", "--profile", "gpu"), "none of the tables toy/main has the profile gpu; ask for laptop"),
        (("run", "toy", "--profile", "lapptop"), "unknown profile 'lapptop'; did you mean laptop"),
        (("explain", "toy/main/good/b"), "no cell 'good/b'; did you mean good/a"),
        (("explain", "toy/main"), "expected paper/table/row/column"),
        (("accept", "toy"), "6 runs have no current record"),
        (("data", "verify", "cifer10"), "unknown dataset 'cifer10'; did you mean cifar10"),
        (("data", "adopt", "mnist"), "expected the folder or archive"),
    ],
)
def test_bad_input_is_told_with_exit_code_2(toy, monkeypatch, capsys, words, message):
    assert sextet(monkeypatch, *words) == exit_codes.BAD_INPUT
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_what_is_stale_is_listed_and_run_alone(toy, readme, monkeypatch, capsys):
    sextet(monkeypatch, "run", "toy", "--only", "good")
    content = yaml.safe_load(TABLE)
    content["rows"][0]["config"]["offset"] = 0.5
    write_table(toy.root, yaml.safe_dump(content))
    capsys.readouterr()
    assert sextet(monkeypatch, "report", "toy", "--stale") == 0
    assert capsys.readouterr().out == "toy/main good/a: config: offset\n1 of 2 numbers are stale\n"
    assert sextet(monkeypatch, "run", "toy", "--stale-only") == 0
    assert "3 runs to do" in capsys.readouterr().out
    assert sextet(monkeypatch, "report", "toy", "--stale") == 0
    assert "0 of 2 numbers" in capsys.readouterr().out
    assert sextet(monkeypatch, "run", "toy", "--stale-only") == 0
    assert "0 runs to do" in capsys.readouterr().out


def test_a_moved_number_names_what_changed(toy, readme, monkeypatch, capsys):
    sextet(monkeypatch, "run", "toy")
    sextet(monkeypatch, "accept", "toy")
    content = yaml.safe_load(TABLE)
    content["rows"][0]["config"]["offset"] = 0.5
    write_table(toy.root, yaml.safe_dump(content))
    capsys.readouterr()
    assert sextet(monkeypatch, "check", "--quick") == exit_codes.CHECK_FAILED
    assert "moved; commits unknown..unknown with local changes; config: offset" in capsys.readouterr().out


def test_a_long_run_must_be_agreed_to(toy, monkeypatch, capsys):
    content = yaml.safe_load(TABLE)
    content["profiles"]["laptop"]["seconds"] = 9000
    write_table(toy.root, yaml.safe_dump(content))
    assert sextet(monkeypatch, "run", "toy") == exit_codes.BAD_INPUT
    assert "about 15.0 h, more than --budget-hours 2; add --yes" in capsys.readouterr().err
    assert sextet(monkeypatch, "run", "toy", "--yes") == 0


def test_missing_data_is_told_and_exits_with_3(toy, monkeypatch, capsys):
    content = yaml.safe_load(TABLE)
    content["rows"][0]["config"]["needs"] = "pictures"
    write_table(toy.root, yaml.safe_dump(content))
    assert sextet(monkeypatch, "run", "toy") == exit_codes.DATA_MISSING
    captured = capsys.readouterr()
    assert "data missing: pictures: put it there" in captured.err
    assert "toy/main bad/a seed 3" in captured.out


def test_data_list_names_the_open_sets(toy, monkeypatch, capsys):
    assert sextet(monkeypatch, "data", "list") == 0
    shown = capsys.readouterr().out
    for name in ("cifar10", "digits", "fashion-mnist", "glyphs", "mnist"):
        assert f"{name} " in shown
    assert "for no table" in shown


def test_the_command_line_is_as_documented():
    """The surface that scripts rely on: a change here is a change of interface."""
    import sys

    def options(command):
        words = [sys.executable, "-m", "sextet_bench.cli", command, "--help"]
        shown = subprocess.run(words, capture_output=True, text=True, check=True, env={"COLUMNS": "200"}).stdout
        return {word.strip("│,[]").split("=")[0] for word in shown.split() if word.startswith("--")}

    assert options("run") == {
        "--help", "--profile", "--only", "--workers", "--ray", "--device", "--budget-hours", "--yes", "--no-yes",
        "--stale-only", "--no-stale-only",
    }  # fmt: skip
    assert options("plan") == {"--help", "--profile", "--only", "--on", "--measure", "--device"}
    assert options("check") == {"--help", "--quick", "--no-quick", "--device"}


@pytest.mark.parametrize("program", ["sextet_bench", "bi_adapter", "lmim", "infocl", "cdfsl_ata", "fslstm", "nat_crf"])
def test_help_comes_without_the_heavy_libraries(program):
    code = f"""
import sys
sys.argv = ["x", "--help"]
from {program}.cli import main
try:
    main()
finally:
    loaded = {{"torch", "torchvision", "timm", "ray", "matplotlib"}} & set(sys.modules)
    print("loaded:", sorted(loaded), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "loaded: []" in done.stderr
