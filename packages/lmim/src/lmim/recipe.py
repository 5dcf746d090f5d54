"""The laptop table: small ViTs on small images, pre-trained in different ways and judged by the same three measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lmim.augmentation import Crops, EpochOrder
from lmim.config import FineTuningConfig, MimConfig, PretrainingConfig, fused, mae, single_scale, top_only
from lmim.finetuning import fine_tune
from lmim.pretraining import pretrain
from lmim.probes import accuracy, hits, knn_predictions, linear_predictions, tap_features
from lmim.schedule import vit_layer
from lmim.vit import LocalMim
from sextet.cuda import select_device
from sextet.data import CIFAR10, FASHION_MNIST, Images, load
from sextet.data.images import to_float
from sextet.recipe import Metrics, Recipe, RunContext, Scores

DATASETS = {"fashion-mnist": FASHION_MNIST, "cifar-10": CIFAR10}
STATISTICS = {
    "fashion-mnist": ((0.286,), (0.353,)),
    "cifar-10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
}

CURVE_IMAGES = 500
"""Test images that the curve of fine-tuning is drawn with; nothing is chosen by it."""

SMALL_FINE_TUNING = FineTuningConfig(
    epochs=15, warmup_epochs=2, batch=50, lr=2e-3, lr_min=1e-6, layer_decay=0.75, drop_path=0.0, mixup=0.0, cutmix=0.0,
    erasing=0.0, rand_augment="", crop_scale=(0.5, 1.0), precision="fp32",
)  # fmt: skip


@dataclass(frozen=True)
class LaptopConfig:
    """One cell: a way to pre-train, and a way to judge what came of it.

    Attributes:
        data: `fashion-mnist` or `cifar-10`.
        arm: `local` (four taps, four scales), `top` (HOG at the top alone), `mae` (pixels at the top, deeper decoder),
            `single-scale`, `fused`, `isolated`, or `random` (not pre-trained).
        measure: `knn` or `linear` on frozen features of the last tap, or `fine-tune`.
        model: of the arm `local`; the others are derived from it.
        mae_depth: blocks of the decoder of `mae`.
        equal_time: give `top` and `mae` as many more epochs as a step of theirs is cheaper than one of `local`.
        local_over_top, local_over_mae: those ratios, fixed here so that results do not depend on the machine.
        steps_per_epoch: an epoch of the schedules is so many steps, whatever the size of the data.
        pretraining: its recipe.
        bank, test: labelled images for the probes, and images to classify, from the official training and test images.
        labelled: training images of fine-tuning.
        fine_tuning: its recipe.
    """

    data: str = "fashion-mnist"
    arm: str = "local"
    measure: str = "knn"
    model: MimConfig = field(
        default_factory=lambda: MimConfig(
            image=32, patch=8, channels=1, dim=96, depths=(8,), heads=(4,), decoder_dims=(32,), decoder_heads=4
        )
    )
    mae_depth: int = 4
    equal_time: bool = False
    local_over_top: float = 1.35
    local_over_mae: float = 1.1
    steps_per_epoch: int = 10
    pretraining: PretrainingConfig = field(
        default_factory=lambda: PretrainingConfig(
            epochs=60, warmup_epochs=6, batch=128, base_lr=2e-3, lr_min=0.0, precision="fp32"
        )
    )
    bank: int = 10_000
    test: int = 4_000
    labelled: int = 1_000
    fine_tuning: FineTuningConfig = field(default_factory=lambda: SMALL_FINE_TUNING)

    def __post_init__(self) -> None:
        choices = {
            "data": tuple(DATASETS), "measure": ("knn", "linear", "fine-tune"),
            "arm": ("local", "top", "mae", "single-scale", "fused", "isolated", "random"),
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        if self.equal_time and self.arm not in ("top", "mae"):
            raise ValueError(f"equal_time: expected an arm whose cost is known, top or mae, got {self.arm}")


def run_laptop(config: LaptopConfig, context: RunContext) -> Metrics:
    """Whether each test image is classified rightly, one score an image."""
    device = select_device(context.device)
    folder = pretraining_stage(config, context, device)
    if config.measure == "fine-tune":
        scores = fine_tuned_hits(config, context, device, folder)
    else:
        features = safetensors.torch.load_file(features_stage(config, context, device, folder) / "features.safetensors")
        predict = knn_predictions if config.measure == "knn" else linear_predictions
        found = predict(features["bank"], features["bank_labels"], features["test"])
        scores = hits(found, features["test_labels"])
    return {"accuracy": Scores(tuple(scores), unit="image")}


def arm_model(config: LaptopConfig) -> MimConfig:
    """The model of the config's arm."""
    base = config.model
    return {
        "local": base,
        "random": base,
        "top": top_only(base),
        "mae": mae(
            base, decoder_dim=base.decoder_dims[0], decoder_heads=base.decoder_heads, decoder_depth=config.mae_depth
        ),
        "single-scale": single_scale(base),
        "fused": fused(base),
        "isolated": replace(base, isolate_stages=True),
    }[config.arm]


def arm_pretraining(config: LaptopConfig) -> PretrainingConfig:
    """The pre-training of the config's arm, as long as that of `local` or as many seconds."""
    factor = {"top": config.local_over_top, "mae": config.local_over_mae}[config.arm] if config.equal_time else 1.0
    return replace(config.pretraining, epochs=round(config.pretraining.epochs * factor))


