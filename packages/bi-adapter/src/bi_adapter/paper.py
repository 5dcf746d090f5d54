"""The paper's own experiments: VTAB-1K, few-shot classification, precision, quantisers, resistance to noise.

One run is one cell: the scale (chosen on validation images, or the released one), the adapted model, its test images.
The cell `vtab` is the benchmark's average and shares everything with the cells of its 19 tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bi_adapter.adaptation import (
    ADAPTERS,
    METHODS,
    Adaptation,
    adapted_stage,
    adapter_config,
    chosen_scale,
    load_adapted,
    load_hits,
    load_images,
    make_draw,
    make_model,
)
from bi_adapter.adapters import attach, post_training_quantise, storage_bytes
from bi_adapter.backbone import Architecture, backbone_passport, make_backbone
from bi_adapter.evaluation import hits
from bi_adapter.fewshot import FEW_SHOT, FEW_SHOT_PASSPORTS, SEEDS, SHOTS
from bi_adapter.noise import dequantise, loss_surface, mean_under_noise, tuned_matrices
from bi_adapter.packing import packed_size
from bi_adapter.preprocessing import NORMALISATION
from bi_adapter.scales import GRID, released_scale
from bi_adapter.training import FineTuning
from bi_adapter.vtab import PASSPORTS, TASKS, group_means
from sextet import cuda
from sextet.cuda import select_device
from sextet.data import Passport
from sextet.recipe import Metrics, Recipe, RunContext, Scores

_CHOICES = {
    "task": ("vtab", *TASKS, *FEW_SHOT),
    "method": METHODS,
    "protocol": ("ours", "as-published"),
    "measure": ("accuracy", "storage", "surface"),
    "noise_on": ("weights", "update"),
    "normalise": tuple(NORMALISATION),
    "shots": (0, *SHOTS),
    "ptq_bits": (0, 1, 2, 4, 8),
}
SURFACE_SIDE = 21


@dataclass(frozen=True)
class PaperConfig:
    """One cell of the paper's tables.

    Attributes:
        task: one of the 19 tasks, `vtab` for their average (mean of the three groups' means), or a few-shot dataset.
        shots: of a few-shot dataset, whose three draws go with the seeds 0, 1 and 2; else 0.
        method: `adaptformer` or `lora`, `full` fine-tuning or a `linear` probe.
        bits, dim, head_bits, quantiser, codebook, per_row, statistic_gradients, dropout, drop_path, normalise, jpeg75,
            tuning, backbone: see `Adaptation`.
        scale: s; 0 for the protocol's: chosen on validation images, or as released.
        scales: what is chosen from.
        scale_shots: shots at which the scale of a few-shot dataset is chosen.
        search_seed: of the runs that choose the scale.
        protocol: `ours`: scale chosen by training on train800 and testing on val200, then training on all 1,000 and the
            last epoch on the test set. `as-published`: the released scale and the best of ten test evaluations.
        ptq_bits: quantise the trained adapters (32 bits) to so many bits; 0 not to.
        noise, noise_on, draws: strength of the noise on the trained matrices, 0 for none; relative to the spread of the
            `weights` or of their `update`; draws to average.
        measure: `accuracy`; `storage`, KiB a task with its head, without any data; `surface`, the training loss in two
            random directions, minus that in the middle.
    """

    task: str = "cifar"
    shots: int = 0
    method: str = "adaptformer"
    bits: int = 1
    dim: int = 32
    head_bits: int = 32
    quantiser: str = "median"
    codebook: str = "converged"
    per_row: bool = False
    statistic_gradients: bool = True
    dropout: float = 0.1
    drop_path: float = 0.1
    normalise: str = "none"
    jpeg75: bool = False
    scale: float = 0.0
    scales: tuple[float, ...] = GRID
    scale_shots: int = 8
    search_seed: int = 42
    protocol: str = "ours"
    ptq_bits: int = 0
    noise: float = 0.0
    noise_on: str = "weights"
    draws: int = 5
    measure: str = "accuracy"
    tuning: FineTuning = field(default_factory=FineTuning)
    backbone: Architecture = field(default_factory=Architecture)

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                found = getattr(self, name)
                raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {found!r}")
        if (self.task in FEW_SHOT) != (self.shots > 0):
            raise ValueError(f"shots: expected one of {SHOTS} with a few-shot dataset and 0 with VTAB-1K's tasks")
        if self.protocol == "as-published" and (self.shots or self.ptq_bits or self.noise or self.measure == "surface"):
            raise ValueError(
                "protocol: as-published goes with accuracy on VTAB-1K, without noise or later quantisation"
            )
        if self.ptq_bits and (self.method not in ADAPTERS or self.bits != 32):
            raise ValueError("ptq_bits: expected 0, or adapters trained with 32 bits")
        if self.measure == "storage" and self.shots:
            raise ValueError("measure: storage is that of VTAB-1K's tasks")
        if self.noise < 0 or self.draws < 1:
            raise ValueError(f"noise, draws: expected 0 or more and 1 or more, got {self.noise} and {self.draws}")
        if self.method == "linear" and (self.noise or self.measure == "surface"):
            raise ValueError("noise, surface: a linear probe has no trained matrices in its blocks")
        if self.method in ADAPTERS:
            adapter_config(self.adaptation(self.tasks[0]))  # refuses impossible bits and widths before anything trains

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the cell averages."""
        return tuple(TASKS) if self.task == "vtab" else (self.task,)

    def adaptation(self, task: str) -> Adaptation:
        """What the model of one task depends on; its scale is still to be settled."""
        names = set(Adaptation.__dataclass_fields__) - {"task"}
        return Adaptation(task=task, **{name: getattr(self, name) for name in names})


def run_paper(config: PaperConfig, context: RunContext) -> Metrics:
    """The cell's scores: one a test image, or the groups' means, or one a point of the surface."""
    if config.measure == "storage":
        return {"storage": Scores((sum(storage_kib(config)) / 3,), unit="benchmark")}  # exact: nothing to average over
    if config.measure == "surface":
        rises = [surface(config, task, context) for task in config.tasks]
        return {"loss rise": Scores(tuple(torch.stack(rises).mean(0).flatten().tolist()), unit="grid point")}
    found = {task: task_hits(config, task, context) for task in config.tasks}
    if config.task == "vtab":
        means = group_means({task: float(hits.double().mean()) for task, hits in found.items()})
        return {"accuracy": Scores(means, unit="task group")}
    return {"accuracy": Scores(tuple(found[config.task].double().tolist()), unit="image")}


def settled(config: PaperConfig, task: str, context: RunContext) -> Adaptation:
    """The model of one task with its scale: the given one, the released one, or the one chosen on validation images."""
    model = config.adaptation(task)
    if config.method not in ADAPTERS:
        return replace(model, scale=1.0)
    if config.scale:
        return model
    if config.protocol == "as-published":
        return replace(model, scale=released_scale(task, config.method, config.dim, config.head_bits == 1))
    if config.shots:
        model = replace(model, shots=config.scale_shots)
        train, val, seed = f"train_{config.scale_shots}_0", "val", 0
    else:
        train, val, seed = "train800", "val200", config.search_seed
    scale = chosen_scale(model, context, config.scales, train=train, val=val, seed=seed)
    return replace(model, scale=scale, shots=config.shots)


def training_list(config: PaperConfig, seed: int) -> str:
    """Name of the list to train on; few-shot lists are drawn for the seeds 0, 1 and 2.

    Raises:
        ValueError: another seed.
    """
    if not config.shots:
        return "train1000"
    if seed not in SEEDS:
        raise ValueError(f"seed: few-shot lists are drawn for the seeds {SEEDS}, got {seed}")
    return f"train_{config.shots}_{seed}"


def task_hits(config: PaperConfig, task: str, context: RunContext) -> Tensor:
    """Right (1) or wrong (0) for every test image of one task, or the share of draws of noise that was right."""
    train = training_list(config, context.seed)
    settings = settled(config, task, context)
    best = config.protocol == "as-published"
    folder = adapted_stage(settings, context, train=train, test="test", best_on_test=best)
    if not config.ptq_bits and not config.noise:
        return load_hits(folder)
    device = select_device(context.device)
    model = load_adapted(settings, context, folder)
    if config.ptq_bits:
        post_training_quantise(model, config.ptq_bits)
    images = load_images(settings, context)
    draw, labels = make_draw(settings, images, "test", device, train=False), images.labels_of("test")

    def measure() -> Tensor:
        return hits(model, draw, labels, device=device, precision=config.tuning.precision)

    if not config.noise:
        return measure()
    matrices = tuned_matrices(dequantise(model).to(device))
    start = start_of(settings, context) if config.noise_on == "update" else None
    return mean_under_noise(measure, matrices, config.noise, draws=config.draws, seed=context.seed, start=start)


def start_of(settings: Adaptation, context: RunContext) -> dict[str, Tensor]:
    """The matrices as they were before tuning, by name, in the form that noise acts on."""
    untrained = dequantise(make_model(settings, context.data_root, context.seed))
    return {name: value.detach() for name, value in tuned_matrices(untrained).items()}


def surface(config: PaperConfig, task: str, context: RunContext) -> Tensor:
    """Training loss over a plane around the trained matrices minus that in its middle, float64 [21, 21]."""
    train = training_list(config, context.seed)
    settings = settled(config, task, context)
    folder = adapted_stage(settings, context, train=train, test="test")
    device = select_device(context.device)
    model = dequantise(load_adapted(settings, context, folder)).to(device).eval()
    images = load_images(settings, context)
    draw, labels = make_draw(settings, images, train, device, train=False), images.labels_of(train)
    parts = [(draw(rows, torch.Generator()), labels[rows].to(device)) for rows in torch.arange(len(labels)).split(256)]

    @torch.no_grad()
    def loss() -> float:
        with cuda.autocast(device, config.tuning.precision):
            return sum(float(F.cross_entropy(model(x).float(), y, reduction="sum")) for x, y in parts) / len(labels)

    coordinates = torch.linspace(-1, 1, SURFACE_SIDE, dtype=torch.float64).tolist()
    found = loss_surface(loss, tuned_matrices(model), coordinates, seed=context.seed)
    return found - found[SURFACE_SIDE // 2, SURFACE_SIDE // 2]


def storage_kib(config: PaperConfig) -> tuple[float, float, float]:
    """KiB to keep for a task, its head included: means of VTAB-1K's three groups (or of one task, thrice)."""
    with torch.device("meta"):
        backbone = make_backbone(config.backbone)
    found = {}
    if config.method == "full":
        tuned = 4 * sum(value.numel() for value in backbone.parameters())
    elif config.method == "linear":
        tuned = 0
    else:
        model = attach(backbone.to_empty(device="cpu"), adapter_config(config.adaptation("cifar")))
        tuned = storage_bytes(model, by="payload", head=False)
    for name, task in TASKS.items():
        found[name] = (tuned + head_bytes(config.backbone.dim, task.n_classes, config.head_bits)) / 1024
    return group_means(found) if config.task == "vtab" else (found[config.task],) * 3


def head_bytes(width: int, classes: int, bits: int) -> int:
    """Bytes of a classifier: floats with a bias, or packed indices with a mean and a standard deviation."""
    if bits >= 16:
        return (width + 1) * classes * bits // 8
    return packed_size(width * classes, bits) + 8


def paper_data(config: PaperConfig) -> Sequence[Passport]:
    """The datasets that a config needs, the backbone's weights among them."""
    if config.measure == "storage":
        return ()
    data = [FEW_SHOT_PASSPORTS[task] if config.shots else PASSPORTS[task] for task in config.tasks]
    return (backbone_passport(config.backbone), *data)


PAPER = Recipe(
    config=PaperConfig,
    run=run_paper,
    data=paper_data,
    describe="the paper's experiments with a ViT-B/16: VTAB-1K, few-shot classification, precision, quantisers, noise",
)
