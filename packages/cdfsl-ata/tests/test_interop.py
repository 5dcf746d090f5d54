"""With the real libraries."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cdfsl_ata import AdversarialTaskAugmenter, ProtoNet, RelationNet
from cdfsl_ata.evaluation import episode_accuracies, evaluate
from cdfsl_ata.images import PackedImages
from cdfsl_ata.interop import EasyFslLearner, FittedLearner, MamlLearner, WrappedLearner, timm_encoder
from cdfsl_ata.learners import query_labels
from cdfsl_ata.training import AscentConfig, MetaTrainingConfig, meta_train
from sextet.episodes import EpisodeSampler

CPU = torch.device("cpu")
WAY, SHOT, QUERY, SIDE = 3, 2, 3, 8


@pytest.fixture(scope="module")
def l2l():
    with warnings.catch_warnings():  # it imports gym, which announces its end
        warnings.simplefilter("ignore")
        return pytest.importorskip("learn2learn")


@pytest.fixture(scope="module")
def methods():
    return pytest.importorskip("easyfsl.methods")


def encoder(dim=6):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.GroupNorm(1, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, dim)
    )


def network(n_way=WAY):
    return nn.Sequential(encoder(), nn.ReLU(), nn.Linear(6, n_way))


def episode(dtype=torch.float32):
    return torch.randn(WAY, SHOT + QUERY, 3, SIDE, SIDE, dtype=dtype)


def source(per_class=12, n_classes=5):
    """Noise around a pattern a class."""
    rng = np.random.default_rng(0)
    labels = np.arange(n_classes).repeat(per_class)
    patterns = rng.integers(0, 256, (n_classes, 3, SIDE, SIDE))
    images = np.clip(patterns[labels] + rng.integers(-60, 60, (len(labels), 3, SIDE, SIDE)), 0, 255)
    return PackedImages(torch.from_numpy(images.astype(np.uint8)), labels)


def trained(learner, tmp_path, p_original=0.5, **ascent):
    """Twelve ATA steps; the learner's parameters before."""
    before = {name: value.detach().clone() for name, value in learner.named_parameters()}
    ascent = AscentConfig(steps=2, step_size=0.5, p_original=p_original, kernel_sizes=(1, 3), **ascent)
    config = MetaTrainingConfig(
        n_way=WAY, n_support=SHOT, n_query=QUERY, epochs=1, episodes_per_epoch=12, lr=1e-2, measure_every=1
    )
    augmenter = ascent.augmenter(learner)
    meta_train(learner, source(), config, tmp_path, seed=0, device=CPU, augmenter=augmenter)
    return before


def check_trained(learner, tmp_path):
    """All parameters moved, the logged ascents raised the loss, and the learner beats chance on new episodes."""
    from sextet.training import read_log

    before = trained(learner, tmp_path)
    moved = [name for name, value in learner.named_parameters() if not torch.equal(value, before[name])]
    assert moved == list(before)
    log = read_log(tmp_path)
    assert len(log) == 12
    assert np.mean([entry["loss_after"] - entry["loss_before"] for entry in log]) > 0
    sampler = EpisodeSampler(source().labels, WAY, SHOT, QUERY, seed=5)
    accuracies = episode_accuracies(learner.eval().scores, source().pixels, sampler, episodes=20)
    assert accuracies.mean() > 0.5


def test_maml_by_hand(l2l):
    """One step of adaptation and the scores after it, with functional calls."""
    model = network().double()
    learner = MamlLearner(l2l.algorithms.MAML(model, lr=0.3), SHOT)
    images = episode(torch.float64)
    support, labels = images[:, :SHOT].flatten(0, 1), torch.arange(WAY).repeat_interleave(SHOT)
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(F.cross_entropy(model(support), labels), list(named.values()))
    adapted = {name: value - 0.3 * g for (name, value), g in zip(named.items(), gradients, strict=True)}
    expected = torch.func.functional_call(model, adapted, images[:, SHOT:].flatten(0, 1))
    assert torch.allclose(learner.scores(images), expected)
    assert torch.allclose(learner(images), F.cross_entropy(expected, query_labels(expected)))


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_learners_train_with_ata(l2l, tmp_path, first_order):
    maml = l2l.algorithms.MAML(network(), lr=0.2, first_order=first_order)
    check_trained(MamlLearner(maml, SHOT, adaptation_steps=2), tmp_path)


def test_meta_sgd_trains_with_ata(l2l, tmp_path):
    check_trained(MamlLearner(l2l.algorithms.MetaSGD(network(), lr=0.2), SHOT), tmp_path)


