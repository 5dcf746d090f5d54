"""The paper's claim on a laptop: a small ViT that knows garments is adapted to digits, or to the turns of new garments.

The backbone is pre-trained once on Fashion-MNIST and frozen. Each target has 1,000 training images (800 and 200 to
choose the scale on) and 3,000 test images, the same for every seed, as VTAB-1K has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from bi_adapter.adapters import attach, post_training_quantise
from bi_adapter.backbone import Architecture, make_backbone
from bi_adapter.config import BiAdapterConfig
from bi_adapter.evaluation import best_scale, hits
from bi_adapter.noise import PTQ_STRENGTH, dequantise, mean_under_noise, tuned_matrices
from bi_adapter.packing import PACKED_BITS
from bi_adapter.small_vit import AdaptedTail, ClassTokenTransformer, PretrainingConfig, first_block, grey, pretrain
from bi_adapter.targets import Target, digits_target, rotation_target
from bi_adapter.training import FineTuning, TunedPart, fine_tune
from sextet.cuda import select_device
from sextet.data import FASHION_MNIST, MNIST, Arrays, Passport, load, recorded_hash
from sextet.files import write_atomic
from sextet.recipe import Metrics, Recipe, RunContext, Scores

METHODS = ("adaptformer", "full", "linear")
TARGETS = ("mnist", "rot8")
_CHOICES = {
    "target": TARGETS,
    "method": METHODS,
    "noise_like_bits": (0, *PTQ_STRENGTH),
    "ptq_bits": (0, *PACKED_BITS),
}


@dataclass(frozen=True)
class LaptopConfig:
    """One cell: a way to tune the small ViT, on one target, as it is or after quantisation or noise.

    Attributes:
        target: `mnist`, ten digits; or `rot8`, by how many eighths of a turn an unseen garment is rotated.
        method: `adaptformer`; `full` fine-tuning; a `linear` probe.
        bits, dim: of the adapters.
        scales: s is the one of these with the best accuracy on val200 after training on train800.
        search_epochs, search_seed: of those shorter runs, which all seeds share.
        ptq_bits: quantise the trained adapters (32 bits) to so many bits; 0 not to.
        noise: strength of noise on the trained matrices, 0 for none.
        noise_like_bits: noise of the power of quantising to so many bits, in place of `noise`; 0 for none.
        draws: of noise, to average.
        test_images: of the target.
        tuning: the recipe.
        architecture, pretraining: of the backbone.
    """

    target: str = "mnist"
    method: str = "adaptformer"
    bits: int = 1
    dim: int = 32
    scales: tuple[float, ...] = (1.0, 10.0, 100.0)
    search_epochs: int = 30
    search_seed: int = 0
    ptq_bits: int = 0
    noise: float = 0.0
    noise_like_bits: int = 0
    draws: int = 3
    test_images: int = 3000
    tuning: FineTuning = field(default_factory=FineTuning)
    architecture: Architecture = field(default_factory=lambda: Architecture(28, 7, 1, 64, 4, 4))
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                expected = ", ".join(map(str, known))
                raise ValueError(f"{name}: expected one of {expected}, got {getattr(self, name)!r}")
        for scale in self.scales:
            BiAdapterConfig(bits=self.bits, dim=self.dim, scale=scale)
        for name, least in (("search_epochs", 1), ("draws", 1), ("test_images", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if not self.scales:
            raise ValueError("scales: expected at least one to choose from")
        if not math.isfinite(self.noise) or self.noise < 0:
            raise ValueError(f"noise: expected a finite strength, 0 or more, got {self.noise}")
        if self.ptq_bits and (self.method != "adaptformer" or self.bits != 32):
            raise ValueError("ptq_bits: expected 0, or adapters trained with 32 bits")
        if (self.noise or self.noise_like_bits) and (self.method == "linear" or self.ptq_bits):
            raise ValueError("noise: expected 0 with a linear probe and after quantisation")

    @property
    def strength(self) -> float:
        """Of the noise, relative to the spread of each matrix."""
        return PTQ_STRENGTH[self.noise_like_bits] if self.noise_like_bits else self.noise


@dataclass(frozen=True, eq=False)
class Lab:
    """What every run on one target shares.

    Attributes:
        config, device: of the run.
        weights: of the backbone.
        target: images and labels.
        inputs: what the tuned model reads, for every image of the target, train, val and test one after another.
    """

    config: LaptopConfig
    device: torch.device
    weights: dict[str, Tensor]
    target: Target
    inputs: Tensor

    def draw(self, first: int) -> Callable[[Tensor, torch.Generator], Tensor]:
        """Inputs of rows counted from `first`."""
        prepare = grey if self.config.method == "full" else _unchanged

        def draw(rows: Tensor, _: torch.Generator) -> Tensor:
            return prepare(self.inputs[first + rows].to(self.device))

        return draw


def _unchanged(inputs: Tensor) -> Tensor:
    return inputs


def run_laptop(config: LaptopConfig, context: RunContext) -> Metrics:
    """Right or wrong for every test image (`accuracy`) and what noise takes from it (`drop`), one score an image."""
    lab = make_lab(config, context)
    scale = scale_stage(lab, context) if config.method == "adaptformer" else 1.0
    folder = tuned_stage(lab, context, scale)
    clean = safetensors.torch.load_file(folder / "hits.safetensors")["hits"].double()
    if not config.ptq_bits and not config.strength:
        return {"accuracy": image_scores(clean)}
    model = make_model(lab, scale, context.seed)
    TunedPart(model).load_state_dict(safetensors.torch.load_file(folder / "tuned.safetensors"))
    if config.ptq_bits:
        post_training_quantise(inner(model), config.ptq_bits)
        return {"accuracy": image_scores(test_hits(lab, model).double())}
    matrices = tuned_matrices(inner(dequantise(model)))
    shaken = mean_under_noise(
        lambda: test_hits(lab, model), matrices, config.strength, draws=config.draws, seed=context.seed
    )
    return {"accuracy": image_scores(shaken), "drop": image_scores(clean - shaken)}


def image_scores(values: Tensor) -> Scores:
    """One score a test image."""
    return Scores(tuple(values.tolist()), unit="image")


def make_lab(config: LaptopConfig, context: RunContext) -> Lab:
    """Backbone and target, with what the tuned model reads computed once."""
    device = select_device(context.device)
    folder = backbone_stage(config, context, device)
    weights = safetensors.torch.load_file(folder / "backbone.safetensors")
    fashion = load(FASHION_MNIST, context.data_root)
    if config.target == "mnist":
        target = digits_target(load(MNIST, context.data_root), config.test_images)
    else:
        unseen = source_order(fashion, config)[config.pretraining.images :]
        target = rotation_target(fashion, unseen, config.test_images)
    lab = Lab(config, device, weights, target, target.pixels)
    if config.method == "full":
        return lab
    return replace(lab, inputs=frozen_inputs(lab))


@torch.no_grad()
def frozen_inputs(lab: Lab) -> Tensor:
    """Features [n, dim] for a linear probe; what `small_vit.first_block` returns, [n, 2, tokens, dim], for adapters."""
    backbone = with_weights(lab).to(lab.device).eval()
    if lab.config.method == "adaptformer":
        attach(backbone, BiAdapterConfig(dim=1), num_classes=None)

    def compute(pixels: Tensor) -> Tensor:
        images = grey(pixels.to(lab.device))
        return backbone(images) if lab.config.method == "linear" else first_block(backbone, images)

    return torch.cat([compute(part).cpu() for part in lab.target.pixels.split(256)])


def with_weights(lab: Lab) -> Any:
    """The frozen backbone without head."""
    backbone = make_backbone(lab.config.architecture)
    backbone.load_state_dict(lab.weights)
    return backbone


def make_model(lab: Lab, scale: float, seed: int) -> nn.Module:
    """What is tuned, freshly initialised, on the inputs that `Lab` holds."""
    config = lab.config
    torch.manual_seed(seed)
    if config.method == "linear":
        return nn.Linear(config.architecture.dim, lab.target.n_classes)
    backbone = with_weights(lab)
    if config.method == "full":
        backbone.reset_classifier(lab.target.n_classes)
        return ClassTokenTransformer(backbone)
    adapter = BiAdapterConfig(bits=config.bits, dim=config.dim, scale=scale)
    return AdaptedTail(attach(backbone, adapter, num_classes=lab.target.n_classes))


def inner(model: nn.Module) -> nn.Module:
    """The vision transformer of a tuned model."""
    assert isinstance(model, ClassTokenTransformer)
    return model.model


def test_hits(lab: Lab, model: nn.Module) -> Tensor:
    """Right or wrong for the test images, uint8 [n]."""
    train, val, labels = lab.target.train, lab.target.val, lab.target.labels
    return hits(model, lab.draw(train + val), labels[train + val :], device=lab.device)


def source_order(fashion: Arrays, config: LaptopConfig) -> np.ndarray:
    """The source's training images in random order: the first ones pre-train, the others stay unseen."""
    return np.random.default_rng(config.pretraining.seed).permutation(len(fashion["train_labels"]))