def pretraining_stage(config: LaptopConfig, context: RunContext, device: torch.device) -> Path:
    """Folder of the pre-trained model."""
    model_config, pretraining = arm_model(config), arm_pretraining(config)

    def build(folder: Path) -> None:
        torch.manual_seed(context.seed)
        model = LocalMim.of(model_config)
        if config.arm != "random":
            images, _ = pixels(config, context, "train")
            mean, std = STATISTICS[config.data]
            micro_batch = pretraining.batch // pretraining.accumulation
            scale = pretraining.crop_scale
            batch = Crops(images.to(device), micro_batch, context.seed, mean=mean, std=std, scale=scale)
            pretrain(
                model, batch, pretraining, folder, steps_per_epoch=config.steps_per_epoch, seed=context.seed,
                device=device, mask_ratio=model_config.mask_ratio, loss_weights=model_config.loss_weights,
                rows=batch.order,
            )  # fmt: skip
        safetensors.torch.save_file(model.cpu().state_dict(), folder / "model.safetensors")

    content = {
        "data": config.data, "pretrained": config.arm != "random", "model": asdict(model_config),
        "steps_per_epoch": config.steps_per_epoch, "pretraining": asdict(pretraining), "seed": context.seed,
    }  # fmt: skip
    return context.stage("lmim-pretraining", content, build)


def features_stage(config: LaptopConfig, context: RunContext, device: torch.device, pretrained: Path) -> Path:
    """Folder of the last tap's features of the bank and of the test images."""

    def build(folder: Path) -> None:
        model = load_model(config, pretrained).to(device)
        tensors = {}
        for name, split, count in (("bank", "train", config.bank), ("test", "test", config.test)):
            images, labels = pixels(config, context, split, count)
            tensors[name] = tap_features(model, to_float(images, *STATISTICS[config.data]))[-1]
            tensors[f"{name}_labels"] = labels
        safetensors.torch.save_file(tensors, folder / "features.safetensors")

    return context.stage("lmim-features", {"of": pretrained.name, "bank": config.bank, "test": config.test}, build)


def fine_tuned_hits(config: LaptopConfig, context: RunContext, device: torch.device, pretrained: Path) -> Any:
    """Hits on the test images after the last epoch of fine-tuning on a few labelled images."""
    tuning, (mean, std) = config.fine_tuning, STATISTICS[config.data]
    images, labels = pixels(config, context, "train", config.labelled)
    test_images, test_labels = pixels(config, context, "test", config.test)
    crops = Crops(images.to(device), tuning.batch, context.seed, mean=mean, std=std, scale=tuning.crop_scale)
    order = EpochOrder(len(labels), tuning.batch, context.seed)
    torch.manual_seed(context.seed)
    model = classifier_of(load_model(config, pretrained), config.model, int(labels.max()) + 1, tuning.drop_path)
    asked = to_float(test_images, mean, std)
    watched = asked[:CURVE_IMAGES], test_labels[:CURVE_IMAGES]
    fine_tune(
        model, lambda number: (crops(number), labels[order(number)]),
        lambda trained: accuracy(classify(trained, watched[0], device), watched[1]), tuning, context.directory,
        classes=int(labels.max()) + 1, layer=lambda name: vit_layer(name, config.model.depth),
        layers=config.model.depth, steps_per_epoch=config.labelled // tuning.batch, seed=context.seed, device=device,
        rows=order,
    )  # fmt: skip
    return hits(classify(model.eval(), asked, device), test_labels)


def classifier_of(model: LocalMim, config: MimConfig, classes: int, drop_path: float) -> VisionTransformer:
    """timm's ViT with the encoder's weights, mean pooling, a new LayerNorm and a new head (section 7)."""
    classifier = VisionTransformer(
        img_size=config.image, patch_size=config.patch, in_chans=config.channels, embed_dim=config.dim,
        depth=config.depth, num_heads=config.heads[0], num_classes=classes, global_pool="avg",
        drop_path_rate=drop_path,
    )  # fmt: skip
    shared = {name: value for name, value in model.state_dict().items() if name in classifier.state_dict()}
    missing = set(classifier.state_dict()) - set(shared)
    assert missing == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}, missing
    classifier.load_state_dict(shared, strict=False)
    head: Any = classifier.head
    nn.init.trunc_normal_(head.weight, std=2e-5)
    nn.init.zeros_(head.bias)
    return classifier


@torch.no_grad()
def classify(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Classes int64 [n] of images [n, channels, height, width], on the CPU."""
    return torch.cat([model(some.to(device)).argmax(dim=1).cpu() for some in images.split(500)])


def load_model(config: LaptopConfig, folder: Path) -> LocalMim:
    """The model of a stage."""
    model = LocalMim.of(arm_model(config))
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return model


def pixels(config: LaptopConfig, context: RunContext, split: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """uint8 [n, 32, 32, channels] and labels [n] of a split, with a margin of zeros where images are smaller; `count`
    of them chosen by the seed."""
    passport = DATASETS[config.data]
    data = Images.of(passport, load(passport, context.data_root), split)
    if count is not None:
        data = data.subset(np.random.default_rng(context.seed).permutation(len(data))[:count])
    margin = (config.model.image - data.images.shape[1]) // 2
    images = F.pad(torch.from_numpy(np.array(data.images)), (0, 0, margin, margin, margin, margin))
    return images, torch.from_numpy(np.array(data.labels))


RECIPE = Recipe(
    config=LaptopConfig,
    run=run_laptop,
    data=lambda config: (DATASETS[config.data],),
    describe="small ViTs pre-trained by local multi-scale reconstruction or at the top alone, on small images",
)
