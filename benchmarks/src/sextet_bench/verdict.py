"""From records to verdicts: each cell against its reference number, each claim on paired scores, Holm over a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sextet_bench.record import Identity, Record
from sextet_bench.statistics import Estimate, estimate, holm, paired_difference, seeds_needed
from sextet_bench.tables import Cell, Claim, Numbers, Profile, Table

ALPHA = 0.05


@dataclass(frozen=True)
class Verdict:
    """A word with its reasons.

    Attributes:
        word: cells: `reproduced`, `above`, `below`, `measured` (nothing to compare with); claims: `holds`,
            `does not hold`; both: `inconclusive`, `not run`, `stale`.
        note: what would settle it, or why it is not there.
        estimate: the measured mean (cells) or the paired effect (claims), in the table's unit.
        p: Holm-adjusted p-value of the decision.
    """

    word: str
    note: str = ""
    estimate: Estimate | None = None
    p: float | None = None
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellResult:
    """A cell with what was measured for it."""

    cell: Cell
    verdict: Verdict
    records: tuple[Record, ...] = ()


@dataclass(frozen=True)
class ClaimResult:
    """A claim with its verdict."""

    claim: Claim
    verdict: Verdict


@dataclass(frozen=True)
class TableResult:
    """Everything that is known of a table at one profile."""

    table: Table
    profile_name: str
    cells: tuple[CellResult, ...]
    claims: tuple[ClaimResult, ...]

    @property
    def profile(self) -> Profile:
        """The profile's settings."""
        return self.table.profile(self.profile_name)

    @property
    def records(self) -> list[Record]:
        """All records that the verdicts rest on."""
        return [record for result in self.cells for record in result.records]

    def cell(self, cell_id: str) -> CellResult:
        """Result of one cell."""
        return next(result for result in self.cells if result.cell.id == cell_id)


def judge(
    table: Table,
    profile_name: str,
    records: Mapping[tuple[str, int], Record],
    identities: Mapping[str, Identity],
    reasons: Mapping[str, str],
) -> TableResult:
    """All verdicts of a table.

    Args:
        table: the table file.
        profile_name: one of its profiles.
        records: (cell, seed) -> the record to use.
        identities: cell -> what its result would stand on now, where that is known.
        reasons: cell -> why it was not run (data missing and the like), where known.
    """
    profile = table.profile(profile_name)
    numbers = table.numbers if table.numbers and profile_name in table.numbers.profiles else None
    results = []
    for cell in table.cells:
        of_cell = tuple(records[cell.id, seed] for seed in profile.seeds if (cell.id, seed) in records)
        verdict = _judge_cell(cell, of_cell, table.scale, numbers, profile, reasons.get(cell.id, ""))
        changes = _changes(of_cell, identities.get(cell.id))
        results.append(CellResult(cell, replace(verdict, changes=changes), of_cell))
    results = _adjust_cells(results)
    by_id = {result.cell.id: result for result in results}
    claims = _adjust_claims([ClaimResult(claim, _judge_claim(claim, table, by_id)) for claim in table.claims])
    return TableResult(table, profile_name, tuple(_mark_stale(result) for result in results), tuple(claims))


def describe_stale(results: Sequence[TableResult]) -> list[str]:
    """A line for each number whose foundation has changed since it was measured, and a last line with their count."""
    stale = [(result.table.id, cell) for result in results for cell in result.cells if cell.verdict.word == "stale"]
    lines = [f"{table} {cell.cell.id}: {'; '.join(cell.verdict.changes)}" for table, cell in stale]
    return [*lines, f"{len(stale)} of {sum(len(result.cells) for result in results)} numbers are stale"]


def judge_number(found: Estimate, reference: float, margin: float) -> Verdict:
    """One of three regions for the true difference to `reference`: within the margin, above it, below it.

    Each is accepted by its one-sided tests at `ALPHA`; where none is, the verdict is inconclusive.
    """
    p_values = {
        "reproduced": found.p_within(reference - margin, reference + margin),
        "above": found.p_greater(reference + margin),
        "below": found.p_less(reference - margin),
    }
    word = min(p_values, key=p_values.__getitem__)
    return Verdict(word, estimate=found, p=p_values[word])


