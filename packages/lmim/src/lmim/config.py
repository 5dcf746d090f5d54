"""What can be chosen: the model, its pre-training and its fine-tuning, and the settings that have a name.

Everything is a frozen dataclass of plain values; the paper's five runs are in `PAPER_RUNS`, the arms of its comparisons
are functions from a model to a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sextet.cuda import Precision


@dataclass(frozen=True)
class MimConfig:
    """A masked-image-modelling model: encoder, taps, decoders, targets, losses (sections 2-5).

    Attributes:
        backbone: `vit` or `swin`.
        image, patch: pixels a side; the patch must divide the image.
        channels: of the images.
        dim: width of the (first stage of the) encoder.
        depths, heads: of the stages; a ViT is one stage.
        window, geometry: of Swin; see `SparseSwin`.
        taps: 0-based blocks of a ViT whose output is decoded; () for 1, 3, depth - 3, depth - 1. Swin is tapped behind
            its stages.
        scales: of a ViT's taps, cells a token and axis; cells have patch / scale pixels.
        decoder_dims: one width a tap, or one for all.
        decoder_heads, decoder_depth: of every decoder; Swin's have one block.
        target: `hog`, `pixels` or `normalised-pixels`.
        bins: orientations of HOG.
        hog_bias: add random, fixed biases to the gradients, one pair a tap: the published quirk of the large models.
        loss_weights: one a tap; () for 1 each.
        isolate_stages: stop gradients behind each tap, so that a stage learns from its own loss alone.
        fusion: one decoder for a learned mean of all taps, at one scale.
        mask_ratio: of hidden tokens or units, in (0, 1).

    Raises:
        ValueError: numbers that do not fit each other.
    """

    backbone: str = "vit"
    image: int = 224
    patch: int = 16
    channels: int = 3
    dim: int = 768
    depths: tuple[int, ...] = (12,)
    heads: tuple[int, ...] = (12,)
    window: int = 7
    geometry: str = "correct"
    taps: tuple[int, ...] = ()
    scales: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    decoder_dims: tuple[int, ...] = (256,)
    decoder_heads: int = 8
    decoder_depth: int = 1
    target: str = "hog"
    bins: int = 9
    hog_bias: bool = False
    loss_weights: tuple[float, ...] = ()
    isolate_stages: bool = False
    fusion: bool = False
    mask_ratio: float = 0.75

    def __post_init__(self) -> None:
        if self.backbone not in ("vit", "swin"):
            raise ValueError(f"backbone: expected vit or swin, got {self.backbone!r}")
        if len(self.depths) != len(self.heads) or (self.backbone == "vit" and len(self.depths) != 1):
            raise ValueError(f"depths: expected one stage for a ViT, as many as heads, got {self.depths}, {self.heads}")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio: expected between 0 and 1, both excluded, got {self.mask_ratio}")
        if self.image % self.patch:
            raise ValueError(f"image: expected a multiple of the patch's {self.patch} pixels, got {self.image}")

    @property
    def depth(self) -> int:
        """Blocks in all."""
        return sum(self.depths)


@dataclass(frozen=True)
class PretrainingConfig:
    """AdamW with a cosine schedule after a linear warm-up (section 6); the defaults are ViT-B's.

    Attributes:
        epochs, warmup_epochs: length of the run; the schedule follows the fractional epoch, step by step.
        batch: images a step, over all processes and accumulated micro-batches.
        accumulation: micro-batches a step and process; Swin draws a mask for each.
        base_lr: at a batch of 256; the peak rate is base_lr * batch / 256.
        lr_min: rate at the end.
        weight_decay, betas: of AdamW; vectors and biases are not decayed.
        precision: fp32, tf32, bf16 or fp16 (with loss scaling).
        crop_scale: area of the random crops; flips come with them.
        sharded: divide parameters, gradients and optimiser state among the processes; not with fp16, whose loss scale
            would have to be agreed upon.
    """

    epochs: int = 1600
    warmup_epochs: int = 40
    batch: int = 2048
    accumulation: int = 1
    base_lr: float = 2e-4
    lr_min: float = 1e-6
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    precision: Precision = "fp16"
    crop_scale: tuple[float, float] = (0.2, 1.0)
    sharded: bool = False

    def __post_init__(self) -> None:
        check_length(self)
        if self.sharded and self.precision == "fp16":
            raise ValueError("precision: expected bf16, tf32 or fp32 with sharded, got fp16")

    @property
    def peak_lr(self) -> float:
        """base_lr * batch / 256."""
        return self.base_lr * self.batch / 256


@dataclass(frozen=True)
class FineTuningConfig:
    """End-to-end fine-tuning (section 7); the defaults are those of ViT-B after 1600 epochs.

    Attributes:
        epochs, warmup_epochs: length of the run.
        batch, accumulation: see `PretrainingConfig`.
        lr, lr_min: peak and last learning rate, not scaled by the batch.
        layer_decay: a layer's rate is lr * layer_decay^(layers above it).
        drop_path: of the last block, growing from 0 at the first.
        weight_decay, betas: of AdamW; no decay for vectors, biases, class token and positions.
        mixup, cutmix, switch, label_smoothing: see `timm.data.Mixup`; 0 for none.
        erasing: probability of random erasing.
        rand_augment: timm's description of RandAugment; empty for none.
        crop_scale: area of the random crops.
        precision: fp32, tf32, bf16 or fp16.
    """

    epochs: int = 100
    warmup_epochs: int = 20
    batch: int = 1024
    accumulation: int = 1
    lr: float = 2e-3
    lr_min: float = 1e-5
    layer_decay: float = 0.65
    drop_path: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    label_smoothing: float = 0.1
    erasing: float = 0.25
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    precision: Precision = "fp16"

    def __post_init__(self) -> None:
        check_length(self)
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay: expected above 0 and at most 1, got {self.layer_decay}")


def check_length(config: PretrainingConfig | FineTuningConfig) -> None:
    """Raise ValueError unless the warm-up is shorter than the run and micro-batches make up a batch."""
    if not 0 <= config.warmup_epochs < config.epochs:
        raise ValueError(f"warmup_epochs: expected 0 or more and below {config.epochs}, got {config.warmup_epochs}")
    if config.accumulation < 1 or config.batch % config.accumulation:
        raise ValueError(f"accumulation: expected a divisor of the batch, {config.batch}, got {config.accumulation}")


@dataclass(frozen=True)
class Run:
    """A model with its pre-training and its fine-tuning."""

    model: MimConfig = field(default_factory=MimConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)


VIT_SMALL = MimConfig(dim=384, heads=(6,))
VIT_BASE = MimConfig()
VIT_LARGE = MimConfig(dim=1024, depths=(24,), heads=(16,), bins=18, hog_bias=True)
SWIN_BASE = MimConfig(
    backbone="swin", patch=4, dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), scales=(1.0, 1.0, 1.0, 1.0),
    decoder_dims=(64, 128, 128, 128), decoder_heads=4, bins=18, hog_bias=True,
)  # fmt: skip
SWIN_LARGE = replace(SWIN_BASE, dim=192, heads=(6, 12, 24, 48), window=14)

_SWIN_PRETRAINING = PretrainingConfig(epochs=400, base_lr=1e-4, lr_min=0.0)
_SWIN_FINE_TUNING = FineTuningConfig(lr=4e-3, lr_min=2.5e-7, layer_decay=0.9)

PAPER_RUNS = {
    "vit-base": Run(),
    "vit-large": Run(
        VIT_LARGE,
        PretrainingConfig(epochs=800, batch=4096, accumulation=4, base_lr=1.5e-4),
        FineTuningConfig(
            epochs=50, warmup_epochs=5, accumulation=2, lr=3e-3, lr_min=1e-6, layer_decay=0.75, drop_path=0.2
        ),
    ),
    "swin-base-pixels": Run(
        replace(SWIN_BASE, target="normalised-pixels", hog_bias=False), _SWIN_PRETRAINING, _SWIN_FINE_TUNING
    ),
    "swin-base-hog": Run(SWIN_BASE, _SWIN_PRETRAINING, replace(_SWIN_FINE_TUNING, batch=2048, accumulation=2)),
    "swin-large": Run(
        SWIN_LARGE,
        PretrainingConfig(epochs=800, batch=4096, accumulation=4, base_lr=1e-4, lr_min=0.0),
        replace(_SWIN_FINE_TUNING, batch=2048, accumulation=8, lr=2e-3, layer_decay=0.8, drop_path=0.3),
    ),
}
"""The runs behind the released checkpoints. Where the paper's table of settings and the released instructions differ
(ViT-L's base rate and batch, Swin-L's fine-tuning rate), these follow the instructions, which name the checkpoints."""

SHORT_FINE_TUNING = {
    "vit-base": FineTuningConfig(lr=4e-3, lr_min=1e-6, layer_decay=0.75),
    "swin-base-pixels": replace(_SWIN_FINE_TUNING, lr=5e-3),
    "swin-base-hog": replace(_SWIN_FINE_TUNING, lr=5e-3),
}
"""Fine-tuning after 100 epochs of pre-training, where it was published."""


def short(name: str) -> Run:
    """A paper run with 100 epochs of pre-training and 10 of warm-up.

    Raises:
        ValueError: a run without published settings for that.
    """
    if name not in SHORT_FINE_TUNING:
        raise ValueError(f"name: expected one of {sorted(SHORT_FINE_TUNING)}, got {name!r}")
    run = PAPER_RUNS[name]
    return replace(
        run, pretraining=replace(run.pretraining, epochs=100, warmup_epochs=10), fine_tuning=SHORT_FINE_TUNING[name]
    )


def top_only(model: MimConfig) -> MimConfig:
    """A ViT with one loss behind its last block, at the scale of its tokens."""
    return replace(model, taps=(model.depth - 1,), scales=(1.0,), loss_weights=(), fusion=False)


def single_scale(model: MimConfig) -> MimConfig:
    """A ViT whose taps all predict at the scale of its tokens."""
    return replace(model, scales=(1.0,) * len(model.scales))


def fused(model: MimConfig) -> MimConfig:
    """A ViT with one decoder for a learned mean of its taps."""
    return replace(model, scales=(1.0,), loss_weights=(), fusion=True)


def mask_feat(model: MimConfig) -> MimConfig:
    """MaskFeat's target on MAE's encoder: HOG of 9 bins at the top, one small decoder."""
    return replace(top_only(model), target="hog", bins=9, hog_bias=False)


def mae(model: MimConfig, *, decoder_dim: int = 512, decoder_heads: int = 16, decoder_depth: int = 8) -> MimConfig:
    """MAE on the same encoder: normalised pixels at the top, a deeper decoder (its published size by default)."""
    return replace(
        top_only(model), target="normalised-pixels", hog_bias=False, decoder_dims=(decoder_dim,),
        decoder_heads=decoder_heads, decoder_depth=decoder_depth,
    )  # fmt: skip
