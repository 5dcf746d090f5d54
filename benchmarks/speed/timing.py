"""Two implementations of the same thing, timed side by side: pairs in turn, median of the paired ratios, peak memory.

Ratios within one run are what can be compared between machines; the seconds are printed for orientation.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sextet_bench.record import git_state

Clock = Literal["cpu", "wall"]
Run = Callable[[], Any]
CPU = torch.device("cpu")
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Arguments:
    """How to measure, what all benchmarks of pairs have in common.

    Attributes:
        threads: torch's threads.
        pairs: measurements of each side, in turn; at least 10.
        clock: seconds of this process (`cpu`) or of the clock on the wall.
        out: JSON file for the results, or none.
    """

    threads: int = 1
    pairs: int = 10
    clock: Clock = "cpu"
    out: Path | None = None


@dataclass(frozen=True)
class PairedTimes:
    """Seconds a call of both sides, `ours[i]` and `theirs[i]` measured right after each other."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times longer theirs took, pair by pair."""
        return tuple(theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True))


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios with the bounds of its bootstrap interval."""

    median: float
    low: float
    high: float


def interleaved(
    ours: Run, theirs: Run, *, pairs: int = 20, clock: Clock = "cpu", least_seconds: float = 0.02, warm_up: int = 2
) -> PairedTimes:
    """Time two functions in turn, so that whatever else the machine does hits both alike.

    Args:
        ours, theirs: what is timed; on CUDA they are waited for.
        pairs: at least 10; ours comes first in every other one.
        clock: `"cpu"`, seconds of this process's threads, which other programs disturb less; `"wall"` for devices.
        least_seconds: a short function is called again until one measurement takes about this long.
        warm_up: calls before the first measurement.

    Raises:
        ValueError: fewer than 10 pairs.
    """
    if pairs < 10:
        raise ValueError(f"pairs: expected at least 10, got {pairs}")
    calls = []
    for function in (ours, theirs):
        for _ in range(warm_up):
            function()
        calls.append(max(1, round(least_seconds / max(_seconds(function, 1, clock), 1e-9))))
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            times[side].append(_seconds((ours, theirs)[side], calls[side], clock))
    return PairedTimes(tuple(times[0]), tuple(times[1]))


def _seconds(function: Run, calls: int, clock: Clock) -> float:
    """Seconds a call, over `calls` of them."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    _synchronize()
    start = now()
    for _ in range(calls):
        function()
    _synchronize()
    return (now() - start) / calls


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def median_ratio(ratios: Sequence[float], *, level: float = 0.95, seed: int = 0) -> Ratio:
    """Median and its percentile bootstrap interval at `level`; the resampling is seeded.

    Raises:
        ValueError: no ratios, or some not positive and finite.
    """
    values = np.asarray(ratios, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(f"ratios: expected positive finite numbers, got {list(ratios)}")
    drawn = np.random.default_rng(seed).choice(values, size=(_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Ratio(float(np.median(values)), float(low), float(high))


def judge(ratio: Ratio, target: float) -> str:
    """Whether the least ratio asked for is met, by the median, and whether the whole interval is on that side."""
    met = ratio.median >= target
    sure = ratio.low >= target if met else ratio.high < target
    return f"{'met' if met else 'NOT MET'} (>= {target:.3g}x){'' if sure else ', not sure'}"


def peak_memory(function: Run, device: torch.device = CPU) -> int:
    """Most bytes that torch had allocated at once on `device` during one call, beyond what was there before.

    On the CPU it is counted from the allocator's events, so that it does not depend on what the process keeps.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler would announce itself; it reads this at its first use
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    # A first call frees what earlier ones left for the garbage collector
    function()
    gc.collect()
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        function()
    results: Any = profile.kineto_results if profile is not None else None
    if results is None:
        raise RuntimeError("this torch is built without the Kineto profiler; memory cannot be measured")
    events = [event for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([0, *(event.nbytes() for event in events)]).max())


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest max|found - expected| / max|expected| over pairs of tensors, computed in float64; inf for NaN."""
    errors = []
    for one, other in zip(found, expected, strict=True):
        difference = (one.detach().double() - other.detach().double()).abs().max()
        errors.append(float(difference / other.detach().double().abs().max()))
    return max(error if np.isfinite(error) else float("inf") for error in errors)


def environment(*, clock: Clock) -> dict[str, Any]:
    """What a reader needs to judge the numbers by."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "clock": clock,
        "commit": git_state(Path(__file__).parent)[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def begin(*, threads: int, clock: Clock) -> dict[str, Any]:
    """Fix torch's threads; print and return the environment."""
    torch.set_num_threads(threads)
    surroundings = environment(clock=clock)
    print("  ".join(f"{name}: {value}" for name, value in surroundings.items()))
    return surroundings


def write_results(
    path: Path | None, arguments: Mapping[str, Any], surroundings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write a record of a benchmark to `path`; nothing where it is None.

    Args:
        path: where to.
        arguments: of the benchmark; paths are written as text.
        surroundings: of `begin`.
        rows: one a line of its table.
    """
    if path is not None:
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        write_json(path, {"arguments": plain, "environment": surroundings, "results": rows})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write results, making the folder when absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
