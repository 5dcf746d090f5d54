"""Mutation testing: change one operator, constant, condition or call of a file at a time; do its tests notice?

Usage: python tools/mutate.py [FILE TESTS...] [--sample N] [--seed S] [--timeout SECONDS]

Without a file, those of `tools/equations.txt`, whose figures are written for the page on trust.

The file is changed in a copy of its package, which its tests import instead, each time in a process of their own. What
survives is printed as a diff: it means the same, or a test is missing.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Mutant = tuple[ast.AST, ast.AST]
"""A node of the file and what stands in its place."""

OPERATORS: dict[type[ast.AST], type[Any]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
MODULES = ("torch", "F", "np", "math", "nn", "stats", "linalg")


def mutants(tree: ast.AST) -> Iterator[Mutant]:
    """All mutants of a tree, but for its annotations and decorators, its strings and the errors that it raises."""
    if isinstance(tree, ast.Raise | ast.JoinedStr):
        return
    yield from changes(tree)
    for field, value in ast.iter_fields(tree):
        if field not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from mutants(child)


def changes(node: ast.AST) -> Iterator[Mutant]:
    """The mutants of one node, not of its children."""
    match node:
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield node, ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS:
            yield node, ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.BoolOp(op, values):
            yield node, ast.BoolOp(OPERATORS[type(op)](), values)
        case ast.Compare(left, [op], right):
            yield node, ast.Compare(left, [OPERATORS[type(op)]()], right)
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert(), operand):
            yield node, operand
        case ast.IfExp(test) | ast.If(test) | ast.While(test):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Constant(bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield node, ast.Constant(value + 1 if isinstance(value, int) else value * 2 or 1.0)
        case ast.Expr(ast.Call()):
            yield node, ast.Pass()
        case ast.Call(ast.Attribute(owner)) if not (isinstance(owner, ast.Name) and owner.id in MODULES):
            yield node, owner
        case ast.Call(_, [first, *_]) if not isinstance(first, ast.Starred):
            yield node, first


def mutated(source: str, mutant: Mutant) -> str:
    """The source with one node replaced, everything else as it was written."""
    node, changed = mutant
    assert isinstance(node, ast.expr | ast.stmt)
    # columns are counted in bytes
    starts = [0, *accumulate(len(line) for line in source.encode().splitlines(keepends=True))]
    begin = starts[node.lineno - 1] + node.col_offset
    end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
    text = ast.unparse(changed) if isinstance(node, ast.stmt) else f"({ast.unparse(changed)})"
    return (source.encode()[:begin] + text.encode() + source.encode()[end:]).decode()


def run_tests(folder: str, tests: list[str], timeout: int, quiet: bool) -> None:
    """Exit with pytest's code; what the tests import is taken from `folder` first."""
    import pytest

    # Of CPU time, which a busy machine does not shorten
    resource.setrlimit(resource.RLIMIT_CPU, (timeout, timeout))
    for stream in (1, 2) if quiet else ():
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    sys.dont_write_bytecode = True  # bytecode is told apart by whole seconds and sizes, which mutants may share
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = folder
    # What is imported beforehand makes pytest warn that it cannot rewrite its assertions, and warnings are errors
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    sys.exit(pytest.main([*options, "--hypothesis-profile=ci", *tests]))


def passes(folder: Path, tests: list[str], timeout: int, *, quiet: bool = True) -> bool:
    """Whether the tests pass, and in time; a process that waits for ever is ended after 20 times that."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["numpy", "torch", "torch._dynamo", "timm", "scipy.stats"])
    process = server.Process(target=run_tests, args=(str(folder), tests, timeout, quiet))
    process.start()
    process.join(20 * timeout)
    process.kill()
    process.join()
    return process.exitcode == 0


def main() -> None:
    """Mutate one file, or all of the list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("tests", nargs="*")
    parser.add_argument("--sample", type=int, default=25, help="how many mutants, drawn at random by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=int, default=60, help="CPU seconds after which a mutant counts as killed")
    options = parser.parse_args()
    how = options.sample, options.seed, options.timeout
    if options.file is not None:
        if not options.tests:
            parser.error("tests: expected those of the file")
        mutate(options.file, options.tests, *how)
        return
    for line in (ROOT / "tools/equations.txt").read_text().splitlines():
        file, *tests = line.split()
        folder = Path(file).parents[2]
        figures = mutate(ROOT / file, [str(ROOT / folder / "tests" / test) for test in tests], *how)
        record(file, options.seed, *figures)


def record(file: str, seed: int, killed: int, tried: int, possible: int) -> None:
    """Put a file's figures into `benchmarks/evidence/mutation.json`, in place of older ones."""
    # Not above: processes of tests import this file first, and would then have the package as it is
    from sextet_bench.evidence import Evidence, read_evidence, write_evidence

    path = ROOT / "benchmarks/evidence/mutation.json"
    before = read_evidence(path).rows if path.exists() else ()
    row = file, possible, tried, seed, killed, 100 * killed / tried
    evidence = Evidence(
        title="Mutation", command="make mutate",
        text="Files of equations, changed in one operator, constant, condition or call at a time, drawn at random, and "
        "the tests of that file run on each. One that no test notices survives; `make mutate FILE= TESTS=` shows it. "
        "Tests were written for what survived seed 0, so another seed measures on mutants not seen before.",
        columns=("file", "mutants possible", "tried", "seed", "killed", "% killed"),
        rows=tuple(sorted((row, *(other for other in before if other[0] != file)))),
    )  # fmt: skip
    write_evidence(path, evidence)


def mutate(path: Path, tests: list[str], sample: int, seed: int, timeout: int) -> tuple[int, int, int]:
    """Show the mutants of a file that its tests do not notice; (killed, tried, possible)."""
    source, package = path.read_text(), path.resolve()
    while (package.parent / "__init__.py").exists():
        package = package.parent
    found = list(mutants(ast.parse(source)))
    chosen = random.Random(seed).sample(found, min(sample, len(found)))
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(package, Path(name) / package.name, ignore=shutil.ignore_patterns("__pycache__")))
        file, run = copy / path.resolve().relative_to(package), (copy.parent, tests, timeout)
        if not passes(*run, quiet=False):
            raise SystemExit(f"tests: expected to pass in {timeout} s on {path} as it is")
        file.write_text("raise ImportError")
        if passes(*run):
            raise SystemExit(f"tests: expected some that import {path}, found none")
        survivors = 0
        for mutant in sorted(chosen, key=lambda each: getattr(each[0], "lineno", 0)):
            file.write_text(changed := mutated(source, mutant))
            if passes(*run):
                survivors += 1
                diff = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
                print("survived:", *list(diff)[2:], sep="\n", flush=True)
    killed = len(chosen) - survivors
    print(f"{path}: {killed} of {len(chosen)} mutants killed ({len(found)} are possible)", flush=True)
    return killed, len(chosen), len(found)


if __name__ == "__main__":
    main()
