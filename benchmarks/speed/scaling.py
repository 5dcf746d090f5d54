"""How cost grows with one size at a time, beside what theory expects: exponents fitted to measured times and memory.

    python -m benchmarks.speed.scaling --out runs/speed/scaling.json

from the root of the checkout. Cost ~ size^exponent is fitted by least squares on logarithms over a geometric ladder of
sizes (`scaling_cases`). A ladder begins where a call takes a millisecond or more, far above the microseconds that
dispatching an operation takes, unless nothing is expected to grow; the exponent of its upper half is shown as well,
which is the larger one where a fixed cost still counts.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from . import timing

Costs = NDArray[np.float64]
RESAMPLES = 2_000
# Over a ladder of 16 to 1 it lets efficiency (caches, blocking of matrix products) change 1.5-fold from end to end:
# log(1.5) / log(16). Neighbouring powers stay far apart
TIME_TOLERANCE = 0.15
# Memory is counted, not sampled: only terms of lower order are left, 15 % between the ends of the same ladder
MEMORY_TOLERANCE = 0.05


@dataclass(frozen=True)
class Arguments:
    """How to measure.

    Attributes:
        threads: torch's threads.
        repeats: measurements of each size, in turn; at least 2.
        quick: the two smallest sizes of each ladder, one call at a time: whether everything runs, not how it grows.
        only: cases whose name contains this.
        out: JSON file for the results, or none.
    """

    threads: int = 1
    repeats: int = 7
    quick: bool = False
    only: str = ""
    out: Path | None = None


@dataclass(frozen=True)
class Case:
    """One size of one function.

    Attributes:
        name: package and function.
        size: what the sizes count.
        sizes: ascending and geometric, four or more.
        make: a size -> what is measured there; made before anything is measured.
        reason: of the expected exponents.
        time, memory: the lowest and highest exponent that theory allows; None where it is not measured.
        offset: a size whose cost is subtracted, so that the increment is fitted; None for none.
    """

    name: str
    size: str
    sizes: tuple[int, ...]
    make: Callable[[int], timing.Run]
    reason: str
    time: tuple[float, float] | None = None
    memory: tuple[float, float] | None = None
    offset: int | None = None


@dataclass(frozen=True)
class Exponent:
    """A fitted exponent with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


def fit_exponent(
    sizes: Sequence[int], costs: Costs, offset: Costs | None = None, *, level: float = 0.95, seed: int = 0
) -> Exponent:
    """b of cost = a size^b by least squares on logarithms of the medians; bootstrap over repetitions, seeded.

    Args:
        sizes: [n], above 0, n >= 2.
        costs: [n, repeats], above 0.
        offset: [repeats], of a call without what grows; its median is subtracted.
        level: of the interval.
        seed: of the resampling.

    Raises:
        ValueError: shapes that do not fit, or costs that are not above the offset (0 without).
    """
    if len(sizes) < 2 or costs.ndim != 2 or len(costs) != len(sizes) or min(sizes) <= 0:
        raise ValueError(
            f"sizes, costs: expected n >= 2 sizes above 0 and costs [n, repeats], got {list(sizes)}, {costs.shape}"
        )
    base = np.zeros(1) if offset is None else offset
    medians = np.median(costs, axis=1) - np.median(base)
    if not (medians > 0).all() or not np.isfinite(medians).all():
        raise ValueError(f"costs: expected finite medians above the offset, got {medians.tolist()} beyond it")
    centred = np.log(sizes) - np.log(sizes).mean()
    weights = centred / np.square(centred).sum()
    rng = np.random.default_rng(seed)
    drawn = rng.integers(costs.shape[1], size=(RESAMPLES, *costs.shape))
    resampled = np.median(np.take_along_axis(costs[None], drawn, axis=2), axis=2)
    resampled = resampled - np.median(rng.choice(base, size=(RESAMPLES, len(base))), axis=1, keepdims=True)
    # An increment that noise made negative has no logarithm
    slopes = np.log(resampled[(resampled > 0).all(axis=1)]) @ weights
    low, high = np.quantile(slopes, [(1 - level) / 2, (1 + level) / 2])
    return Exponent(float(np.log(medians) @ weights), float(low), float(high))


def judge(found: Exponent, expected: tuple[float, float], tolerance: float) -> str:
    """Whether the exponent is within the tolerance of what is expected, and whether its whole interval is or is not."""
    least, most = expected[0] - tolerance, expected[1] + tolerance
    met = least <= found.value <= most
    sure = least <= found.low and found.high <= most if met else found.high < least or found.low > most
    wanted = f"{expected[0]:g}" if expected[0] == expected[1] else f"{expected[0]:g} to {expected[1]:g}"
    return f"{'met' if met else 'NOT MET'} ({wanted} +- {tolerance:g}){'' if sure else ', not sure'}"