def backbone_stage(config: LaptopConfig, context: RunContext, device: torch.device) -> Path:
    """Folder of the pre-trained backbone, `backbone.safetensors`."""

    def build(folder: Path) -> None:
        fashion = load(FASHION_MNIST, context.data_root)
        rows = np.sort(source_order(fashion, config)[: config.pretraining.images])
        torch.manual_seed(config.pretraining.seed)
        backbone = make_backbone(config.architecture)
        backbone.reset_classifier(10)
        pixels, labels = (torch.from_numpy(fashion[f"train_{kind}"][rows]) for kind in ("images", "labels"))
        pretrain(backbone, pixels, labels, config.pretraining, folder, device=device)
        backbone.reset_classifier(0)
        safetensors.torch.save_file(backbone.cpu().state_dict(), folder / "backbone.safetensors")

    return context.stage("small-vit", backbone_identity(config, context), build)


def backbone_identity(config: LaptopConfig, context: RunContext) -> dict[str, Any]:
    """What the backbone depends on."""
    data = recorded_hash(FASHION_MNIST, context.data_root)
    return {"architecture": asdict(config.architecture), "pretraining": asdict(config.pretraining), "data": data}


def tuned_identity(config: LaptopConfig, context: RunContext) -> dict[str, Any]:
    """What a tuned model depends on, its scale and seed aside."""
    names = ("target", "method", "bits", "dim", "test_images", "tuning")
    own = {name: value for name, value in asdict(config).items() if name in names}
    return {**backbone_identity(config, context), **own, "digits": recorded_hash(MNIST, context.data_root)}


