"""Pre-training, meta-training and evaluation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fslstm import LSSVM, InverseAttention, Prototype, pseudo_support
from fslstm.backbones import Conv4
from fslstm.evaluation import episode_accuracies
from fslstm.objective import learning_rate_multiplier, smoothed_cross_entropy
from fslstm.pretraining import PretrainingConfig, draw_rows, embed, pretrain
from fslstm.training import Learner, MetaTrainingConfig, make_optimizer, meta_train
from sextet.data import DIGITS, load
from sextet.episodes import EpisodeSampler
from sextet.training import read_log, step_decay

CPU = torch.device("cpu")
SMALL = MetaTrainingConfig(n_way=3, n_shot=2, n_query=2, episodes_per_step=2, epochs=2, steps_per_epoch=4)


def clusters(classes=6, rows=12, dim=8, noise=0.6):
    """Features [classes * rows, dim] around random centres, and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(rows)
    centres = torch.randn(classes, dim, generator=generator)
    return centres[labels] + noise * torch.randn(len(labels), dim, generator=generator), labels


def small_conv():
    torch.manual_seed(0)
    return Conv4(in_channels=1, widths=(4, 4, 8, 8), image_size=16, dropout=(0.0, 0.0, 0.2, 0.2))


def digit_images():
    """Real digits, standardised, [1797, 1, 16, 16], and labels."""
    arrays = load(DIGITS)
    images = torch.from_numpy(np.array(arrays["images"])).reshape(-1, 1, 8, 8).float()
    images = (images - images.mean()) / images.std()
    return nn.functional.interpolate(images, size=16), torch.from_numpy(np.array(arrays["labels"]))


def test_real_digits_end_to_end(tmp_path):
    """Pre-train on seven digits, classify the other three with heads and pseudo support."""
    images, labels = digit_images()
    base = labels < 7
    torch.manual_seed(0)
    backbone = Conv4(in_channels=1, widths=(16, 16, 32, 64), image_size=16, dropout=(0.0,) * 4)
    config = PretrainingConfig(steps=100, batch_size=64)
    pretrain(backbone, images[base], labels[base], config, tmp_path, seed=0, device=CPU)
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert np.mean(losses[-10:]) < 0.7 * losses[0]
    features = embed(backbone, images[~base], device=CPU)
    sampler = EpisodeSampler(labels[~base].numpy(), 3, 1, 10, seed=0)
    plain = episode_accuracies(LSSVM(), features, sampler, episodes=100, device=CPU)
    together = episode_accuracies(
        lambda q, s, y, way: pseudo_support(LSSVM(), q, s, y, way).logits, features, sampler, episodes=100, device=CPU
    )
    assert plain.mean() > 0.6
    assert together.mean() > plain.mean()


@pytest.mark.parametrize("stop", [3, 9])
def test_pretraining_continues_where_it_was(tmp_path, stop):
    images, labels = digit_images()
    config = PretrainingConfig(steps=12, batch_size=8)
    whole, halves = small_conv(), small_conv()
    pretrain(whole, images, labels, config, tmp_path / "whole", seed=1, device=CPU)
    with pytest.raises(RuntimeError, match="power cut"):
        pretrain(PowerCut(halves, stop), images, labels, config, tmp_path / "halves", seed=1, device=CPU)
    again = PowerCut(small_conv(), None)
    pretrain(again, images, labels, config, tmp_path / "halves", seed=1, device=CPU)
    assert all(map(torch.equal, whole.state_dict().values(), again.inner.state_dict().values()))


class PowerCut(nn.Module):
    """A backbone that breaks off in its call number `stop`."""

    def __init__(self, inner, stop):
        super().__init__()
        self.inner, self.stop, self.calls, self.out_features = inner, stop, 0, inner.out_features

    def forward(self, images):
        if self.calls == self.stop:
            raise RuntimeError("power cut")
        self.calls += 1
        return self.inner(images)


def test_batches_depend_on_seed_and_step_alone():
    config = PretrainingConfig(batch_size=5)
    assert torch.equal(draw_rows(96, config, 1, 7), draw_rows(96, config, 1, 7))
    assert not torch.equal(draw_rows(96, config, 1, 7), draw_rows(96, config, 1, 8))


