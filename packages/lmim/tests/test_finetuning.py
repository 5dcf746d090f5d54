"""The fine-tuning loop (section 7): rates by layer, mixing, the curve, resuming."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from lmim.config import FineTuningConfig
from lmim.finetuning import Curve, fine_tune, layered_groups, mixer
from lmim.schedule import vit_layer
from sextet.errors import Interrupted

CPU = torch.device("cpu")
PLAIN = FineTuningConfig(
    epochs=4, warmup_epochs=1, batch=12, lr=5e-3, mixup=0.0, cutmix=0.0, label_smoothing=0.0, precision="fp32"
)


def small():
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=2, num_heads=2, num_classes=2, global_pool="avg",
        drop_path_rate=0.1,
    )  # fmt: skip


def batch(number, count=12):
    generator = torch.Generator().manual_seed(number)
    labels = torch.randint(0, 2, (count,), generator=generator)
    return torch.randn(count, 1, 8, 8, generator=generator) + labels[:, None, None, None], labels


@torch.no_grad()
def evaluate(model):
    assert not model.training
    images, labels = batch(10**6, 64)
    return float((model(images).argmax(dim=1) == labels).double().mean())


def tuned(folder, config=PLAIN, draw=batch):
    model = small()
    curve = fine_tune(
        model, draw, evaluate, config, folder, classes=2, layer=lambda name: vit_layer(name, 2), layers=2,
        steps_per_epoch=5, seed=3, device=CPU,
    )  # fmt: skip
    return model, curve


def test_it_learns(tmp_path):
    _, curve = tuned(tmp_path)
    assert len(curve.accuracies) == 4
    assert curve.best == max(curve.accuracies) >= curve.last == curve.accuracies[-1]
    assert curve.last > 0.9


@pytest.mark.parametrize("mixing", [0.0, 1.0])
def test_killed_and_continued_it_ends_with_the_same_weights(tmp_path, mixing):
    """Mixing and drop path included: everything random depends on the seed and the number of the batch."""
    config = replace(PLAIN, mixup=mixing, cutmix=mixing)

    def interrupted(number):
        if number == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(number)

    whole, wanted = tuned(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        tuned(tmp_path / "parts", config, interrupted)
    rest, curve = tuned(tmp_path / "parts", config)
    assert curve.accuracies == wanted.accuracies
    for one, other in zip(rest.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_groups():
    groups = layered_groups(small(), FineTuningConfig(layer_decay=0.5), lambda name: vit_layer(name, 2), 2)
    scales = sorted({group["lr_scale"] for group in groups})
    assert scales == [0.125, 0.25, 0.5, 1.0]
    assert sum(len(group["params"]) for group in groups) == len(list(small().parameters()))
    undecayed = [value for group in groups if group["weight_decay"] == 0 for value in group["params"]]
    assert sum(value.ndim > 1 for value in undecayed) == 2  # class token and positions


def test_label_smoothing_without_mixing():
    config = replace(PLAIN, label_smoothing=0.2)
    images, targets = mixer(config, 4)(torch.ones(2, 1, 2, 2), torch.tensor([0, 3]))
    assert images.equal(torch.ones(2, 1, 2, 2))
    torch.testing.assert_close(targets, torch.tensor([[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.05, 0.85]]))


def test_mixing_keeps_probabilities():
    mix = mixer(replace(PLAIN, mixup=0.8, cutmix=1.0, label_smoothing=0.1), 3)
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    mixed, targets = mix(images.clone(), labels)
    assert not mixed.equal(images)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))


def test_curve_is_part_of_a_checkpoint():
    curve = Curve()
    curve.load_state_dict({"accuracies": [0.5, 0.75, 0.7]})
    assert (curve.best, curve.last) == (0.75, 0.7)
    assert curve.state_dict() == {"accuracies": [0.5, 0.75, 0.7]}


@pytest.mark.parametrize("changes", [
    {"warmup_epochs": 100}, {"layer_decay": 0.0}, {"layer_decay": 1.5}, {"batch": 10, "accumulation": 3},
])  # fmt: skip
def test_bad_input(changes):
    with pytest.raises(ValueError, match="expected"):
        FineTuningConfig(**changes)
