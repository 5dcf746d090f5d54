"""The pages on trust and speed are what their files say."""

from __future__ import annotations

import json

import pytest

from sextet_bench.evidence import Evidence, EvidenceError, read_evidence, trust_page, write_evidence
from sextet_bench.speed_page import speed_page
from sextet_bench.speed_report import read_speeds

EVIDENCE = Evidence(
    title="Coverage", command="make coverage", text="Lines.", columns=("package", "lines", "%"),
    rows=(("sextet", 12345, 98.76), ("lmim", 1, 100.0)), date="2026-01-02", machine="a machine",
)  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    write_evidence(tmp_path / "coverage.json", EVIDENCE)
    assert read_evidence(tmp_path / "coverage.json") == EVIDENCE
    page = trust_page(tmp_path)
    assert "## Coverage" in page
    assert "`make coverage`, 2026-01-02, a machine." in page
    assert "| sextet | 12,345 | 98.8 |" in page


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "{", lambda _: "[]", lambda content: json.dumps({**content, "more": 1}),
        lambda content: json.dumps({**content, "rows": [["sextet"]]}), lambda content: json.dumps({"title": "x"}),
    ],
)  # fmt: skip
def test_what_is_no_evidence_is_named(tmp_path, damage):
    path = tmp_path / "coverage.json"
    write_evidence(path, EVIDENCE)
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(EvidenceError, match=r"coverage\.json"):
        read_evidence(path)


def test_the_page_on_speed_names_what_misses_its_target(tmp_path):
    rows = [
        {
            "name": name, "setting": "B 8", "ours_ms": 2.0, "theirs_ms": 2.0 * median, "target": 2.0,
            "verdict": verdict, "ratio": {"median": median, "low": median - 0.1, "high": median + 0.1},
        }
        for name, median, verdict in (("a / b", 3.0, "met (>= 2x)"), ("c / d", 1.5, "NOT MET (>= 2x)"))
    ]  # fmt: skip
    rows.append({"name": "load", "ours_ms": 21.0, "verdict": "NOT MET (< 20 ms)"})
    content = {"environment": {"processor": "P", "threads": 1, "torch": "2", "commit": "0123456789"}, "results": rows}
    (tmp_path / "toy.json").write_text(json.dumps(content))
    page = speed_page(read_speeds(tmp_path))
    assert "3 comparisons, 2 below their target:" in page
    assert "- toy: c / d (B 8): 1.50 [1.40, 1.60], NOT MET (>= 2x)" in page
    assert "- toy: load: 21 ms, NOT MET (< 20 ms)" in page
    assert "| a / b | B 8 | 3.00 [2.90, 3.10] | 2 ms | 6 ms | met (>= 2x) |" in page
    assert "P, 1 thread, torch 2, commit 0123456." in page
