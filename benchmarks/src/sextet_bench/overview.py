"""The top of the report: what holds in a few sentences, the matrix of tables and verdicts, every claim drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from sextet_bench.charts import Scale, bounds
from sextet_bench.markup import Slot, anchor, row, table, verdict_class, verdict_span
from sextet_bench.sections import effect_text, threshold_text
from sextet_bench.svg import interval_svg
from sextet_bench.verdict import ClaimResult, TableResult

NUMBER_WORDS = ("reproduced", "above", "below", "inconclusive", "measured", "stale", "not run")
CLAIM_WORDS = ("holds", "does not hold", "inconclusive", "stale", "not run")


def summary(results: Sequence[TableResult]) -> str:
    """What was measured, what holds, what is left to do, in three sentences."""
    claims = Counter(claim.verdict.word for result in results for claim in result.claims)
    numbers = Counter(cell.verdict.word for result in results for cell in result.cells)
    judged = claims["holds"] + claims["does not hold"] + claims["inconclusive"]
    run = [result for result in results if result.records]
    lines = [
        f"{claims['holds']} of {judged} measured claims hold, {claims['does not hold']} do not, "
        f"{claims['inconclusive']} are not settled.",
        f"{numbers.total() - numbers['not run']} of {numbers.total()} numbers were measured in {len(run)} tables.",
    ]
    cpu, gpu = (
        sum(hours_left(result) for result in results if bool(result.profile.gpus) is on) for on in (False, True)
    )
    if cpu + gpu:
        left = " and ".join(f"{hours_text(h)} of {what}" for h, what in ((cpu, "one CPU"), (gpu, "one GPU")) if h)
        lines.append(f"The rest would take about {left}.")
    if claims["stale"] + numbers["stale"]:
        lines.append(f"{numbers['stale']} numbers and {claims['stale']} claims are stale: run them again.")
    return " ".join(lines)


def hours_left(result: TableResult) -> float:
    """Expected hours of the runs that have no record, one after the other, times the GPUs that a run needs."""
    profile = result.profile
    runs = len(result.cells) * len(profile.seeds) - len(result.records)
    return runs * profile.seconds / 3600 * max(1, profile.gpus)


def hours_text(hours: float) -> str:
    """Hours, minutes or days, roughly."""
    if hours < 1:
        return f"{max(1, round(hours * 60))} min"
    return f"{hours:.2g} h" if hours < 100 else f"{hours:,.0f} h"


def matrix(results: Sequence[TableResult]) -> str:
    """One row a table and profile: how many of its numbers and claims have which verdict, and costs."""
    spans = (("", 4), ("numbers", len(NUMBER_WORDS)), ("claims", len(CLAIM_WORDS)), ("", 3))
    groups = "".join(
        f'<th colspan="{span}" scope="colgroup">{title}</th>' if title else f'<td colspan="{span}"></td>'
        for title, span in spans
    )
    header = ("paper", "table", "profile", "what", *NUMBER_WORDS, *CLAIM_WORDS, "took", "still to run", "last run")
    turned = (*NUMBER_WORDS, *CLAIM_WORDS)
    caption = "How many numbers and claims of each table have which verdict"
    return table(header, [_matrix_row(r) for r in results], caption, above=f"<tr>{groups}</tr>", turned=turned)


def _matrix_row(result: TableResult) -> str:
    target = anchor(result.table.id, result.profile_name)
    took = sum(record.wall_s for record in result.records) / 3600
    left = hours_left(result)
    gpu = " GPU" if result.profile.gpus else ""
    last = max((record.finished[:10] for record in result.records), default="")
    slots = [
        Slot(escape(result.table.paper), css="name"),
        Slot(f'<a href="#{escape(target)}">{escape(result.table.name)}</a>', css="name"),
        Slot(escape(result.profile_name)),
        Slot(escape(result.table.title), css="text what"),
        *_counts([cell.verdict.word for cell in result.cells], NUMBER_WORDS),
        *_counts([claim.verdict.word for claim in result.claims], CLAIM_WORDS),
        Slot(hours_text(took) if took else "", took or "", "amount"),
        Slot(hours_text(left) + gpu if left else "", left or "", "amount"),
        Slot(last, css="amount"),
    ]
    return row(slots, {**marks(result), "data-for": target})


def marks(result: TableResult) -> dict[str, str]:
    """What the page's filter looks at: the paper and all verdicts of a table."""
    words = {cell.verdict.word for cell in result.cells} | {claim.verdict.word for claim in result.claims}
    return {"data-paper": result.table.paper, "data-verdicts": "|".join(sorted(words))}


