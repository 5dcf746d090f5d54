"""1-bit adapters on a ViT-B/16: a training step beside peft's LoRA, files, many tasks in a batch, what inference costs.

    python -m benchmarks.speed.bi_adapter --threads 1 --out runs/speed/bi_adapter.json

The backbone's weights are random: none of the times depends on them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import peft
import timm
import torch
import tyro
from torch import Tensor, nn

from bi_adapter import (
    AdapterBank,
    BiAdapterConfig,
    adapter_infos,
    add_adapter,
    attach,
    delete_adapter,
    freeze_adapter,
    from_pretrained,
    merge_and_unload,
    save_pretrained,
    set_adapter,
    trainable_parameters,
)

from . import timing

CLASSES = 10


@dataclass(frozen=True)
class Arguments(timing.Arguments):
    """How to measure.

    Attributes:
        device: where.
        batch: images a step.
        dim: width of the adapters, rank of LoRA.
        tasks: in the mixed batch, one image of each.
    """

    device: str = "cpu"
    batch: int = 4
    dim: int = 32
    tasks: int = 100


@dataclass(frozen=True)
class Result:
    """One line: milliseconds of ours and theirs, or a measurement against a limit.

    Attributes:
        name: what.
        ours, theirs: medians, in `unit`; `theirs` is None where nothing is compared.
        unit: of them.
        ratio: how many times longer theirs takes.
        least: what the ratio should be at least; None where `most` counts.
        most: what `ours` should be at most.
    """

    name: str
    ours: float
    theirs: float | None = None
    unit: str = "ms"
    ratio: timing.Ratio | None = None
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the target is met, by the median."""
        if self.least is not None and self.ratio is not None:
            return timing.judge(self.ratio, self.least)
        if self.most is not None:
            return f"{'met' if self.ours < self.most else 'NOT MET'} (< {self.most:g} {self.unit})"
        return ""


def vit(name: str, device: str, *, num_classes: int = CLASSES, **options: Any) -> nn.Module:
    """A timm ViT with random weights, the same ones at each call."""
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=num_classes, **options).to(device)


def base(device: str, num_classes: int = CLASSES) -> nn.Module:
    """ViT-B/16 on images of 224 x 224."""
    return vit("vit_base_patch16_224", device, num_classes=num_classes)


