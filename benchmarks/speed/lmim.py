"""Pre-training steps of lmim beside the straightforward formulation and MAE, HOG beside scikit-image, side by side.

    python -m benchmarks.speed.lmim --threads 1 --out runs/speed/lmim.json

A step is forward and backward; the optimiser, the same on both sides, is left out. Weights and images are random: no
time depends on them. The peer of HOG needs scikit-image; without it that comparison prints "not installed":

    uv run --no-project --with-requirements benchmarks/speed/requirements.txt python -m benchmarks.speed.lmim
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
import tyro
from torch import Tensor, nn

from lmim import LocalMim, SparseSwin, SwinLocalMim, hog_targets
from lmim.config import SWIN_BASE, VIT_BASE, mae
from lmim.windows import knapsack

from . import lmim_peers as peers
from . import timing

Call = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Arguments(timing.Arguments):
    """How to measure.

    Attributes:
        batch: images a step.
        swin_batch: images a step of Swin.
        hog_batch: images of the comparisons of HOG.
        seed: of weights, images, masks.
    """

    batch: int = 8
    swin_batch: int = 4
    hog_batch: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """One line of the table. Times in milliseconds a call; `ratio` is theirs / ours, None for what was not timed."""

    name: str
    setting: str
    note: str
    ours_ms: float | None = None
    theirs_ms: float | None = None
    ratio: timing.Ratio | None = None
    target: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the target is met, by the median, and whether the whole interval is on that side."""
        if self.target is None or self.ratio is None:
            return ""
        return timing.judge(self.ratio, self.target)


def timed(
    name: str, setting: str, ours: Call, theirs: Call, arguments: Arguments, *, target: float | None, note: str
) -> Result:
    """Both sides in turn."""
    times = timing.interleaved(ours, theirs, pairs=arguments.pairs, clock=arguments.clock, warm_up=1)
    ours_ms, theirs_ms = (1e3 * statistics.median(side) for side in (times.ours, times.theirs))
    return Result(name, setting, note, ours_ms, theirs_ms, timing.median_ratio(times.ratios), target)


def agreeing(
    name: str, setting: str, ours: Call, theirs: Call, arguments: Arguments, *, target: float, tolerance: float
) -> Result:
    """The same, if the outputs agree to `tolerance`."""
    difference = timing.relative_error(ours(), theirs())
    note = f"differ by {difference:.0e}"
    if not difference <= tolerance:
        return Result(name, setting, f"{note}: not timed")
    return timed(name, setting, ours, theirs, arguments, target=target, note=note)


def step(model: nn.Module, losses: Callable[[], Tensor]) -> Call:
    """Forward and backward; returns [losses, gradient of the patch embedding]."""
    patches = next(value for name, value in model.named_parameters() if name.endswith("patch_embed.proj.weight"))

    def call() -> list[Tensor]:
        model.zero_grad()
        found = losses()
        found.sum().backward()
        assert patches.grad is not None
        return [found.detach(), patches.grad]

    return call


def vit_steps(arguments: Arguments) -> Iterator[Result]:
    """ViT-B/16 at 224 pixels: against its straightforward formulation, against MAE, and the share of HOG."""
    model, setting = LocalMim.of(VIT_BASE), f"ViT-B/16, {arguments.batch} images"
    images, noise = torch.randn(arguments.batch, 3, 224, 224), torch.rand(arguments.batch, 196)
    ours = step(model, lambda: model.losses(images, 0.75, noise))
    reference = step(model, lambda: peers.reference_losses(model, images, noise))
    # Rounding in the peer's convolution moves border pixels, whose gradient is exactly along an axis, to the next bin
    yield agreeing(
        "step / straightforward formulation", setting, ours, reference, arguments, target=1 / 0.9, tolerance=2e-2
    )
    yield timed(
        "HOG / whole step (its share)", setting, lambda: hog_targets(images, model.cells, 9), ours, arguments,
        target=50, note="a fiftieth of the step or less",
    )  # fmt: skip
    other = LocalMim.of(mae(VIT_BASE))
    theirs = step(other, lambda: other.losses(images, 0.75, noise))
    yield timed("step / MAE's step", setting, ours, theirs, arguments, target=1 / 0.55, note="other model")


def swin_step(arguments: Arguments) -> Iterator[Result]:
    """Swin-B at 224 pixels against windows packed by a knapsack; every step has a new mask, so new windows."""
    model = SwinLocalMim.of(replace(SWIN_BASE, hog_bias=False))
    sizes = (SWIN_BASE.patch, SWIN_BASE.dim, SWIN_BASE.depths, SWIN_BASE.heads, SWIN_BASE.window)
    other = peers.knapsack_swin(model, SparseSwin(*sizes, packing=knapsack))
    images = torch.randn(arguments.swin_batch, 3, 224, 224)

    def sparse_step(swin: SwinLocalMim) -> Call:
        masks = torch.Generator().manual_seed(arguments.seed)
        return step(swin, lambda: swin(images, 0.75, torch.randperm(49, generator=masks)).losses)

    yield agreeing(
        "sparse step / knapsack formulation", f"Swin-B, {arguments.swin_batch} images", sparse_step(model),
        sparse_step(other), arguments, target=1.3, tolerance=1e-3,
    )  # fmt: skip


def hog(arguments: Arguments) -> Iterator[Result]:
    """HOG at the four cell sizes of a ViT-16, against a loop of scikit-image over images and against four passes."""
    images, cells = torch.randn(arguments.hog_batch, 3, 224, 224), (4, 8, 16, 32)
    setting = f"{arguments.hog_batch} images, 4 cell sizes"

    def ours() -> list[Tensor]:
        return hog_targets(images, cells, 9)

    def passes() -> list[Tensor]:
        return [peers.one_pass_hog(images, cell, 9) for cell in cells]

    def loop() -> list[Tensor]:
        return [torch.from_numpy(part) for part in peers.scikit_image_hog(images, cells, 9)]

    name = "HOG / loop of scikit-image"
    if importlib.util.find_spec("skimage") is None:
        yield Result(name, setting, "skimage: not installed")
    else:
        yield timed(name, setting, ours, loop, arguments, target=5, note="another descriptor of the same size")
    yield timed(
        "HOG / four passes", setting, ours, passes, arguments, target=None, note="equal but for pixels at the border"
    )


def line(result: Result) -> str:
    """One line of the table as text."""
    start = f"{result.name:<38} {result.setting:<26}"
    if result.ratio is None:
        return f"{start} {result.note}"
    ratio = f"{result.ratio.median:6.2f}x [{result.ratio.low:.2f}, {result.ratio.high:.2f}]"
    times = f"{result.ours_ms:9.1f} / {result.theirs_ms:9.1f} ms"
    return f"{start} {times}  {ratio:<24} {result.note}  {result.verdict}".rstrip()


def main(arguments: Arguments) -> None:
    """Measure, print the table, write it."""
    torch.manual_seed(arguments.seed)
    surroundings = timing.begin(threads=arguments.threads, clock=arguments.clock)
    print("float32; ours / theirs: milliseconds a call, median paired ratio theirs / ours with 95% interval")
    results = []
    for part in (hog, vit_steps, swin_step):
        for result in part(arguments):
            results.append(result)
            print(line(result), flush=True)
    rows = [{**asdict(result), "verdict": result.verdict} for result in results]
    timing.write_results(arguments.out, asdict(arguments), surroundings, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
