"""Pre-training and meta-training: what they compute, and that they continue as if nothing had happened."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cdfsl_ata.augmentation import AdversarialTaskAugmenter
from cdfsl_ata.encoders import ConvBlock, FeatureWiseTransform
from cdfsl_ata.images import PackedImages, crop_and_flip
from cdfsl_ata.learners import ProtoNet
from cdfsl_ata.training import (
    AscentConfig,
    BestWeights,
    MetaTrainingConfig,
    PretrainingConfig,
    ShuffledRows,
    episode_images,
    meta_train,
    pretrain,
)
from sextet.episodes import EpisodeSampler
from sextet.training import read_log

CPU = torch.device("cpu")
META = MetaTrainingConfig(n_way=3, n_support=1, n_query=2, epochs=2, episodes_per_epoch=4, measure_every=2)
PRE = PretrainingConfig(steps=8, batch_size=6, outputs=5)


def source() -> PackedImages:
    """Three classes, eight noisy images of a pattern each."""
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(3).repeat(8)
    patterns = torch.randint(0, 200, (3, 1, 8, 8), generator=generator)
    images = patterns[torch.from_numpy(labels)] + torch.randint(0, 56, (24, 1, 8, 8), generator=generator)
    return PackedImages(images.to(torch.uint8), labels, augment=crop_and_flip(1), seed=0)


def encoder(norm: Any = nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(ConvBlock(3, 4, pool=True, padding=1, norm=norm), nn.Flatten())


def ascent(learner: nn.Module) -> AdversarialTaskAugmenter:
    return AscentConfig(steps=2, step_size=0.05, normalise=True, kernel_sizes=(1, 3)).augmenter(learner)


def weights_after(folder: Path, *, kind: str = "ata", save_every: int = 100, norm: Any = nn.BatchNorm2d) -> Tensor:
    learner = ProtoNet(encoder(norm), 1)
    augmenter = ascent(learner) if kind == "ata" else None
    meta_train(learner, source(), META, folder, seed=3, device=CPU, augmenter=augmenter, save_every=save_every)
    return nn.utils.parameters_to_vector(learner.parameters()).detach()


def test_a_plain_step_is_adam_on_the_episodes_loss(tmp_path: Path) -> None:
    learner = ProtoNet(encoder(), 1)
    reference = copy.deepcopy(learner)
    meta_train(
        learner, source(), MetaTrainingConfig(3, 1, 2, epochs=1, episodes_per_epoch=1), tmp_path, seed=3, device=CPU
    )
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    images = episode_images(source(), EpisodeSampler(source().labels, 3, 1, 2, seed=3)[0], 0)
    reference.train()(images).backward()
    optimizer.step()
    for name, value in reference.state_dict().items():
        assert torch.equal(learner.state_dict()[name], value), name


def test_no_steps_and_no_convolution_is_plain_training(tmp_path: Path) -> None:
    learner = ProtoNet(encoder(), 1)
    nothing = AscentConfig(steps=0, p_original=1.0).augmenter(learner)
    meta_train(learner, source(), META, tmp_path / "a", seed=3, device=CPU, augmenter=nothing)
    plain = weights_after(tmp_path / "b", kind="plain")
    assert torch.equal(nn.utils.parameters_to_vector(learner.parameters()), plain)
    assert not torch.equal(weights_after(tmp_path / "c"), plain)


class Stop(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FeatureWiseTransform])
def test_a_killed_run_continues_to_the_same_weights(tmp_path: Path, norm: Any) -> None:
    whole = weights_after(tmp_path / "whole", norm=norm)
    learner = ProtoNet(encoder(norm), 1)
    augmenter = ascent(learner)
    calls = iter(range(100))

    class Dies(PackedImages):
        def pixels(self, ids: Any, step: int | None = None) -> Tensor:
            if next(calls) == 5:
                raise Stop
            return super().pixels(ids, step)

    dying = Dies(source().images, source().labels, augment=crop_and_flip(1), seed=0)
    with pytest.raises(Stop):
        meta_train(learner, dying, META, tmp_path / "cut", seed=3, device=CPU, augmenter=augmenter, save_every=2)
    torch.rand(3)
    assert torch.equal(weights_after(tmp_path / "cut", save_every=2, norm=norm), whole)


def test_the_log_tells_of_the_ascent(tmp_path: Path) -> None:
    weights_after(tmp_path)
    log = read_log(tmp_path)
    assert len(log) == 8
    assert all(entry["perturbation_rms"] > 0 and entry["loss"] > 0 for entry in log)
    assert ["loss_after" in entry for entry in log] == [True, False] * 4
    assert {entry["kernel_size"] for entry in log} <= {0.0, 1.0, 3.0}


def test_the_best_validation_is_kept(tmp_path: Path) -> None:
    learner = ProtoNet(encoder(), 1)
    seen = []

    def validate(epoch: int) -> float:
        seen.append(copy.deepcopy(learner.state_dict()))
        return [0.7, 0.7][epoch]

    best = meta_train(learner, source(), META, tmp_path, seed=3, device=CPU, validate=validate)
    assert (best.score, best.epoch) == (0.7, 0)
    assert all(torch.equal(value, seen[0][name]) for name, value in learner.state_dict().items())
    assert [entry.get("validation") for entry in read_log(tmp_path)] == [None, None, None, 0.7] * 2


def test_best_weights_are_part_of_a_checkpoint() -> None:
    best, model = BestWeights(), nn.Linear(2, 2)
    best.offer(model, 0.5, 0)
    kept = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.zero_()
    best.offer(model, 0.4, 1)
    copied = BestWeights()
    copied.load_state_dict(best.state_dict())
    assert (copied.score, copied.epoch) == (0.5, 0)
    assert torch.equal(copied.weights["weight"], kept)


def test_ft_does_not_train_its_gammas(tmp_path: Path) -> None:
    learner = ProtoNet(encoder(FeatureWiseTransform), 1)
    meta_train(learner, source(), META, tmp_path, seed=3, device=CPU)
    layer = next(module for module in learner.modules() if isinstance(module, FeatureWiseTransform))
    assert bool((layer.gamma == 0.3).all())
    assert bool((layer.beta == 0.5).all())


def test_pretraining_learns_and_continues(tmp_path: Path) -> None:
    model = encoder()
    classifier = pretrain(
        model, source(), PretrainingConfig(60, 8, lr=1e-2, outputs=3), tmp_path / "long", seed=1, device=CPU
    )
    log = read_log(tmp_path / "long")
    assert log[-1]["loss"] < 0.7 * math.log(3)
    assert classifier.weight.shape == (3, 64)
    whole, cut = encoder(), encoder()
    pretrain(whole, source(), PRE, tmp_path / "whole", seed=1, device=CPU)
    partial = source()
    partial.pixels = lambda ids, step=None: (_ for _ in ()).throw(Stop) if step == 5 else source().pixels(ids, step)
    with pytest.raises(Stop):
        pretrain(cut, partial, PRE, tmp_path / "cut", seed=1, device=CPU, save_every=2)
    cut = encoder()
    pretrain(cut, source(), PRE, tmp_path / "cut", seed=1, device=CPU, save_every=2)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in cut.state_dict().items())


def test_every_row_comes_once_an_epoch() -> None:
    rows = ShuffledRows(10, 4, seed=2)
    epochs = [np.concatenate([rows[3 * epoch + step] for step in range(3)]) for epoch in range(2)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert list(epochs[0]) != list(epochs[1])
    assert list(ShuffledRows(10, 4, seed=2)[4]) == list(rows[4])


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outputs: expected at least 3"):
        pretrain(encoder(), source(), PretrainingConfig(1, 2, outputs=2), tmp_path, seed=0, device=CPU)
    with pytest.raises(ValueError, match="classes with fewer than"):
        meta_train(ProtoNet(encoder(), 9), source(), MetaTrainingConfig(3, 9, 2), tmp_path, seed=0, device=CPU)
    with pytest.raises(ValueError, match=r"encoder: expected outputs \[batch, dim\], got \[1, 4, 4, 4\]"):
        pretrain(encoder()[0], source(), PRE, tmp_path, seed=0, device=CPU)  # pyright: ignore[reportIndexIssue]
    with pytest.raises(ValueError, match="measure_every: expected above 0, got 0"):
        MetaTrainingConfig(measure_every=0)
    with pytest.raises(ValueError, match="batch_size: expected above 0, got -1"):
        PretrainingConfig(batch_size=-1)
    with pytest.raises(ValueError, match="step_size"):
        AscentConfig(step_size=-1.0).augmenter(ProtoNet(encoder(), 1))