def _counts(words: Sequence[str], known: Sequence[str]) -> list[Slot]:
    counts = Counter(words)
    return [
        Slot(str(counts[word]), counts[word], f"count {verdict_class(word)}") if counts[word] else Slot("", "", "count")
        for word in known
    ]


def claims_table(results: Sequence[TableResult]) -> str:
    """Every claim that was measured, with its effect drawn on a scale common to its paper and unit."""
    claims = [(result, claim) for result in results for claim in result.claims if claim.verdict.estimate is not None]
    if not claims:
        return "<p>No claim was measured yet.</p>"
    scales: dict[tuple[str, str], Scale] = {}
    for result, _ in claims:
        key = result.table.paper, result.table.unit
        scales[key] = claim_scale([c for r, c in claims if (r.table.paper, r.table.unit) == key])
    rows = [_claim_row(result, claim, scales[result.table.paper, result.table.unit]) for result, claim in claims]
    header = ("claim", "paper", "table", "verdict", "effect, drawn", "effect [95%]", "wanted", "the paper says")
    return table(header, rows, "Every measured claim; stroke: what the claim asks for; scales by paper and unit")


def claim_scale(claims: Sequence[ClaimResult], width: int = 150) -> Scale:
    """A scale with room for the intervals, thresholds and zero of all these claims."""
    values = [0.0]
    for item in claims:
        if item.verdict.estimate is not None:
            values += [*item.verdict.estimate.interval(), *thresholds(item)]
    return Scale(bounds(values), (6.0, width - 6.0))


def thresholds(item: ClaimResult) -> tuple[float, ...]:
    """Where the effect of a claim must lie beyond, or between."""
    return (-item.claim.by, item.claim.by) if item.claim.kind == "equal" else (item.claim.by,)


def claim_drawing(item: ClaimResult, scale: Scale, unit: str) -> Slot:
    """A claim's effect with interval and threshold, drawn; sorts by the effect."""
    found = item.verdict.estimate
    if found is None:
        return Slot("", "")
    low, high = found.interval()
    label = f"{effect_text(item)} {unit}, wanted {threshold_text(item, unit)}: {item.verdict.word}"
    drawing = interval_svg(
        low, found.mean, high, scale, word=item.verdict.word, label=label, ticks_at=thresholds(item), base=0.0
    )
    return Slot(drawing, found.mean)


def note_text(item: ClaimResult) -> str:
    """What would settle a claim, in small letters; for claims that were not run the section says it once."""
    noted = item.verdict.note and item.verdict.word != "not run"
    return f'<br><span class="faint">{escape(item.verdict.note)}</span>' if noted else ""


def _claim_row(result: TableResult, item: ClaimResult, scale: Scale) -> str:
    unit, target = result.table.unit, anchor(result.table.id, result.profile_name)
    slots = [
        Slot(escape(item.claim.text), css="text"),
        Slot(escape(result.table.paper), css="name"),
        Slot(f'<a href="#{escape(target)}">{escape(result.table.name)}</a>', css="name"),
        Slot(verdict_span(item.verdict) + note_text(item), item.verdict.word, "decision"),
        claim_drawing(item, scale, unit),
        Slot(escape(effect_text(item)), item.verdict.estimate.mean if item.verdict.estimate else "", "amount"),
        Slot(escape(threshold_text(item, unit)), css="amount"),
        Slot(escape(item.claim.says or "–"), css="note"),
    ]
    return row(slots, {"data-paper": result.table.paper, "data-verdicts": item.verdict.word})