def judge_effect(found: Estimate, claim: Claim) -> Verdict:
    """`holds` or `does not hold`, whichever its one-sided tests speak for; undecided claims are sorted out by Holm."""
    if claim.kind == "equal":
        p_holds = found.p_within(-claim.by, claim.by)
        p_fails = min(found.p_greater(claim.by), found.p_less(-claim.by))
    else:
        p_holds, p_fails = found.p_greater(claim.by), found.p_less(claim.by)
    word, p = ("holds", p_holds) if p_holds <= p_fails else ("does not hold", p_fails)
    return Verdict(word, estimate=found, p=p)


def _judge_cell(
    cell: Cell, records: Sequence[Record], scale: float, numbers: Numbers | None, profile: Profile, reason: str
) -> Verdict:
    if not records:
        hours = profile.seconds * len(profile.seeds) / 3600
        what = reason or profile.needs or "not asked for yet"
        return Verdict("not run", f"{what}; about {hours:.2g} h for {len(profile.seeds)} seeds")
    found = estimate(_scores(records, scale)) if sum(record.n for record in records) > 1 else None
    if found is None or numbers is None or cell.reference is None:
        missing = profile.seeds[len(records) :]
        return Verdict("measured", f"{len(missing)} seeds to go" if missing else "", estimate=found)
    return judge_number(found, cell.reference, numbers.margin)


def _judge_claim(claim: Claim, table: Table, cells: Mapping[str, CellResult]) -> Verdict:
    left, right = cells[claim.left], cells[claim.right]
    shared = {record.seed for record in left.records} & {record.seed for record in right.records}
    if not shared:
        return Verdict("not run", "; ".join({r.verdict.note for r in (left, right) if not r.records}))
    sign = 1.0 if table.higher_is_better or claim.kind == "equal" else -1.0
    sides = [
        _scores([record for record in side.records if record.seed in shared], sign * table.scale)
        for side in (left, right)
    ]
    try:
        verdict = judge_effect(paired_difference(*sides), claim)
    except ValueError as error:
        return Verdict("not run", str(error))
    changes = {*left.verdict.changes, *right.verdict.changes}
    return replace(verdict, changes=tuple(sorted(changes)))


def _adjust_cells(results: list[CellResult]) -> list[CellResult]:
    judged = [index for index, result in enumerate(results) if result.verdict.p is not None]
    for index, p in zip(judged, holm([results[index].verdict.p or 0.0 for index in judged]), strict=True):
        result = results[index]
        verdict = replace(result.verdict, p=p)
        if p > ALPHA:
            verdict = _undecided(verdict, f"its interval crosses the margin around {result.cell.reference:g}")
        results[index] = replace(result, verdict=verdict)
    return results


def _adjust_claims(results: list[ClaimResult]) -> list[ClaimResult]:
    judged = [index for index, result in enumerate(results) if result.verdict.p is not None]
    for index, p in zip(judged, holm([results[index].verdict.p or 0.0 for index in judged]), strict=True):
        claim, verdict = results[index].claim, replace(results[index].verdict, p=p)
        if p > ALPHA and verdict.estimate is not None:
            threshold = claim.by if claim.kind == "greater" or verdict.estimate.mean > 0 else -claim.by
            needed = seeds_needed(verdict.estimate, threshold, alpha=ALPHA / len(judged))
            verdict = _undecided(verdict, f"needs about {needed} seeds" if needed else "too close to its threshold")
        if verdict.changes:
            verdict = replace(verdict, word="stale", note=f"was: {verdict.word}. {'; '.join(verdict.changes)}")
        results[index] = ClaimResult(claim, verdict)
    return results


def _undecided(verdict: Verdict, note: str) -> Verdict:
    return replace(verdict, word="inconclusive", note=note)


def _mark_stale(result: CellResult) -> CellResult:
    verdict = result.verdict
    if not verdict.changes:
        return result
    note = f"was: {verdict.word}. Changed since: {'; '.join(verdict.changes)}"
    return replace(result, verdict=replace(verdict, word="stale", note=note))


def _changes(records: Sequence[Record], identity: Identity | None) -> tuple[str, ...]:
    """What no longer is as it was when the records were made; unknown identities (data not here) judge nothing."""
    if identity is None:
        return ()
    return tuple(sorted({change for record in records for change in identity.changes_since(record)}))


def _scores(records: Sequence[Record], scale: float) -> list[NDArray[np.float64]]:
    return [record.values * scale for record in sorted(records, key=lambda record: record.seed)]
