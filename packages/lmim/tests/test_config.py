"""The settings that have a name (sections 2.1, 6 and 7)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmim import LocalMim
from lmim.config import (
    PAPER_RUNS,
    VIT_BASE,
    VIT_LARGE,
    VIT_SMALL,
    MimConfig,
    PretrainingConfig,
    fused,
    mae,
    mask_feat,
    short,
    single_scale,
    top_only,
)

SMALL = MimConfig(image=32, patch=8, channels=1, dim=16, depths=(7,), heads=(2,), decoder_dims=(8,), decoder_heads=2)


def size(config):
    with torch.device("meta"):
        return sum(value.numel() for value in LocalMim.of(config).parameters())


def test_published_parameter_counts():
    assert [size(config) for config in (VIT_SMALL, VIT_BASE)] == [25_463_276, 89_916_140]
    assert size(VIT_LARGE) == 307_651_480
    assert size(replace(VIT_LARGE, bins=9)) == 307_632_364


def test_the_papers_runs():
    """The tables of sections 6 and 7, row by row."""
    rows = [
        ("vit-base", 1600, 40, 1.6e-3, 1e-6, 9, False, 100, 20, 2e-3, 1e-5, 0.65, 0.1, 1024),
        ("vit-large", 800, 40, 2.4e-3, 1e-6, 18, True, 50, 5, 3e-3, 1e-6, 0.75, 0.2, 1024),
        ("swin-base-pixels", 400, 40, 8e-4, 0.0, 18, False, 100, 20, 4e-3, 2.5e-7, 0.9, 0.1, 1024),
        ("swin-base-hog", 400, 40, 8e-4, 0.0, 18, True, 100, 20, 4e-3, 2.5e-7, 0.9, 0.1, 2048),
        ("swin-large", 800, 40, 1.6e-3, 0.0, 18, True, 100, 20, 2e-3, 2.5e-7, 0.8, 0.3, 2048),
    ]
    assert [row[0] for row in rows] == list(PAPER_RUNS)
    for name, *wanted in rows:
        model, before, after = PAPER_RUNS[name].model, PAPER_RUNS[name].pretraining, PAPER_RUNS[name].fine_tuning
        found = [
            before.epochs, before.warmup_epochs, before.peak_lr, before.lr_min, model.bins, model.hog_bias,
            after.epochs, after.warmup_epochs, after.lr, after.lr_min, after.layer_decay, after.drop_path, after.batch,
        ]  # fmt: skip
        assert found == pytest.approx(wanted), name
        assert model.mask_ratio == 0.75


def test_the_short_runs():
    run = short("vit-base")
    assert (run.pretraining.epochs, run.pretraining.warmup_epochs) == (100, 10)
    assert (run.fine_tuning.lr, run.fine_tuning.layer_decay, run.fine_tuning.lr_min) == (4e-3, 0.75, 1e-6)
    assert short("swin-base-hog").fine_tuning.lr == 5e-3


def test_the_arms_of_the_comparisons():
    images = torch.randn(2, 1, 32, 32)
    shapes = {
        top_only: [(16, 9)], mask_feat: [(16, 9)], fused: [(16, 9)], single_scale: [(16, 9)] * 4,
        mae: [(16, 64)], (lambda config: config): [(256, 9), (64, 9), (16, 9), (4, 9)],
    }  # fmt: skip
    for arm, wanted in shapes.items():
        model = LocalMim.of(arm(SMALL))
        assert [tuple(part.shape[1:]) for part in model(images).predictions] == wanted
        assert model.taps == ((6,) if len(wanted) == 1 and arm is not fused else (1, 3, 4, 6))
    assert len(LocalMim.of(mae(SMALL)).decoder[0].blocks) == 8
    assert LocalMim.of(mae(VIT_BASE)).decoder[0].embed.out_features == 512


def test_mae_is_the_limit():
    """One tap behind the last block, scale 1, normalised pixels: MAE's loss, written plainly."""
    model, images = LocalMim.of(mae(SMALL, decoder_dim=8, decoder_heads=2, decoder_depth=2)), torch.randn(2, 1, 32, 32)
    noise = torch.rand(2, 16)
    found = model(images, 0.75, noise)
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).reshape(2, 16, 64)
    wanted = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()
    hidden = noise.argsort(1).argsort(1) >= 4
    error = (found.predictions[0] - wanted).square().mean(dim=2)
    torch.testing.assert_close(found.loss, error[hidden].mean())


@pytest.mark.parametrize("call", [
    lambda: MimConfig(backbone="resnet"),
    lambda: MimConfig(depths=(2, 2), heads=(3, 3)),
    lambda: MimConfig(mask_ratio=1.0),
    lambda: MimConfig(mask_ratio=0.0),
    lambda: MimConfig(image=220),
    lambda: LocalMim.of(PAPER_RUNS["swin-large"].model),
    lambda: LocalMim.of(MimConfig(depths=(6,))),
    lambda: LocalMim.of(MimConfig(patch=14, image=224)),
    lambda: LocalMim.of(MimConfig(fusion=True)),
    lambda: PretrainingConfig(epochs=40),
    lambda: short("vit-large"),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"expected|need 7"):
        call()
