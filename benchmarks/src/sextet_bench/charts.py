"""What a line or point picture shows, before it is drawn: as SVG by `svg`, as PNG by `pictures`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One point of a curve, with its 95% interval where there is one; `note` is shown when it is pointed at."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Points that belong together.

    Attributes:
        title: for people.
        points: in the order of x.
        colour: index of the colour; curves of one thing share it.
        dashed: drawn with dashes: a reference, not a measurement.
        joined: whether a line joins the points.
        marked: whether the points have markers.
    """

    title: str
    points: tuple[Point, ...]
    colour: int
    dashed: bool = False
    joined: bool = True
    marked: bool = True


@dataclass(frozen=True)
class Chart:
    """A picture of curves over one axis.

    Attributes:
        id: unique on a page.
        title: for people.
        x_title, y_title: of the axes, with units.
        curves: what is drawn.
        x_words: words that stand at x = 0, 1, 2, ...; empty where x is a number.
        x_ticks: where the numbers of x stand; empty to choose.
        log_x: whether equal ratios of x are equally far apart.
    """

    id: str
    title: str
    x_title: str
    y_title: str
    curves: tuple[Curve, ...]
    x_words: tuple[str, ...] = ()
    x_ticks: tuple[float, ...] = ()
    log_x: bool = False

    @property
    def x_range(self) -> tuple[float, float]:
        """Smallest and largest x of all points."""
        if self.x_words:
            return 0.0, len(self.x_words) - 1.0
        return bounds([point.x for curve in self.curves for point in curve.points])

    @property
    def y_range(self) -> tuple[float, float]:
        """Smallest and largest y, intervals included, with a little room."""
        low, high = bounds(
            [
                y
                for curve in self.curves
                for point in curve.points
                for y in (point.y, point.low, point.high)
                if y is not None
            ]
        )
        room = 0.04 * (high - low)
        return low - room, high + room


@dataclass(frozen=True)
class Scale:
    """A map from a range of values to a range of places, linear in the values or in their logarithms."""

    values: tuple[float, float]
    places: tuple[float, float]
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, at = (math.log(v) if self.log else v for v in (*self.values, value))
        share = (at - low) / (high - low)
        return self.places[0] + share * (self.places[1] - self.places[0])


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest value, drawn apart where they are equal; 0..1 for none."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if low == high:
        apart = 0.5 * abs(low) or 0.5
        return low - apart, high + apart
    return low, high


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within low..high, at most `most`: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next((times for times in (1, 2, 5) if span / (times * step) <= most - 1), 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers within low..high for a logarithmic axis: powers of ten, 2 and 5 between where there is room."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1,)):
        found = [m * 10.0**p for p in powers for m in multiples if low * 0.999 <= m * 10.0**p <= high * 1.001]
        if len(found) <= most:
            break
    return found if len(found) >= 2 else ticks(low, high, most)


def number(value: float) -> str:
    """A tick's number in few signs."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:g}"
