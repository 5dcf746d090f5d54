"""Heads of fslstm and its Pseudo Support Module against the usual ways to compute the same, side by side.

    python -m benchmarks.speed.fslstm --threads 1 --out runs/speed/fslstm.json

from the root of the checkout (as a module: as a script this file would hide the package of the same name). The SVM's
peer needs qpth, which comes with learn2learn; without it that comparison prints "not installed".
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
import tyro
from torch import Tensor

from fslstm import LSSVM, CrammerSingerSVM, Ridge, pseudo_support

from . import fslstm_peers as peers
from . import timing

Logits = Callable[[Tensor, Tensor, Tensor, int], Tensor]
WAY, ROUNDS = 5, 10
ACCURACY_TARGET = 1e-5


@dataclass(frozen=True)
class Arguments(timing.Arguments):
    """How to measure.

    Attributes:
        seed: of the inputs.
    """

    pairs: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Setting:
    """Shapes of one comparison: 5-way episodes a call, support and query rows a class, feature size."""

    episodes: int
    shot: int
    n_query: int
    dim: int

    def __str__(self) -> str:
        return f"{self.episodes} x {self.shot}-shot, {self.n_query} queries, d = {self.dim}"


@dataclass(frozen=True)
class Comparison:
    """Two functions that should return the same.

    Attributes:
        name: ours against theirs.
        ours, theirs: (query, support, labels, way) -> logits.
        tolerance: largest relative difference of logits and gradients that counts as agreement; None where they are
            different models, of which only the cost is compared.
        targets: the ratio that forward and backward together (for the pseudo support module: forward) should reach.
        needs: a library without which theirs cannot run.
        agree_in: dtype in which the outputs are compared, where theirs is too inexact in float32; times are of float32.
    """

    name: str
    ours: Logits
    theirs: Logits
    tolerance: float | None
    targets: dict[Setting, float]
    needs: str | None = None
    agree_in: torch.dtype = torch.float32


@dataclass(frozen=True)
class Result:
    """One line of the table. Times in milliseconds a call, memory in MiB; `ratio` is None for what was not timed."""

    name: str
    setting: str
    mode: str
    note: str
    difference: float | None = None
    ours_ms: float | None = None
    theirs_ms: float | None = None
    ratio: timing.Ratio | None = None
    ours_mib: float | None = None
    theirs_mib: float | None = None
    target: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the target is met, by the median, and whether the whole interval is on that side."""
        if self.target is None or self.ratio is None:
            return ""
        return timing.judge(self.ratio, self.target)


TRAINING = Setting(8, 15, 6, 5760)
BATCH = Setting(8, 5, 15, 5760)
SINGLE = Setting(1, 5, 15, 2560)
SETTINGS = (BATCH, TRAINING, SINGLE)
PSM_SETTINGS = tuple(Setting(episodes, 5, 15, dim) for episodes in (1, 8) for dim in (2560, 5760))
SVM_TARGET = dict.fromkeys(SETTINGS, 5.0)
HEADS = (
    Comparison("LS-SVM / block system, LU", LSSVM(), peers.block_system_ls_svm, 1e-3, {TRAINING: 15.0, BATCH: 5.0}),
    Comparison("LS-SVM / Cholesky, autograd", LSSVM(), peers.cholesky_ls_svm, 1e-3, {}),
    Comparison("ridge / explicit inverse", Ridge(), peers.inverse_ridge, 1e-3, {}),
    Comparison("SVM / qpth SVM", CrammerSingerSVM(), peers.qpth_svm, 1e-3, {}, "qpth", torch.float64),
    Comparison("LS-SVM / qpth SVM (cost only)", LSSVM(), peers.qpth_svm, None, SVM_TARGET, "qpth"),
)