def test_the_gradient_passes_through_the_adaptation(l2l):
    """Pixels of the support set matter only by the adaptation; finite differences agree."""
    learner = MamlLearner(l2l.algorithms.MAML(network().double(), lr=0.2), SHOT)
    images = episode(torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(learner(images), images)
    assert (gradient[:, :SHOT].flatten(1).norm(dim=1) > 0).all()
    direction = torch.randn_like(images)
    with torch.no_grad():
        ends = [learner(images + sign * 1e-5 * direction) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx((gradient * direction).sum().item(), rel=1e-5)


def test_the_ascent_leaves_a_maml_learner_as_it_was(l2l):
    learner = MamlLearner(l2l.algorithms.MAML(network(), lr=0.2), SHOT)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    task = AdversarialTaskAugmenter(learner, 3, 1.0, 1.0)(episode(), measure=True)
    assert task.loss_after > task.losses[0]
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())
    assert learner.training


def test_prototypical_classifier_of_learn2learn_is_protonet(l2l, tmp_path):
    torch.manual_seed(1)
    shared = encoder()
    theirs, ours = FittedLearner(shared, l2l.nn.PrototypicalClassifier, SHOT), ProtoNet(shared, SHOT)
    images = episode()
    assert torch.allclose(theirs.scores(images), ours.scores(images), atol=1e-5)
    sampler = EpisodeSampler(source().labels, WAY, 1, QUERY, seed=0)
    found = [evaluate(learner, source(), sampler, episodes=5) for learner in (theirs, ours)]
    assert torch.equal(*found)
    check_trained(theirs, tmp_path)


def test_prototypical_networks_of_easyfsl_are_protonet_up_to_the_root(methods):
    """Theirs are distances, ours squared ones."""
    shared = encoder().double()
    learner = EasyFslLearner(methods.PrototypicalNetworks(shared), SHOT)
    images = episode(torch.float64)
    assert torch.allclose(-learner.scores(images).square(), ProtoNet(shared, SHOT).scores(images))


def easyfsl_learner(methods, name):
    if name == "RelationNetworks":
        maps = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        return methods.RelationNetworks(maps, feature_dimension=4)
    if name == "MatchingNetworks":
        return methods.MatchingNetworks(encoder(), feature_dimension=6)
    return getattr(methods, name)(encoder())


@pytest.mark.parametrize("name", ["PrototypicalNetworks", "MatchingNetworks", "RelationNetworks", "SimpleShot"])
def test_easyfsl_learners_train_with_ata(methods, name, tmp_path):
    learner = EasyFslLearner(easyfsl_learner(methods, name), SHOT)
    if name == "RelationNetworks":
        before = trained(learner, tmp_path)
        assert any(not torch.equal(value, before[name]) for name, value in learner.named_parameters())
    else:
        check_trained(learner, tmp_path)


@pytest.mark.parametrize("regulariser", ["euclid", "mmd"])
def test_easyfsl_learners_with_a_regulariser(methods, tmp_path, regulariser):
    trained(EasyFslLearner(methods.PrototypicalNetworks(encoder()), SHOT), tmp_path, 1.0, regulariser=regulariser)


def test_learners_without_gradient_to_the_pixels_are_refused(methods):
    classifier = methods.PrototypicalNetworks(encoder())
    classifier.backbone.register_forward_hook(lambda *call: call[2].detach())
    with pytest.raises(ValueError, match="expected a gradient to the pixels"):
        AdversarialTaskAugmenter(EasyFslLearner(classifier, SHOT), 1, 1.0, 1.0)(episode())


def test_timm_models_are_encoders():
    pytest.importorskip("timm")
    vectors = timm_encoder("resnet10t")
    assert ProtoNet(vectors, SHOT).scores(torch.randn(2, 3, 3, 64, 64)).shape == (2, 2)
    maps = timm_encoder("test_resnet", maps=True)
    with torch.no_grad():
        shape = maps(torch.randn(2, 3, 128, 128)).shape
    learner = RelationNet(maps, SHOT, channels=shape[1], size=shape[2])
    assert learner.scores(torch.randn(2, 3, 3, 128, 128)).shape == (2, 2)
    transformer = timm_encoder("test_vit", img_size=32)
    images = torch.randn(2, 3, 3, 32, 32)
    task = AdversarialTaskAugmenter(ProtoNet(transformer, SHOT), 1, 1.0, 1.0)(images, measure=True)
    assert task.images.shape == images.shape


def test_bad_input(l2l, methods):
    with pytest.raises(ValueError, match="n_support: expected at least 1"):
        EasyFslLearner(methods.PrototypicalNetworks(encoder()), 0)
    with pytest.raises(ValueError, match="adaptation_steps"):
        MamlLearner(l2l.algorithms.MAML(network(), lr=0.1), 1, -1)
    with pytest.raises(ValueError, match="with queries"):
        EasyFslLearner(methods.PrototypicalNetworks(encoder()), 5)(episode())
    with pytest.raises(ValueError, match="did you mean resnet10t"):
        timm_encoder("resnet10tt")
    with pytest.raises(ValueError, match="expected a model with maps"):
        timm_encoder("test_vit", maps=True, img_size=160)
    with pytest.raises(NotImplementedError):
        WrappedLearner(1).scores(episode())