def test_a_learner_is_its_parts_in_order():
    features, _ = clusters()
    support, query = features[:6].reshape(1, 6, 8), features[20:26].reshape(1, 6, 8)
    labels = torch.tensor([[0, 1, 2, 0, 1, 2]])
    torch.manual_seed(0)
    embedding, attention = nn.Linear(8, 8), InverseAttention(8, 2).eval()
    learner = Learner(embedding, LSSVM(), attention).eval()
    nn.init.constant_(learner.head.scale, 3.0)
    adjusted = attention(embedding(query), embedding(support), labels, 3)
    assert torch.equal(learner(query, support, labels, 3), 3 * LSSVM()(embedding(query), adjusted, labels, 3))


def test_meta_training_lowers_the_loss_and_moves_every_part(tmp_path):
    features, labels = clusters(noise=1.2)
    torch.manual_seed(0)
    learner = Learner(nn.Linear(8, 8), Prototype(), InverseAttention(8, 2, dropout=0.1))
    before = copy.deepcopy(learner.state_dict())
    config = MetaTrainingConfig(n_way=3, n_shot=2, n_query=3, epochs=1, steps_per_epoch=60, lr=0.05, decay=())
    meta_train(learner, features, labels, config, tmp_path, seed=0, device=CPU)
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert np.mean(losses[-15:]) < np.mean(losses[:15])
    assert all(not torch.equal(before[name], value) for name, value in learner.state_dict().items())


def test_the_first_step_is_the_published_objective(tmp_path):
    features, labels = clusters()
    learner = Learner(nn.Identity(), LSSVM())
    meta_train(learner, features, labels, SMALL, tmp_path, seed=4, device=CPU)
    episodes = EpisodeSampler(labels.numpy(), 3, 2, 2, seed=4).batch(0, 2)
    logits = LSSVM()(
        features[episodes.query_ids], features[episodes.support_ids], torch.from_numpy(episodes.support_labels), 3
    )
    loss = smoothed_cross_entropy(logits, torch.from_numpy(episodes.query_labels), 0.1)
    assert read_log(tmp_path)[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_a_frozen_embedding_stays_to_the_bit(tmp_path):
    features, labels = clusters()
    learner = Learner(nn.Linear(8, 8), LSSVM(), InverseAttention(8, 2))
    before = copy.deepcopy(learner.embedding.state_dict())
    config = MetaTrainingConfig(**{**SMALL.__dict__, "lr": 0.0})
    meta_train(learner, features, labels, config, tmp_path, seed=0, device=CPU)
    assert all(torch.equal(before[name], value) for name, value in learner.embedding.state_dict().items())


def test_learning_rates_of_the_groups():
    learner = Learner(nn.Linear(8, 8), LSSVM(learnable=True), InverseAttention(8, 2))
    optimizer = make_optimizer(learner, MetaTrainingConfig(lr=0.1, attention_lr=0.2, scale_lr=0.3))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(learner.parameters()))
    assert {rates[id(p)] for p in learner.embedding.parameters()} == {0.1}
    assert {rates[id(p)] for p in learner.attention.parameters()} == {0.2}
    assert {rates[id(p)] for p in learner.head.parameters()} == {0.3}
    assert all(group["nesterov"] and group["weight_decay"] == 5e-4 for group in optimizer.param_groups)


def test_the_default_decay_is_the_published_one():
    decay = dict(MetaTrainingConfig().decay)
    assert [step_decay(epoch, decay) for epoch in range(60)] == [learning_rate_multiplier(e) for e in range(60)]


def test_accuracies_are_those_of_episodes_one_by_one():
    features, labels = clusters(noise=1.5)
    sampler = EpisodeSampler(labels.numpy(), 4, 2, 3, seed=0)
    expected = []
    for index in range(23):
        episode = sampler[index]
        support, query = features[episode.support_ids[0]], features[episode.query_ids[0]]
        centres = torch.stack([support[2 * c : 2 * c + 2].mean(0) for c in range(4)])
        expected.append((torch.cdist(query, centres).argmin(1).numpy() == episode.query_labels[0]).mean())
    for batch_size in (1, 5, 23, 50):
        found = episode_accuracies(Prototype(), features, sampler, episodes=23, device=CPU, batch_size=batch_size)
        assert found.tolist() == pytest.approx(expected)
    assert 0.3 < np.mean(expected) < 1.0