def tuned_stage(lab: Lab, context: RunContext, scale: float) -> Path:
    """Folder of a model tuned on all 1,000 images: `tuned.safetensors`, and `hits.safetensors` of the test images."""

    def build(folder: Path) -> None:
        model = make_model(lab, scale, context.seed)
        labels = lab.target.labels[: lab.target.train + lab.target.val]
        fine_tune(model, lab.draw(0), labels, lab.config.tuning, folder, seed=context.seed, device=lab.device)
        safetensors.torch.save_file({"hits": test_hits(lab, model)}, folder / "hits.safetensors")
        safetensors.torch.save_file(TunedPart(model.cpu()).state_dict(), folder / "tuned.safetensors")

    key = {**tuned_identity(lab.config, context), "scale": scale, "seed": context.seed}
    return context.stage(f"tuned-{lab.config.target}", key, build)


def scale_stage(lab: Lab, context: RunContext) -> float:
    """The scale with the best accuracy on val200 after training on train800; never looks at the test images."""
    config = lab.config
    epochs = config.search_epochs
    tuning = replace(config.tuning, epochs=epochs, warmup=min(config.tuning.warmup, epochs // 10))

    def build(folder: Path) -> None:
        train, val, labels = lab.target.train, lab.target.val, lab.target.labels
        found = {}
        for scale in config.scales:
            model = make_model(lab, scale, config.search_seed)
            place = folder / f"scale-{scale:g}"
            fine_tune(
                model, lab.draw(0), labels[:train], tuning, place, seed=config.search_seed, device=lab.device
            )  # fmt: skip
            right = hits(model, lab.draw(train), labels[train : train + val], device=lab.device)
            found[scale] = float(right.double().mean())
        content = {"scale": best_scale(found), "accuracies": {str(scale): value for scale, value in found.items()}}
        write_atomic(folder / "scale.json", json.dumps(content, indent=1).encode())

    key = {
        **tuned_identity(config, context), "tuning": asdict(tuning), "scales": config.scales, "seed": config.search_seed
    }  # fmt: skip
    folder = context.stage(f"scale-{config.target}", key, build)
    return float(json.loads((folder / "scale.json").read_text())["scale"])


def laptop_data(config: LaptopConfig) -> tuple[Passport, ...]:
    """The datasets that a config needs."""
    return (FASHION_MNIST, MNIST) if config.target == "mnist" else (FASHION_MNIST,)


RECIPE = Recipe(
    config=LaptopConfig,
    run=run_laptop,
    data=laptop_data,
    describe="a small ViT pre-trained on Fashion-MNIST, adapted to 1,000 digits or rotated garments at a given storage",
)
