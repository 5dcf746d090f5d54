"""Terms and training steps of infocl against the usual ways to compute the same, side by side.

    python -m benchmarks.speed.infocl --out runs/speed/infocl.json

from the root of the checkout. lightly's NT-Xent comes with the package's extra; without it that line prints "not
installed". The broadcast form of the lower bound needs some 7 GB at 512 rows of 2048.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import torch
import tyro
from torch import Tensor, nn

from infocl import Augmentation, Encoder, SimClr, Views, lower_bound
from infocl.losses import nt_xent
from infocl.networks import SmallEncoder

from . import infocl_peers as peers
from . import timing

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Arguments(timing.Arguments):
    """How to measure.

    Attributes:
        rows: of the largest comparison of the lower bound.
    """

    rows: int = 512


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same gradients.

    Attributes:
        name: ours against theirs.
        setting: shapes.
        ours, theirs: return [loss, gradients] where they are to agree; each call is one step.
        target: what the ratio of times should reach.
        tolerance: largest relative difference; None where the two are not the same computation.
        needs: a library without which theirs cannot run.
    """

    name: str
    setting: str
    ours: timing.Run
    theirs: timing.Run
    target: float | None = None
    tolerance: float | None = TOLERANCE
    needs: str | None = None


@dataclass(frozen=True)
class Result:
    """One line of the table. Times in milliseconds a call, memory in MiB; `ratio` is None for what was not timed."""

    name: str
    setting: str
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


def with_gradients(function: Callable[[Tensor, Tensor], Tensor], one: Tensor, other: Tensor) -> timing.Run:
    """A call that returns [value, both gradients]."""
    leaves = one.clone().requires_grad_(), other.clone().requires_grad_()

    def call() -> list[Tensor]:
        value = function(*leaves)
        return [value, *torch.autograd.grad(value, leaves)]

    return call


def features(rows: int, dim: int) -> tuple[Tensor, Tensor]:
    """Noisy features and features [rows, dim] of the lower bound."""
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(rows, dim, generator=generator) * 8 / dim**0.5
    return mu + 0.1 * torch.randn(rows, dim, generator=generator), mu


def terms(arguments: Arguments) -> Iterator[Comparison]:
    """The losses alone, forward and backward."""
    for dim in (512, 2048):
        z, mu = features(arguments.rows, dim)
        ours, theirs = (with_gradients(f, z, mu) for f in (lower_bound, peers.broadcast_lower_bound))
        yield Comparison("LBE / broadcast form", f"{arguments.rows} rows, d = {dim}", ours, theirs, 5.0)
    one, other = features(256, 128)
    ours = with_gradients(nt_xent, one, other)
    theirs = with_gradients(peers.broadcast_nt_xent, one, other)
    yield Comparison("NT-Xent / broadcast form", "512 rows, d = 128", ours, theirs, 5.0)
    if importlib.util.find_spec("lightly"):
        from lightly.loss import NTXentLoss

        theirs = with_gradients(NTXentLoss(temperature=0.5), one, other)
    yield Comparison("NT-Xent / lightly's", "512 rows, d = 128", ours, theirs, needs="lightly")


def networks() -> dict[str, tuple[nn.Module, int, int]]:
    """By name: an encoder, its dimension, the batch."""
    return {"ResNet18": (Encoder(), 512, 16), "small ResNet": (SmallEncoder(3), 128, 256)}


