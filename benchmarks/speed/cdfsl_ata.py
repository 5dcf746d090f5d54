"""What adversarial task augmentation costs, and fine-tuning of several tasks at once, side by side.

    python -m benchmarks.speed.cdfsl_ata --threads 1 --out runs/speed/cdfsl_ata.json

from the root of the checkout (as a module: as a script this file would hide the package of the same name). On a GPU:
`--device cuda --clock wall --paper-size`, and `--precision bf16 --compiled` for a cheaper inner loop.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from cdfsl_ata.augmentation import AdversarialTaskAugmenter, EpisodeLoss, evaluating
from cdfsl_ata.encoders import ConvNet, ResNet, SmallResNet
from cdfsl_ata.finetuning import adam, classification_loss, dampened_sgd, episode_loss
from cdfsl_ata.frozen_norms import FrozenNorms
from cdfsl_ata.gnn import Gnn
from cdfsl_ata.learners import Learner, ProtoNet, RelationNet
from cdfsl_ata.stacking import MakeOptimizer, Objective, fine_tune_stacked
from sextet.cuda import Precision, select_device

from . import timing

WAY, STEPS, STEP_SIZE = 5, 5, 1.0
CPU_TARGET, GPU_TARGET, STACKED_TARGET = 5.0, 3.5, 4.0
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Arguments(timing.Arguments):
    """How to measure.

    Attributes:
        device: as for `sextet.cuda.select_device`.
        precision: of the inner loop of ours.
        compiled: whether the inner loop of ours runs a compiled learner.
        paper_size: also ResNet10 at 224 pixels with 16 queries a class (a GPU's work).
        tasks: as many are fine-tuned at once.
        seed: of weights and images.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    compiled: bool = False
    paper_size: bool = False
    tasks: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Setting:
    """A learner and the size of its episodes."""

    name: str
    make: Callable[[], Learner]
    n_support: int
    n_query: int
    size: int

    def __str__(self) -> str:
        return f"{self.name}, {WAY} x ({self.n_support} + {self.n_query}) images of {self.size} pixels"


SETTINGS = (
    Setting("ProtoNet, ResNet10", lambda: ProtoNet(ResNet(), 5), 5, 4, 64),
    Setting("GNN, ResNet10", lambda: Gnn(ResNet(), 5), 5, 4, 64),
    Setting("RelationNet, ResNet10", lambda: RelationNet(ResNet(flatten=False), 1, size=4), 1, 2, 128),
    Setting("ProtoNet, Conv4", lambda: ProtoNet(ConvNet(4), 5), 5, 4, 42),
    Setting("ProtoNet, small ResNet", lambda: ProtoNet(SmallResNet(), 5), 5, 4, 32),
)
PAPER_SETTINGS = (
    Setting("GNN, ResNet10", lambda: Gnn(ResNet(), 5), 5, 16, 224),
    Setting("RelationNet, ResNet10", lambda: RelationNet(ResNet(flatten=False), 5), 5, 16, 224),
)


@dataclass(frozen=True)
class Result:
    """One line of the table: how many times the time of `base` does `what` take.

    Attributes:
        difference: of the two sides' outputs where they should agree.
        predicted: of ATA: 1 + T (f + b_in) / (f + b), from f + b_in and f + b as measured here.
        target: what the ratio may be at most (ATA) or should be at least (stacked).
    """

    what: str
    base: str
    setting: str
    what_ms: float
    base_ms: float
    ratio: timing.Ratio
    difference: float | None = None
    predicted: float | None = None
    target: float | None = None
    at_most: bool = True

    @property
    def verdict(self) -> str:
        """Whether the target is met, by the median, and whether the whole interval is on that side."""
        if self.target is None:
            return ""
        sign = 1 if self.at_most else -1
        met = sign * self.ratio.median <= sign * self.target
        worse, better = (self.ratio.high, self.ratio.low) if self.at_most else (self.ratio.low, self.ratio.high)
        sure = sign * worse <= sign * self.target if met else sign * better > sign * self.target
        relation = "<=" if self.at_most else ">="
        return f"{'met' if met else 'NOT MET'} ({relation} {self.target:g}x){'' if sure else ', not sure'}"


def record(result: Result) -> dict[str, Any]:
    """The line as all benchmarks write it: how many times longer theirs takes; here the plain step is theirs of ATA."""
    low, median, high = result.ratio.low, result.ratio.median, result.ratio.high
    times = {"ours_ms": result.base_ms, "theirs_ms": result.what_ms}
    ratio, target = {"low": low, "median": median, "high": high}, result.target
    name = f"{result.base} / {result.what}"
    if result.at_most:
        name = f"{result.what} / {result.base}"
        times = {"ours_ms": result.what_ms, "theirs_ms": result.base_ms}
        ratio, target = {"low": 1 / high, "median": 1 / median, "high": 1 / low}, target and 1 / target
    rest = {"difference": result.difference, "predicted": result.predicted, "verdict": result.verdict}
    return {"name": name, "setting": result.setting, **times, "ratio": ratio, "target": target, **rest}


def training_step(learner: Learner, optimizer: torch.optim.Optimizer, images: Tensor) -> None:
    """One update on an episode."""
    loss = learner(images)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def published_ascent(learner: Learner, images: Tensor) -> Tensor:
    """The ascent as the published code does it: `backward`, which gives every parameter a gradient as well."""
    learner.eval()
    for _ in range(STEPS):
        images = images.detach().requires_grad_()
        learner(images).backward()
        assert images.grad is not None
        images = images + STEP_SIZE * images.grad
    learner.train()
    learner.zero_grad()
    return images.detach()


def time_augmentation(setting: Setting, arguments: Arguments) -> Iterator[Result]:
    """The plain step, ours and the published way, each beside the plain step; the two ways must agree."""
    device = select_device(arguments.device)
    torch.manual_seed(arguments.seed)
    learner = setting.make().to(device).train()
    images = torch.randn(WAY, setting.n_support + setting.n_query, 3, setting.size, setting.size).to(device)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.0)
    difference = check_agreement(setting, learner, images)

    def plain() -> None:
        training_step(learner, optimizer, images)

    def pixel_gradient() -> None:
        with evaluating([learner]):
            torch.autograd.grad(learner(images.requires_grad_()), images)
        images.requires_grad_(False)

    predicted = 1 + STEPS * measure(pixel_gradient, plain, arguments)[2].median
    target = GPU_TARGET if device.type == "cuda" else CPU_TARGET
    inner_loops: dict[str, EpisodeLoss] = {"ATA": torch.compile(learner) if arguments.compiled else learner}
    if not arguments.compiled:
        inner_loops["ATA, frozen norms"] = FrozenNorms(learner)
    for name, loss in inner_loops.items():
        augment = AdversarialTaskAugmenter(loss, STEPS, STEP_SIZE, 1.0, precision=arguments.precision, warn_rms=1e9)
        times = measure(partial(augmented_step, learner, optimizer, augment, images), plain, arguments)
        own = None if isinstance(loss, FrozenNorms) else predicted
        yield Result(f"{name}, T = {STEPS}", "plain step", str(setting), *times, difference, own, target)
    times = measure(lambda: training_step(learner, optimizer, published_ascent(learner, images)), plain, arguments)
    yield Result(f"the published way, T = {STEPS}", "plain step", str(setting), *times)


