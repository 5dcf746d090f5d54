"""Pictures made from results."""

from __future__ import annotations

import io
from collections.abc import Sequence

from sextet_bench.verdict import TableResult

COLOURS = {
    "holds": "#1a7f37",
    "reproduced": "#1a7f37",
    "above": "#0969da",
    "below": "#cf222e",
    "does not hold": "#cf222e",
    "inconclusive": "#9a6700",
    "stale": "#8250df",
    "measured": "#57606a",
    "not run": "#8c959f",
}


def claims_picture(results: Sequence[TableResult]) -> bytes | None:
    """A forest plot of every claim that has an effect: interval, threshold, verdict colour. PNG, or None for none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    claims = [(result.table, claim) for result in results for claim in result.claims if claim.verdict.estimate]
    if not claims:
        return None
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.36 * len(claims)), layout="constrained")
    for line, (_, item) in enumerate(reversed(claims)):
        found, colour = item.verdict.estimate, COLOURS[item.verdict.word]
        assert found is not None
        low, high = found.interval()
        bounds = (-item.claim.by, item.claim.by) if item.claim.kind == "equal" else (item.claim.by,)
        axes.plot([low, high], [line, line], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot([found.mean], [line], "o", color=colour, markersize=6)
        axes.plot(bounds, [line] * len(bounds), "|", color="#24292f", markersize=12)
        axes.text(1.01, line, item.verdict.word, color=colour, va="center", transform=axes.get_yaxis_transform())
    axes.axvline(0, color="#d0d7de", linewidth=1, zorder=0)
    axes.set_yticks(range(len(claims)), [f"{table.paper}: {item.claim.text}" for table, item in reversed(claims)])
    units = sorted({table.unit for table, _ in claims})
    axes.set_xlabel(f"paired effect with 95% interval ({', '.join(units)}); tick: what the claim asks for")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()
