"""The generated parts of README.md: the status table and the picture."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from sextet.checkpoint import write_atomic
from sextet_bench.house import House
from sextet_bench.pictures import claims_picture
from sextet_bench.report import markdown_table
from sextet_bench.tables import select_tables
from sextet_bench.verdict import TableResult

BLOCK = re.compile(r"(<!-- status:begin -->\n).*?(<!-- status:end -->)", re.DOTALL)


def update_readme(house: House, *, write: bool = True) -> bool:
    """Whether the README differs from what the published records say; with `write`, mend it and redraw the picture."""
    # The README speaks of what was published, whatever data lies on the machine that looks
    blind = replace(house, data_root=house.runs / "no-data")
    results = []
    for table in select_tables(house.tables, ()):
        results += [blind.results(table, profile, where=house.published) for profile in table.profiles]
    path = house.root / "README.md"
    before = path.read_text(encoding="utf-8")
    after = BLOCK.sub(lambda block: block[1] + status_table(results) + block[2], before)
    if write:
        write_atomic(path, after.encode())
        picture = claims_picture(results)
        if picture is not None:
            write_atomic(house.root / "docs/claims.png", picture)
    return before != after


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
