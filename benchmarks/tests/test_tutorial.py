"""docs/add-a-paper.md, executed: its files are written to a new checkout, its commands run, its output compared."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sextet_bench import cli
from sextet_bench.house import House

PAGE = House.of_checkout().root / "docs/add-a-paper.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """An empty checkout that the commands work on."""
    root = tmp_path / "checkout"
    (root / "docs").mkdir(parents=True)
    for path in ("README.md", "docs/index.md"):
        (root / path).write_text("<!-- status:begin -->\n<!-- status:end -->\n")
    monkeypatch.setenv("SEXTET_ROOT", str(root))
    monkeypatch.setenv("SEXTET_DATA", str(root / "data"))
    monkeypatch.chdir(root)
    return root


def install(checkout: Path, monkeypatch) -> None:
    """What `make setup` does for the packages of the checkout, without a package index: names and entry points."""
    for project in checkout.glob("packages/*/pyproject.toml"):
        content = tomllib.loads(project.read_text())["project"]
        source = project.parent / "src"
        info = source / f"{content['name'].replace('-', '_')}-{content['version']}.dist-info"
        info.mkdir()
        names = f"Name: {content['name']}\nVersion: {content['version']}\n"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{names}")
        points = "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
            for group, entries in content["entry-points"].items()
        )
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(str(source))
        monkeypatch.setenv("PYTHONPATH", str(source))
    importlib.invalidate_caches()


def execute(command: str, monkeypatch, capsys) -> str:
    """One command line: `sextet` in this process, which is quicker, others in their own; what it printed."""
    program, *words = shlex.split(command)
    if program == "python":
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    assert program == "sextet", f"do not know how to run {command}"
    monkeypatch.setattr("sys.argv", ["sextet", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    shown = capsys.readouterr()
    assert not stop.value.code, f"{command}\n{shown.out}{shown.err}"
    return shown.out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_says_what_happens(checkout, monkeypatch, capsys):
    printed = ""
    for language, title, content in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if title:
            (checkout / title).parent.mkdir(parents=True, exist_ok=True)
            (checkout / title).write_text(content)
        elif language == "sh":
            printed = ""
            for command in content.splitlines():
                if command == "make setup":
                    install(checkout, monkeypatch)
                else:
                    printed += execute(command, monkeypatch, capsys)
        else:
            missing = [line for line in content.splitlines() if line.strip() not in printed]
            assert not missing, f"expected {missing} in\n{printed}"
    assert "| james-stein/risk | laptop | 6 reproduced | 2 holds |" in (checkout / "docs/index.md").read_text()
    assert (checkout / "docs/figures/james-stein-risk-dimensions.png").exists()
    assert "James-Stein has the lower risk, d = 30" in (checkout / "runs/report/report.html").read_text()


def test_every_block_of_the_tutorial_is_a_file_a_command_or_its_output():
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) * 2 == len(re.findall(r"^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert {language for language, title, _ in blocks if not title} == {"sh", "text"}
    assert {Path(title).suffix for _, title, _ in blocks if title} == {".toml", ".py", ".yaml"}
