"""Turn what `make coverage`, `make test-faults` and `make scaling` wrote into figures for the page on trust.

Usage: python tools/evidence.py coverage runs/coverage.json | faults runs/faults.xml | scaling runs/speed/scaling.json
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

import tyro

from sextet_bench.evidence import Evidence, write_evidence

ROOT = Path(__file__).resolve().parents[1]


def coverage(path: Path) -> Evidence:
    """Lines and branches that the tests reach, by package, out of `coverage json`."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for file, content in json.loads(path.read_text())["files"].items():
        package = re.sub(r".*/src/([^/]+)/.*", r"\1", file)
        sums[package].update({key: value for key, value in content["summary"].items() if isinstance(value, int)})
    rows = tuple(
        (package, n["num_statements"], _percent(n, "covered_lines", "num_statements"),
         n["num_branches"], _percent(n, "covered_branches", "num_branches"))
        for package, n in sorted(sums.items())
    )  # fmt: skip
    return Evidence(
        title="Coverage", command="make coverage",
        text="Lines and branches that the tests reach, the slow ones included, not those for CUDA and the network.",
        columns=("package", "lines", "% reached", "branches", "% reached"), rows=rows,
    )  # fmt: skip


def _percent(counts: Counter[str], part: str, whole: str) -> float:
    return 100 * counts[part] / max(1, counts[whole])


def faults(path: Path) -> Evidence:
    """Outcomes of the fault tests by test function, out of pytest's JUnit file (ours: nothing foreign is parsed)."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.attrib["name"].partition("[")[0].removeprefix("test_").replace("_", " ")
        kinds: list[Any] = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[name][kinds[0] if kinds else "passed"] += 1
    rows = tuple((name, n["passed"], n["failure"] + n["error"], n["skipped"]) for name, n in sorted(outcomes.items()))
    return Evidence(
        title="Faults", command="make test-faults",
        text="Runs that were killed, stopped, starved of disk or fed with NaN, each in a process of its own.",
        columns=("what is shown", "passed", "failed", "skipped"), rows=rows,
    )  # fmt: skip


def scaling(path: Path) -> Evidence:
    """Exponents of cost against size, out of what `benchmarks.speed.scaling` wrote."""
    content = json.loads(path.read_text())
    rows = tuple(
        (item["name"], " to ".join(str(item["sizes"][end]) for end in (0, -1)), f"{item['ours']:.2f}",
         f"{item['low']:.2f} to {item['high']:.2f}", f"{item['upper_half']:.2f}", item["verdict"])
        for item in content["results"]
    )  # fmt: skip
    processor = content["environment"]["processor"]
    return Evidence(
        title="Scaling", command="make scaling",
        text="Cost ~ size^b: exponents fitted to processor time and counted memory over a ladder of sizes, with their "
        "95% intervals, and what theory expects; `upper half` is fitted to the larger sizes. Rows of torch alone are "
        "single operations: what they miss, caches and newly mapped memory do, and whatever is made of them misses it "
        f"too. {processor}, one thread.",
        columns=("cost", "sizes", "b", "95% interval", "upper half", "expected"), rows=rows,
    )  # fmt: skip


def main(
    kind: tyro.conf.Positional[Literal["coverage", "faults", "scaling"]], path: tyro.conf.Positional[Path], /
) -> None:
    """Write `benchmarks/evidence/<kind>.json`; `sextet readme` writes the page from it."""
    reader = {"coverage": coverage, "faults": faults, "scaling": scaling}[kind]
    write_evidence(ROOT / "benchmarks/evidence" / f"{kind}.json", reader(path))


if __name__ == "__main__":
    tyro.cli(main)