def check_agreement(setting: Setting, learner: Learner, images: Tensor) -> float:
    """Largest relative difference of the pixels' shift from the published one, in float64: five steps amplify rounding.

    Raises:
        ValueError: it is not small.
    """
    exact, images = copy.deepcopy(learner).double(), images.double()
    exact(images)  # running statistics that are not those of the start
    expected = [published_ascent(exact, images) - images]
    ways = [AdversarialTaskAugmenter(loss, STEPS, STEP_SIZE, 1.0, warn_rms=1e9) for loss in (exact, FrozenNorms(exact))]
    difference = max(timing.relative_error([way(images).images - images], expected) for way in ways)
    if difference > TOLERANCE:
        raise ValueError(f"{setting}: expected the pixels to move as published, found a difference of {difference:.1e}")
    return difference


def augmented_step(
    learner: Learner, optimizer: torch.optim.Optimizer, augment: AdversarialTaskAugmenter, images: Tensor
) -> None:
    """One update on the harder episode."""
    training_step(learner, optimizer, augment(images).images)


def measure(what: timing.Run, base: timing.Run, arguments: Arguments) -> tuple[float, float, timing.Ratio]:
    """Milliseconds of both, and how many times longer `what` takes."""
    times = timing.interleaved(base, what, pairs=arguments.pairs, clock=arguments.clock)
    return (
        1e3 * statistics.median(times.theirs), 1e3 * statistics.median(times.ours), timing.median_ratio(times.ratios)
    )  # fmt: skip


