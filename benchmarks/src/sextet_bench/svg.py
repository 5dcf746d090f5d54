"""Charts and intervals as inline SVG. Colours are CSS variables, so that the page's dark mode reaches them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sextet_bench.charts import Chart, Curve, Scale, log_ticks, number, ticks

SHAPES = 4  # kinds of markers, so that curves can be told apart without colour
COLOURS = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44


def chart_svg(chart: Chart, *, width: int = 560, height: int = 300) -> str:
    """A chart with axes, grid and markers; its title and what it shows are there for screen readers."""
    box = (_LEFT + 8, width - _RIGHT - 8), (height - _BOTTOM, _TOP)
    low, high = chart.x_range
    room = 0.25 if chart.x_words else 0.0
    x = Scale((low - room, high + room), box[0], chart.log_x)
    y = Scale(chart.y_range, box[1])
    parts = [*_axes(chart, x, y, width, height)]
    for curve in chart.curves:
        parts += _curve(curve, x, y)
    words = f"{chart.y_title} against {chart.x_title}: " + "; ".join(_summary(curve) for curve in chart.curves)
    label = f'<title id="{chart.id}-t">{escape(chart.title)}</title><desc id="{chart.id}-d">{escape(words)}</desc>'
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{chart.id}-t {chart.id}-d">'
        f"{label}{''.join(parts)}</svg>"
    )


def chart_figure(chart: Chart) -> str:
    """A chart with its caption and key as an HTML figure."""
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 28 12" aria-hidden="true">{_sample(curve)}</svg>{escape(curve.title)}</li>'
        for curve in chart.curves
    )
    return (
        f'<figure class="chart-figure"><figcaption>{escape(chart.title)}</figcaption>{chart_svg(chart)}'
        f'<ul class="keys">{keys}</ul></figure>'
    )


def interval_svg(
    low: float,
    mean: float,
    high: float,
    scale: Scale,
    *,
    word: str,
    label: str,
    ticks_at: Sequence[float] = (),
    band: tuple[float, float] | None = None,
    base: float | None = None,
    width: int = 150,
) -> str:
    """One interval with its mean on a common scale: a line of the report's forest plots.

    Args:
        low, mean, high: in the scale's values; what lies outside the scale is cut off at its ends.
        scale: from values to 0..width.
        word: verdict, which sets the colour.
        label: the same in words, for screen readers and for pointing at.
        ticks_at: values that are marked by strokes: thresholds, references.
        band: a range that is shaded: the margin around a reference.
        base: a value that is marked faintly: no effect.
        width: of the picture, in pixels.
    """
    place = lambda value: min(max(scale(value), 1.0), width - 1.0)  # noqa: E731
    parts = [f"<title>{escape(label)}</title>"]
    if base is not None:
        parts.append(f'<path class="grid" d="M{place(base):.1f} 0v16"/>')
    if band:
        left, right = place(band[0]), place(band[1])
        parts.append(f'<rect class="band" x="{left:.1f}" y="1" width="{max(right - left, 1):.1f}" height="14"/>')
    parts += [f'<path class="tick" d="M{place(value):.1f} 2v12"/>' for value in ticks_at]
    parts.append(f'<path class="bar" d="M{place(low):.1f} 8H{max(place(high), place(low) + 1):.1f}"/>')
    parts.append(f'<circle cx="{place(mean):.1f}" cy="8" r="3.5"/>')
    size = f'viewBox="0 0 {width} 16" width="{width}" height="16"'
    return f'<svg class="interval v-{word.replace(" ", "-")}" {size} role="img">{"".join(parts)}</svg>'


def _axes(chart: Chart, x: Scale, y: Scale, width: int, height: int) -> list[str]:
    """Grid, ticks and titles of both axes."""
    bottom = height - _BOTTOM
    parts = []
    for value in ticks(*y.values):
        at = y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{width - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value, word in x_marks(chart):
        at = x(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {bottom}v4"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(word)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{width - _RIGHT}"/>')
    middle, centre = (_LEFT + width - _RIGHT) / 2, (bottom + _TOP) / 2
    parts.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{escape(chart.x_title)}</text>')
    turned = f'transform="rotate(-90 14 {centre})"'
    parts.append(f'<text x="14" y="{centre}" {turned} text-anchor="middle">{escape(chart.y_title)}</text>')
    return parts


def x_marks(chart: Chart) -> list[tuple[float, str]]:
    """Where the axis of x is marked, and with what."""
    if chart.x_words:
        return [(float(index), word) for index, word in enumerate(chart.x_words)]
    places = chart.x_ticks or (log_ticks if chart.log_x else ticks)(*chart.x_range)
    return [(value, number(value)) for value in places]


def _curve(curve: Curve, x: Scale, y: Scale) -> list[str]:
    places = [(x(point.x), y(point.y)) for point in curve.points]
    parts = []
    if curve.joined and len(places) > 1:
        parts.append(f'<path class="line" d="M{" ".join(f"{a:.1f} {b:.1f}" for a, b in places)}"/>')
    for point, (a, b) in zip(curve.points, places, strict=True):
        if point.low is not None and point.high is not None:
            parts.append(f'<path class="bar" d="M{a:.1f} {y(point.low):.1f}V{y(point.high):.1f}"/>')
        if curve.marked:
            title = f"<title>{escape(point.note)}</title>" if point.note else ""
            parts.append(_marker(curve, a, b, title))
    return [f'<g class="{_classes(curve)}">', *parts, "</g>"]


def _classes(curve: Curve) -> str:
    return f"c{curve.colour % COLOURS}{' dashed' if curve.dashed else ''}"


def _marker(curve: Curve, a: float, b: float, title: str = "") -> str:
    """A marker around (a, b); its shape goes with the colour, and references are hollow."""
    outline = (
        f"M{a - 3.5:.1f} {b:.1f}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
        f"M{a - 3.2:.1f} {b - 3.2:.1f}h6.4v6.4h-6.4z",
        f"M{a:.1f} {b - 4:.1f}l4 7h-8z",
        f"M{a:.1f} {b - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z",
    )[(curve.colour + curve.colour // COLOURS) % SHAPES]
    return f'<path class="mark" d="{outline}">{title}</path>'


def _sample(curve: Curve) -> str:
    line = '<path class="line" d="M1 6H27"/>' if curve.joined else ""
    return f'<g class="{_classes(curve)}">{line}{_marker(curve, 14, 6) if curve.marked else ""}</g>'


def _summary(curve: Curve) -> str:
    """A curve in words: all its points where they are few, else how it begins and ends."""
    points = curve.points if len(curve.points) <= 12 else (curve.points[0], curve.points[-1])
    return f"{curve.title}: " + ", ".join(f"{point.y:.4g} at {point.x:.4g}" for point in points)