def step(model: SimClr, views: Callable[[], tuple[Tensor, ...]]) -> timing.Run:
    """A training step of our model on views that are made anew."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)

    def call() -> Tensor:
        loss = model(*views())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return call


class BroadcastSimClr(SimClr):
    """SimCLR with LBE whose losses are broadcast forms."""

    def forward(self, *images: Tensor, labels: Tensor | None = None, noise: object = None) -> Tensor:  # noqa: ARG002
        """The loss of two views."""
        views = [self.encoder(image) for image in images]
        noisy = [[stage + 0.1 * torch.randn_like(stage) for stage in stages] for stages in views]
        base = peers.broadcast_nt_xent(*(self.projector(stages[-1]) for stages in noisy))
        return base + self.weight * peers.broadcast_term(views, noisy)


def steps() -> Iterator[Comparison]:
    """Whole training steps on CIFAR-sized images."""
    images = torch.randint(0, 256, (512, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, (encoder, dim, batch) in networks().items():
        source = Views(images, Augmentation(), seed=0)
        rows = torch.arange(batch)
        fixed = source.views(rows, 0)
        with_term, without = (step(SimClr(encoder, dim, kind), lambda v=fixed: v) for kind in ("lbe", "none"))
        yield Comparison(f"step with LBE / without, {name}", f"batch {batch}", with_term, without, 1 / 1.1, None)
        ours = SimClr(encoder, dim, "lbe").to(memory_format=torch.channels_last)
        theirs = BroadcastSimClr(encoder, dim, "lbe")
        yield Comparison(
            f"step / PIL and broadcast forms, {name}",
            f"batch {batch}",
            step(ours, partial(channels_last, source, rows)),
            step(theirs, partial(peers.pil_views, images[:batch].numpy(), peers.pil_augmentation())),
            1.5,
            None,
        )


def channels_last(source: Views, rows: Tensor) -> tuple[Tensor, ...]:
    """Views of some images in the layout that the trainer uses."""
    return tuple(view.contiguous(memory_format=torch.channels_last) for view in source.views(rows, 0))


def compare(comparison: Comparison, arguments: Arguments) -> Result:
    """Outputs first; times and memory only where they agree."""
    start = comparison.name, comparison.setting
    if comparison.needs and importlib.util.find_spec(comparison.needs) is None:
        return Result(*start, f"{comparison.needs}: not installed")
    difference, note = None, "own random numbers"
    if comparison.tolerance is not None:
        difference = timing.relative_error(comparison.theirs(), comparison.ours())
        note = f"differ by {difference:.0e}"
        if not difference <= comparison.tolerance:
            return Result(*start, f"{note}: not timed", difference)
    times = timing.interleaved(
        comparison.ours, comparison.theirs, pairs=arguments.pairs, clock=arguments.clock, warm_up=1
    )
    return Result(
        *start,
        note,
        difference,
        1e3 * statistics.median(times.ours),
        1e3 * statistics.median(times.theirs),
        timing.median_ratio(times.ratios),
        timing.peak_memory(comparison.ours) / 2**20,
        timing.peak_memory(comparison.theirs) / 2**20,
        comparison.target,
    )


def line(result: Result) -> str:
    """One line of the table as text."""
    start = f"{result.name:<44} {result.setting:<20}"
    if result.ratio is None:
        return f"{start} {result.note}"
    ratio = f"{result.ratio.median:6.2f}x [{result.ratio.low:.2f}, {result.ratio.high:.2f}]"
    times = f"{result.ours_ms:8.1f} / {result.theirs_ms:8.1f} ms"
    memory = f"{result.ours_mib:7.1f} / {result.theirs_mib:7.1f} MiB"
    return f"{start} {times}  {ratio:<24} {memory}  {result.note}  {result.verdict}".rstrip()


def main(arguments: Arguments) -> None:
    """Measure, print the table, write it."""
    torch.manual_seed(0)
    surroundings = timing.begin(threads=arguments.threads, clock=arguments.clock)
    print("float32; ours / theirs: milliseconds a call, median paired ratio with 95% interval, peak memory")
    results = []
    for comparisons in (terms(arguments), steps()):
        for comparison in comparisons:
            results.append(compare(comparison, arguments))
            print(line(results[-1]), flush=True)
    rows = [{**asdict(result), "verdict": result.verdict} for result in results]
    timing.write_results(arguments.out, asdict(arguments), surroundings, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