def training_step(model: nn.Module, parameters: list[nn.Parameter], images: Tensor) -> Callable[[], None]:
    """Forward, backward and update."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4)
    labels = torch.arange(len(images), device=images.device) % CLASSES
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def against_peft(arguments: Arguments, images: Tensor) -> Iterator[Result]:
    """Training steps; peft tunes the same classifier and adapters of the same rank on query, key and value."""
    settings = peft.LoraConfig(
        r=arguments.dim, lora_alpha=arguments.dim, target_modules=r".*\.attn\.qkv", modules_to_save=["head"]
    )
    theirs = peft.get_peft_model(base(arguments.device), settings)
    other = training_step(theirs, [value for value in theirs.parameters() if value.requires_grad], images)
    for method in ("lora", "adaptformer"):
        config = replace(BiAdapterConfig(dim=arguments.dim), method=method)
        model = attach(base(arguments.device), config, num_classes=CLASSES)
        step = training_step(model, list(trainable_parameters(model)), images)
        times = timing.interleaved(step, other, pairs=arguments.pairs, clock=arguments.clock)
        name = f"training step, 1-bit {method} / peft LoRA of rank {arguments.dim}"
        yield compared(name, times, least=1 / 1.03 if method == "lora" else None)


def compared(name: str, times: timing.PairedTimes, *, least: float | None) -> Result:
    """A line of paired times."""
    ours, theirs = (1000 * statistics.median(each) for each in (times.ours, times.theirs))
    return Result(name, ours, theirs, ratio=timing.median_ratio(times.ratios), least=least)


def inference(arguments: Arguments, images: Tensor) -> Iterator[Result]:
    """Forward passes with adapters, unmerged and merged, beside the backbone alone."""
    plain = base(arguments.device).eval()
    for method, merged in (("lora", False), ("adaptformer", False), ("lora", True)):
        config = replace(BiAdapterConfig(dim=arguments.dim), method=method)
        model = freeze_adapter(attach(base(arguments.device), config, num_classes=CLASSES)).eval()
        if merged:
            model = merge_and_unload(model)
        with torch.inference_mode():
            ours, theirs = (lambda model=each: model(images) for each in (model, plain))
            times = timing.interleaved(ours, theirs, pairs=arguments.pairs, clock=arguments.clock)
        name = f"forward pass, {method}{', merged' if merged else ''} / backbone alone"
        yield compared(name, times, least=1 / 1.01 if merged else 1 / 1.08)


def files(arguments: Arguments) -> Iterator[Result]:
    """Saving and loading the adapters of a ViT-B/16 without classifier, and their bytes."""
    config = BiAdapterConfig(dim=arguments.dim)
    model = attach(base(arguments.device, num_classes=0), config, num_classes=None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "adapter"
        save_pretrained(model, folder)
        size = sum(file.stat().st_size for file in folder.iterdir())
        medians = []
        for others in (0, arguments.tasks):
            receiver = base(arguments.device, num_classes=0)
            for number in range(others):
                from_pretrained(receiver, folder, name=f"task-{number}")
            times = timing.interleaved(
                lambda: save_pretrained(model, folder),
                partial(swap, receiver, folder),
                pairs=max(arguments.pairs, 20),
                clock="wall",
                least_seconds=0.0,
            )
            medians.append([1000 * statistics.median(each) for each in (times.ours, times.theirs)])
    (save, load), (_, crowded) = medians
    yield Result("save", save)
    yield Result("load in the place of another", load)
    yield Result("save and load", save + load, most=20.0)
    yield Result(f"load beside {arguments.tasks} others", crowded)
    yield Result("files of one adapter", size / 1000, unit="kB", most=75.0)


def swap(model: nn.Module, folder: Path) -> None:
    """Load an adapter; the one that was loaded so before makes room."""
    if "loaded" in adapter_infos(model):
        delete_adapter(model, "loaded")
    from_pretrained(model, folder, name="loaded")


def many_tasks(arguments: Arguments) -> Iterator[Result]:
    """A batch with an image of each task through the bank, beside one pass a task with the adapter chosen before it."""
    for side in (32, 224):
        times = timing.interleaved(*task_runs(side, arguments), pairs=arguments.pairs, clock=arguments.clock)
        where = f"in a batch / in turn, ViT-Ti on {side} x {side} images"
        yield compared(f"{arguments.tasks} tasks {where}", times, least=5.0)
        times = timing.interleaved(*plain_runs(side, arguments), pairs=arguments.pairs, clock=arguments.clock)
        yield compared(f"{arguments.tasks} images without adapters {where}", times, least=None)


def task_runs(side: int, arguments: Arguments) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Both ways to serve one image of each task."""
    config, names = BiAdapterConfig(dim=arguments.dim), [f"task-{number}" for number in range(arguments.tasks)]
    model, served = (vit("vit_tiny_patch16_224", arguments.device, img_size=side).eval() for _ in range(2))
    bank = AdapterBank(served, config)
    for name in names:
        for each in (model, served):
            add_adapter(each, name, config, num_classes=CLASSES)
        set_adapter(model, name)
        freeze_adapter(model)
        bank.put(name, name)
    model.eval()
    images = torch.randn(arguments.tasks, 3, side, side, device=arguments.device)
    return lambda: bank(images, names), lambda: swapping(model, images, names)


def plain_runs(side: int, arguments: Arguments) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The backbone alone on a batch, and on its images one after another: what batching can save at all."""
    model = vit("vit_tiny_patch16_224", arguments.device, img_size=side).eval()
    images = torch.randn(arguments.tasks, 3, side, side, device=arguments.device)

    @torch.inference_mode()
    def batch() -> Tensor:
        return model(images)

    @torch.inference_mode()
    def in_turn() -> list[Tensor]:
        return [model(image[None]) for image in images]

    return batch, in_turn


@torch.inference_mode()
def swapping(model: nn.Module, images: Tensor, names: list[str]) -> list[Tensor]:
    """One pass an image, its adapter chosen before it."""
    results = []
    for image, name in zip(images, names, strict=True):
        set_adapter(model, name)
        results.append(model(image[None])[0])
    return results


def measure(arguments: Arguments) -> Iterator[Result]:
    """All lines."""
    images = torch.randn(arguments.batch, 3, 224, 224, device=arguments.device)
    yield from files(arguments)
    yield from many_tasks(arguments)
    yield from against_peft(arguments, images)
    yield from inference(arguments, images)


def main(arguments: Arguments) -> None:
    """Measure, print the table, write it."""
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    surroundings = timing.begin(threads=arguments.threads, clock=arguments.clock)
    print("ours / theirs; median paired ratio with 95% interval, above 1 where ours is faster")
    rows = []
    for result in measure(arguments):
        rows.append({**asdict(result), "verdict": result.verdict})
        other = "" if result.theirs is None else f" / {result.theirs:8.2f}"
        ratio = ""
        if result.ratio is not None:
            ratio = f"{result.ratio.median:6.3f}x [{result.ratio.low:.3f}, {result.ratio.high:.3f}]"
        print(f"{result.name:<62} {result.ours:8.2f}{other} {result.unit}  {ratio}  {result.verdict}", flush=True)
    timing.write_results(arguments.out, asdict(arguments), surroundings, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
