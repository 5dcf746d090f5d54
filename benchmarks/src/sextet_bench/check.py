"""Regression check: claims that held must hold, numbers must stay where they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sextet_bench.house import House
from sextet_bench.record import Identity, Record, read_records
from sextet_bench.run import Outcome, Task, run_here
from sextet_bench.tables import Table
from sextet_bench.verdict import judge


@dataclass(frozen=True)
class Finding:
    """One thing that the check looked at."""

    ok: bool
    text: str


def quick_tasks(table: Table, profile_name: str = "laptop") -> list[Task]:
    """The runs of the quick form: the profile's `quick_cells` for its `quick_seeds`."""
    profile = table.profiles.get(profile_name)
    if profile is None:
        return []
    return [Task(table, profile_name, cell, seed) for cell in profile.quick_cells for seed in profile.quick_seeds]


def check_published(house: House, table: Table, profile_name: str = "laptop") -> Iterator[Finding]:
    """Gating claims of a table must hold by its published records; stale records are told, not failed."""
    result = house.results(table, profile_name, where=house.published)
    for found in result.claims:
        word = found.verdict.word
        held = word == "holds" or (word == "stale" and found.verdict.note.startswith("was: holds"))
        if found.claim.gate:
            yield Finding(held, f"{table.id}: {found.claim.text}: {word}")
    stale = [cell.cell.id for cell in result.cells if cell.verdict.word == "stale"]
    if stale:
        yield Finding(
            True, f"{table.id}: {len(stale)} numbers are stale, run `sextet run {table.id}` and `sextet accept`"
        )


def check_again(
    house: House, table: Table, outcomes: Sequence[Outcome], profile_name: str = "laptop"
) -> Iterator[Finding]:
    """What was just measured against the published records of the same cells and seeds, and the claims among them.

    A number moved when it lies outside the 95% interval of its published record. Gating claims whose cells are all
    there are judged on what was just measured.
    """
    published = {(r.cell, r.seed): r for r in read_records(house.published, table.id, profile_name)}
    fresh: dict[tuple[str, int], Record] = {}
    for outcome in outcomes:
        if outcome.record is None:
            yield Finding(False, f"{outcome.task.label}: {outcome.kind}: {outcome.message}")
            continue
        record = outcome.record
        fresh[record.cell, record.seed] = record
        before = published.get((record.cell, record.seed))
        if before is not None:
            yield compare(before, record, table)
    result = judge(table, profile_name, fresh, {}, {})
    for found in result.claims:
        if found.claim.gate and found.verdict.estimate is not None:
            effect = f"{found.verdict.estimate.mean:+.2f}"
            yield Finding(
                found.verdict.word == "holds", f"{table.id}: {found.claim.text}: {found.verdict.word} ({effect})"
            )


def compare(before: Record, now: Record, table: Table) -> Finding:
    """One number against its published record; on other data (glyphs depend on the fonts) there is nothing to say.

    Where it moved, the finding names the commits between the two and what differs in config, data and source.
    """
    half = 1.96 * before.standard_error
    text = (
        f"{table.id} {now.cell} seed {now.seed}: {now.value * table.scale:.2f}, published "
        f"{before.value * table.scale:.2f} ± {half * table.scale:.2f} (commit {before.commit[:8]})"
    )
    if before.data != now.data:
        return Finding(True, f"{text}: not compared, the data here are not the published run's")
    if abs(now.value - before.value) <= half:
        return Finding(True, text)
    changes = Identity(now.recipe, now.config, now.data, now.sources).changes_since(before)
    versions = [
        f"{name} {before.versions.get(name, 'absent')} -> {version}"
        for name, version in now.versions.items()
        if before.versions.get(name) != version
    ]
    between = f"commits {before.commit[:8]}..{now.commit[:8]}{' with local changes' if now.dirty else ''}"
    return Finding(False, f"{text}: moved; {'; '.join([between, *changes, *versions])}")


def run_quick(house: House, table: Table, device: str = "auto") -> list[Outcome]:
    """Run the quick form afresh, apart from the ordinary runs."""
    apart = replace(house, runs=house.runs / "check")
    return list(run_here(apart, quick_tasks(table), device))
