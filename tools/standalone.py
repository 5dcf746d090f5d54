"""Prove that every package stands alone: two builds of it are the same to the byte, and it can be installed from its
wheel and from its folder by plain pip; its example is run each time.

Usage: python tools/standalone.py [--uv PATH] [PACKAGE ...]
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = tuple(sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")))


@dataclass(frozen=True)
class Arguments:
    """Arguments of the check.

    Attributes:
        packages: which packages; all by default.
        uv: the uv program.
        dist: where the wheels go.
    """

    packages: tyro.conf.Positional[tuple[str, ...]] = PACKAGES
    uv: str = "uv"
    dist: Path = ROOT / "dist"


def build(source: Path, uv: str, dist: Path) -> None:
    """Build sdist and wheel that ask for `sextet` by version, as those for a registry must, not by the checkout's path.

    They are built twice, in different folders.

    Raises:
        SystemExit: the two differ.
    """
    again = dist / "again"
    _build_once(source, uv, dist)
    _build_once(source, uv, again)
    for path in again.glob("*-*"):
        if path.read_bytes() != (dist / path.name).read_bytes():
            raise SystemExit(f"{path.name}: two builds of the same source differ")
    shutil.rmtree(again)


def _build_once(source: Path, uv: str, out: Path) -> None:
    version = tomllib.loads((ROOT / "shared/pyproject.toml").read_text())["project"]["version"]
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("tests", "__pycache__", "*.egg-info"))
        metadata = (copy / "pyproject.toml").read_text()
        (copy / "pyproject.toml").write_text(re.sub(r'"sextet @ [^"]*"', f'"sextet=={version}"', metadata))
        run(uv, "build", "--quiet", "--out-dir", str(out), str(copy))


def examples(readme: Path) -> str:
    """All Python examples of a README, one after the other."""
    return "\n".join(re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL))


def check_package(name: str, uv: str, dist: Path, elsewhere: Path) -> None:
    """Both ways to install one package into a fresh environment, and its example after each.

    Raises:
        SystemExit: naming what failed.
    """
    environment = elsewhere / name
    python = environment / "bin/python"
    run(sys.executable, "-m", "venv", str(environment))
    # Versions stay while the code changes: what uv has in its cache under this version may be older
    fresh = [word for package in (name, "sextet") for word in ("--refresh-package", package)]
    run(
        uv, "pip", "install", "--quiet", *fresh, "--python", str(python), "--find-links", str(dist), name, cwd=elsewhere
    )
    check_installed(name, python, "wheel")
    run(str(python), "-m", "pip", "uninstall", "--quiet", "--yes", name, "sextet")
    run(str(python), "-m", "pip", "install", "--quiet", str(ROOT / "packages" / name), cwd=elsewhere)
    check_installed(name, python, "plain pip")
    shutil.rmtree(environment)


def check_installed(name: str, python: Path, how: str) -> None:
    """The package and `sextet` are there, the other packages are not, and the README's example runs."""
    listing = run(str(python), "-m", "pip", "list", "--format", "json")
    installed = {entry["name"].replace("_", "-") for entry in json.loads(listing)}
    strangers = installed & {*PACKAGES, "sextet-bench"} - {name}
    if strangers or not {name, "sextet"} <= installed:
        raise SystemExit(f"{name} by {how}: expected it with sextet alone, found {sorted(strangers) or 'neither'}")
    program = examples(ROOT / "packages" / name / "README.md") or f"import {name.replace('-', '_')}"
    run(str(python), "-c", program, cwd=python.parents[2])
    print(f"{name}: {how}: installs alone, its example runs", flush=True)


def run(*words: str, cwd: Path | None = None) -> str:
    """Run a program; its output, or an end that shows it."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)[:200]}\n{done.stdout}{done.stderr}")
    return done.stdout


def main(arguments: Arguments) -> None:
    """Build all wheels, then check the packages one by one."""
    uv = str(Path(shutil.which(arguments.uv) or arguments.uv).absolute())  # it is called from other folders
    shutil.rmtree(arguments.dist, ignore_errors=True)
    for source in (ROOT / "shared", *(ROOT / "packages" / name for name in PACKAGES)):
        build(source, uv, arguments.dist)
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.packages:
            check_package(name, uv, arguments.dist, Path(scratch))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