def pseudo_support_logits(query: Tensor, support: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Our Pseudo Support Module on the LS-SVM."""
    return pseudo_support(LSSVM(), query, support, labels, n_way, rounds=ROUNDS).logits


PSM = Comparison(
    f"PSM, T = {ROUNDS} / appended rows, block system",
    pseudo_support_logits,
    peers.row_appending_psm,
    1e-3,
    dict.fromkeys(PSM_SETTINGS, 10.0),
)


def inputs(setting: Setting, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """query `[B, m, d]`, support `[B, n, d]`, labels `[B, n]`: overlapping classes, non-negative float32 features."""
    generator = torch.Generator().manual_seed(seed)
    # Class centres and noise share 16 directions, so that classes overlap as those of a trained network do
    directions = torch.randn(16, setting.dim, generator=generator)
    centers = torch.randn(setting.episodes, WAY, 16, generator=generator)

    def rows(count: int) -> Tensor:
        centre = centers.repeat_interleave(count, dim=1)
        noise = torch.randn(centre.shape, generator=generator)
        fine = torch.randn(*centre.shape[:2], setting.dim, generator=generator)
        return 0.1 * torch.relu((centre + noise) @ directions / 4 + 0.5 * fine)

    labels = torch.arange(WAY).repeat_interleave(setting.shot).expand(setting.episodes, -1)
    return rows(setting.n_query), rows(setting.shot), labels


def forward(head: Logits, data: tuple[Tensor, Tensor, Tensor]) -> Callable[[], list[Tensor]]:
    """A function that returns [logits], without gradient."""

    def call() -> list[Tensor]:
        with torch.no_grad():
            return [head(*data, WAY)]

    return call


def forward_backward(head: Logits, data: tuple[Tensor, Tensor, Tensor]) -> Callable[[], list[Tensor]]:
    """A function that returns [logits, gradient of the query, gradient of the support]."""
    query, support = (part.clone().requires_grad_() for part in data[:2])
    upstream = torch.randn(*query.shape[:2], WAY, generator=torch.Generator().manual_seed(1)).to(query)

    def call() -> list[Tensor]:
        logits = head(query, support, data[2], WAY)
        return [logits, *torch.autograd.grad(logits, (query, support), upstream)]

    return call


def compare(comparison: Comparison, setting: Setting, mode: str, arguments: Arguments) -> Result:
    """Outputs first; times and memory only where they agree."""
    if comparison.needs and importlib.util.find_spec(comparison.needs) is None:
        return Result(comparison.name, str(setting), mode, f"{comparison.needs}: not installed")
    data = inputs(setting, arguments.seed)
    make = forward if mode == "forward" else forward_backward
    ours, theirs = make(comparison.ours, data), make(comparison.theirs, data)
    difference, note = None, "other model"
    if comparison.tolerance is not None:
        query, support, labels = (part.to(comparison.agree_in) if part.is_floating_point() else part for part in data)
        same = query, support, labels
        difference = timing.relative_error(make(comparison.theirs, same)(), make(comparison.ours, same)())
        note = f"differ by {difference:.0e} in {str(comparison.agree_in).removeprefix('torch.')}"
        if not difference <= comparison.tolerance:
            return Result(comparison.name, str(setting), mode, f"{note}: not timed", difference)
    times = timing.interleaved(ours, theirs, pairs=arguments.pairs, clock=arguments.clock)
    timed_for_target = mode == "forward+backward" or comparison is PSM
    return Result(
        comparison.name,
        str(setting),
        mode,
        note,
        difference,
        1e3 * statistics.median(times.ours),
        1e3 * statistics.median(times.theirs),
        timing.median_ratio(times.ratios),
        timing.peak_memory(ours) / 2**20,
        timing.peak_memory(theirs) / 2**20,
        comparison.targets.get(setting) if timed_for_target else None,
    )


def comparisons(arguments: Arguments) -> Iterator[Result]:
    """All lines of the table, as they get ready."""
    for setting in SETTINGS:
        for comparison in HEADS:
            for mode in ("forward", "forward+backward"):
                yield compare(comparison, setting, mode, arguments)
    for setting in PSM_SETTINGS:
        yield compare(PSM, setting, "forward", arguments)


def float32_errors(seed: int) -> dict[str, dict[str, float]]:
    """Relative error of float32 logits against float64 ones of the same inputs: ours and the block system's."""
    errors = {}
    for setting in SETTINGS:
        data = inputs(setting, seed)
        double = (data[0].double(), data[1].double(), data[2])
        exact = forward(LSSVM(), double)()
        errors[str(setting)] = {
            "ours": timing.relative_error(forward(LSSVM(), data)(), exact),
            "block system": timing.relative_error(forward(peers.block_system_ls_svm, data)(), exact),
        }
    return errors


def line(result: Result) -> str:
    """One line of the table as text."""
    start = f"{result.name:<42} {result.setting:<36} {result.mode:<17}"
    if result.ratio is None:
        return f"{start} {result.note}"
    ratio = f"{result.ratio.median:6.2f}x [{result.ratio.low:.2f}, {result.ratio.high:.2f}]"
    times = f"{result.ours_ms:8.2f} / {result.theirs_ms:8.2f} ms"
    memory = f"{result.ours_mib:6.1f} / {result.theirs_mib:6.1f} MiB"
    return f"{start} {times}  {ratio:<24} {memory}  {result.note}  {result.verdict}".rstrip()


def print_errors(errors: dict[str, dict[str, float]]) -> None:
    """The float32 errors with their verdict."""
    for setting, found in errors.items():
        verdict = f"{'met' if found['ours'] < ACCURACY_TARGET else 'NOT MET'} (< {ACCURACY_TARGET:g})"
        peer = f"block system {found['block system']:.1e}"
        print(f"float32 logits against float64, {setting}: {found['ours']:.1e}  {verdict}; {peer}")


def main(arguments: Arguments) -> None:
    """Measure, print the table, write it."""
    surroundings = timing.begin(threads=arguments.threads, clock=arguments.clock)
    print("float32; ours / theirs: milliseconds a call, median paired ratio with 95% interval, peak memory")
    results = []
    for result in comparisons(arguments):
        results.append(result)
        print(line(result), flush=True)
    errors = float32_errors(arguments.seed)
    print_errors(errors)
    if arguments.out is not None:
        rows = [{**asdict(result), "verdict": result.verdict} for result in results]
        content = {"arguments": {**asdict(arguments), "out": str(arguments.out)}, "environment": surroundings}
        timing.write_json(arguments.out, {**content, "results": rows, "float32_errors": errors})


if __name__ == "__main__":
    main(tyro.cli(Arguments))
