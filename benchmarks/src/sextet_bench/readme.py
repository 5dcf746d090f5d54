"""What is generated in the repository: the status table, pictures in docs, pages on datasets, speed and trust."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sextet.files import write_atomic
from sextet_bench.cost import cost_charts
from sextet_bench.dataset_pages import dataset_pages
from sextet_bench.evidence import trust_page
from sextet_bench.figures import figure_charts
from sextet_bench.house import House
from sextet_bench.pictures import chart_picture, charts_picture, claims_picture, speed_picture
from sextet_bench.report import markdown_table
from sextet_bench.speed_page import speed_page
from sextet_bench.speed_report import Speed, read_speeds
from sextet_bench.tables import select_tables
from sextet_bench.verdict import TableResult

BLOCK = re.compile(r"(<!-- status:begin -->\n).*?(<!-- status:end -->)", re.DOTALL)


def update_readme(house: House, *, write: bool = True) -> bool:
    """Whether a generated text differs from what records and passports say; with `write`, mend it and redraw all."""
    results, docs = published_results(house), house.root / "docs"
    speeds = read_speeds(house.root / "benchmarks/speed/results")
    texts = {docs / path: text for path, text in dataset_pages(house).items()}
    texts[docs / "speed.md"] = speed_page(speeds)
    texts[docs / "trust.md"] = trust_page(house.root / "benchmarks/evidence")
    for path, text in ((house.root / "README.md", paper_table(results)), (docs / "index.md", status_table(results))):
        if path.exists():
            before = path.read_text(encoding="utf-8")
            texts[path] = BLOCK.sub(lambda block, text=text: block[1] + text + block[2], before)
    left_over = sorted(set(docs.glob("datasets/*.md")) - set(texts))
    changed = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if write:
        for path in changed:
            write_atomic(path, texts[path].encode())
        for path in left_over:
            path.unlink()
        for name, picture in pictures(results, speeds):
            write_atomic(docs / name, picture)
    return bool(changed or left_over)


def published_results(house: House) -> list[TableResult]:
    """Verdicts of all tables at all their profiles from the published records alone.

    They speak of what was published, whatever data lies on the machine that looks.
    """
    blind = replace(house, data_root=house.runs / "no-data")
    tables = select_tables(house.tables, ())
    return [blind.results(table, profile, where=house.published) for table in tables for profile in table.profiles]


def pictures(results: Sequence[TableResult], speeds: Sequence[Speed] = ()) -> Iterator[tuple[Path, bytes]]:
    """Pictures with their names below docs: claims, of all and of each paper; its costs; speed; figures."""
    by_paper: dict[str, list[TableResult]] = {}
    for result in results:
        by_paper.setdefault(result.table.paper, []).append(result)
    drawn_first = {
        "claims.png": claims_picture(results),
        **{f"figures/{paper}-claims.png": claims_picture(found) for paper, found in by_paper.items()},
        **{f"figures/{paper}-cost.png": charts_picture(cost_charts(found)) for paper, found in by_paper.items()},
        "figures/speed.png": speed_picture(speeds),
    }
    yield from ((Path(name), picture) for name, picture in drawn_first.items() if picture is not None)
    drawn: set[str] = set()
    for result in results:
        for chart in figure_charts(result):
            plain = chart.id.replace(f"-{result.profile_name}-", "-", 1)
            name = f"{plain}-{result.profile_name}" if plain in drawn else plain
            drawn.add(plain)
            yield Path("figures") / f"{name}.png", chart_picture(chart)


def paper_table(results: Sequence[TableResult]) -> str:
    """One line a paper: what was measured, what became of its claims, and how many tables have not been run."""
    rows = []
    for paper in sorted({result.table.paper for result in results}):
        found = [result for result in results if result.table.paper == paper]
        run = [result for result in found if result.records]
        claims = Counter(claim.verdict.word for result in run for claim in result.claims)
        counts = [str(claims.pop(word, 0)) for word in ("holds", "does not hold", "inconclusive")]
        rest = ", ".join(f"{number} {word}" for word, number in claims.items())
        numbers = sum(len(result.records) for result in run)
        last = max((record.finished[:10] for result in run for record in result.records), default="–")
        waiting = len(found) - len(run)
        rows.append((paper, f"{len(run)} tables, {numbers} runs", *counts, rest or "–", str(waiting), last))
    header = (
        "paper", "measured", "claims that hold", "do not hold", "are open", "other", "tables not run", "last run",
    )  # fmt: skip
    return "\n".join(markdown_table(header, rows)) + "\n"


def status_table(results: list[TableResult]) -> str:
    """One line for each table and profile: how many numbers and claims have which verdict."""
    rows = []
    for result in results:
        numbers = _count([cell.verdict.word for cell in result.cells])
        claims = _count([claim.verdict.word for claim in result.claims])
        last = max((record.finished[:10] for record in result.records), default="–")
        rows.append((result.table.id, result.profile_name, numbers, claims or "–", last))
    return "\n".join(markdown_table(("paper / table", "profile", "numbers", "claims", "last run"), rows)) + "\n"


def _count(words: list[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in Counter(words).most_common())