def time_stacking(
    name: str,
    model: nn.Module,
    objective: Objective,
    batch: tuple[Tensor, ...],
    make: MakeOptimizer,
    arguments: Arguments,
) -> Result:
    """One step of fine-tuning for all tasks at once, beside one task after the other."""
    device = select_device(arguments.device)
    models = [copy.deepcopy(model).to(device).train() for _ in range(arguments.tasks)]
    batch = tuple(part.to(device) for part in batch)
    count = 4

    def one_by_one() -> list[Tensor]:
        losses = []
        for index, own in enumerate(copy.deepcopy(models)):
            optimizer = make(own.parameters())
            for _ in range(count):
                loss = objective(own, *(part[index] for part in batch))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses.append(loss.detach())  # pyright: ignore[reportPossiblyUnboundVariable]
        return losses

    def stacked() -> list[Tensor]:
        return list(fine_tune_stacked(copy.deepcopy(models), objective, [batch] * count, make)[-1])

    difference = timing.relative_error(stacked(), one_by_one())
    if difference > TOLERANCE:
        raise ValueError(f"{name}: both ways should have the same losses, found a difference of {difference:.1e}")
    one, other, ratio = measure(one_by_one, stacked, arguments)
    target = STACKED_TARGET if device.type == "cuda" else None
    setting = f"{name}, {arguments.tasks} tasks"
    return Result("one by one", "stacked", setting, one / count, other / count, ratio, difference, None, target, False)


def stacking(arguments: Arguments) -> Iterator[Result]:
    """Linear fine-tuning (4 images a step) and episodic fine-tuning (1-shot pseudo episodes)."""
    size = 224 if arguments.paper_size else 64
    generator = torch.Generator().manual_seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    for name, encoder, pixels in (("ResNet10", ResNet, size), ("small ResNet", SmallResNet, 32)):
        classifier = nn.Sequential(encoder(), nn.Linear(encoder().dim, WAY))
        images = torch.randn(arguments.tasks, 4, 3, pixels, pixels, generator=generator)
        labels = torch.randint(WAY, (arguments.tasks, 4), generator=generator)
        yield time_stacking(
            f"linear, {name}, 4 images of {pixels} pixels", classifier, classification_loss, (images, labels),
            dampened_sgd, arguments,
        )  # fmt: skip
    learner = ProtoNet(SmallResNet(), 1)
    episodes = torch.randn(arguments.tasks, WAY, 4, 3, 32, 32, generator=generator)
    yield time_stacking(
        "episodes, ProtoNet, small ResNet, 20 images of 32 pixels", learner, episode_loss, (episodes,), adam, arguments
    )


def line(result: Result) -> str:
    """One line of the table as text."""
    ratio = f"{result.ratio.median:5.2f}x [{result.ratio.low:.2f}, {result.ratio.high:.2f}]"
    times = f"{result.what_ms:8.1f} / {result.base_ms:8.1f} ms"
    predicted = f"predicted {result.predicted:.2f}x" if result.predicted is not None else ""
    return f"{result.what:<26} {result.setting:<66} {times}  {ratio:<22} {predicted} {result.verdict}".rstrip()


def main(arguments: Arguments) -> None:
    """Measure, print the table, write it."""
    surroundings = timing.begin(threads=arguments.threads, clock=arguments.clock)
    results = []
    for setting in (*SETTINGS, *(PAPER_SETTINGS if arguments.paper_size else ())):
        for result in time_augmentation(setting, arguments):
            results.append(result)
            print(line(result), flush=True)
    for result in stacking(arguments):
        results.append(result)
        print(line(result), flush=True)
    rows = [record(result) for result in results]
    timing.write_results(arguments.out, asdict(arguments), surroundings, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