def sample_seconds(runs: Sequence[timing.Run], repeats: int, least_seconds: float) -> Costs:
    """CPU seconds a call, [runs, repeats]; sizes in turn, so that whatever else the machine does hits all alike.

    Args:
        runs: one a size.
        repeats: measurements of each.
        least_seconds: a short function is called again until one measurement takes about this long.
    """
    calls = []
    for run in runs:
        run()
        once = _seconds(run, 1) if least_seconds else 1.0
        calls.append(max(1, round(least_seconds / max(once, 1e-9))))
    # A collection would fall on one size or another
    gc.collect()
    rounds = [[_seconds(run, count) for run, count in zip(runs, calls, strict=True)] for _ in range(repeats)]
    return np.array(rounds).T


def _seconds(run: timing.Run, calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - start) / calls


def measure(case: Case, arguments: Arguments) -> Iterator[dict[str, Any]]:
    """One row for time and one for memory, where they are expected of the case."""
    sizes = case.sizes[:2] if arguments.quick else case.sizes
    runs = [case.make(size) for size in sizes]
    if case.time is not None:
        base = [] if case.offset is None else [case.make(case.offset)]
        seconds = sample_seconds([*runs, *base], *((2, 0.0) if arguments.quick else (arguments.repeats, 0.01)))
        offset = seconds[-1] if base else None
        yield row(case, "CPU time", sizes, 1e3 * seconds[: len(sizes)], None if offset is None else 1e3 * offset)
    if case.memory is not None:
        counted = np.array([[timing.peak_memory(run) / 2**20] for run in runs])
        yield row(case, "peak memory", sizes, counted, None)


def row(case: Case, quantity: str, sizes: Sequence[int], costs: Costs, offset: Costs | None) -> dict[str, Any]:
    """The line of a quantity as it is written: the fields that the report reads, and what they rest on.

    Args:
        case: what was measured.
        quantity: `CPU time` or `peak memory`.
        sizes: those measured, [n].
        costs: milliseconds or MiB, [n, repeats].
        offset: milliseconds at the case's offset, [repeats].
    """
    timed = quantity == "CPU time"
    expected, tolerance = (case.time, TIME_TOLERANCE) if timed else (case.memory, MEMORY_TOLERANCE)
    assert expected is not None
    found = fit_exponent(sizes, costs, offset)
    upper = (len(sizes) - 1) // 2
    return {
        "name": f"{case.name}: {quantity} ~ {case.size}^b",
        "setting": f"{case.size} = {', '.join(map(str, sizes))}; {case.reason}",
        "ours": found.value,
        "unit": "(exponent)",
        "low": found.low,
        "high": found.high,
        "upper_half": fit_exponent(sizes[upper:], costs[upper:], offset).value,
        "expected": list(expected),
        "tolerance": tolerance,
        "sizes": list(sizes),
        "medians": np.median(costs, axis=1).tolist(),
        "offset": None if offset is None else float(np.median(offset)),
        "costs_in": "ms" if timed else "MiB",
        "verdict": judge(found, expected, tolerance),
    }


def line(found: dict[str, Any]) -> str:
    """One line of the table as text."""
    exponent = f"{found['ours']:6.2f} [{found['low']:.2f}, {found['high']:.2f}] upper half {found['upper_half']:5.2f}"
    costs = f"{found['medians'][0]:8.2f} .. {found['medians'][-1]:8.2f} {found['costs_in']}"
    return f"{found['name']:<66} {exponent}  {costs:<26} {found['verdict']}"


def main(arguments: Arguments) -> None:
    """Measure, print the table, write it.

    Raises:
        ValueError: fewer than two repeats, or no case of the name that is asked for.
    """
    from .scaling_cases import cases

    if arguments.repeats < 2:
        raise ValueError(f"repeats: expected at least 2, got {arguments.repeats}")
    names = sorted({case.name for case in cases()})
    if not any(arguments.only in name for name in names):
        raise ValueError(f"only: no case has {arguments.only!r} in its name; {names}")
    torch.manual_seed(0)
    surroundings = timing.begin(threads=arguments.threads, clock="cpu")
    print("exponent with 95% interval, cost at the ends of the ladder, verdict (expected by theory +- tolerance)")
    rows = []
    # One at a time: files that a case needs are there only until the next section begins
    for case in cases():
        for found in measure(case, arguments) if arguments.only in case.name else ():
            rows.append(found)
            print(line(found), flush=True)
    print(f"{time.process_time():.0f} s of CPU time")
    timing.write_results(arguments.out, asdict(arguments), surroundings, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
