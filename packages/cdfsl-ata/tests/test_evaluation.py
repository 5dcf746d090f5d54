"""Accuracies over episodes and the statistics of batch normalisation in tests."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cdfsl_ata.encoders import ConvBlock, FeatureWiseTransform
from cdfsl_ata.evaluation import embed, episode_accuracies, evaluate, evaluation_mode
from cdfsl_ata.images import PackedImages
from cdfsl_ata.learners import ProtoNet, RelationNet
from sextet.episodes import EpisodeSampler

LABELS = np.arange(4).repeat(6)


def source() -> PackedImages:
    images = torch.randint(0, 256, (24, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return PackedImages(images, LABELS)


def learner(norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> ProtoNet:
    torch.manual_seed(0)
    return ProtoNet(nn.Sequential(ConvBlock(3, 4, pool=True, padding=1, norm=norm), nn.Flatten()), 2)


def sampler(n_shot: int = 2) -> EpisodeSampler:
    return EpisodeSampler(LABELS, 3, n_shot, 3, seed=5)


def test_worked_example() -> None:
    # Inputs are the labels themselves: right everywhere; the negative score: wrong everywhere
    labels = torch.from_numpy(LABELS).double()[:, None]
    proto = ProtoNet(nn.Identity(), 2)
    right = episode_accuracies(proto.head, lambda ids: labels[torch.from_numpy(ids)], sampler(), episodes=4)
    assert right.tolist() == [1.0] * 4
    wrong = episode_accuracies(
        lambda z: -proto.head(z), lambda ids: labels[torch.from_numpy(ids)], sampler(), episodes=4
    )
    assert wrong.tolist() == [0.0] * 4


@pytest.mark.parametrize("kind", ["proto", "relation"])
def test_embedding_once_gives_the_same(kind: str) -> None:
    model = learner()
    if kind == "relation":
        model = RelationNet(nn.Sequential(ConvBlock(3, 4, pool=False, padding=1)), 2, channels=4, size=8)
    model.train()
    once = evaluate(model, source(), sampler(), episodes=6)
    each = evaluate(model, source(), sampler(), episodes=6, embed_once=False)
    assert torch.equal(once, each)
    assert torch.equal(evaluate(model, source(), sampler(), episodes=3, start=3), once[3:])


@pytest.mark.parametrize("bn_mode", ["eval", "episode"])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FeatureWiseTransform])
def test_the_learner_is_left_as_it_was(bn_mode: str, norm: type[nn.BatchNorm2d]) -> None:
    model = learner(norm).train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    evaluate(model, source(), sampler(1), episodes=2, bn_mode=bn_mode)  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.n_support == 2
    assert all(module.training for module in model.modules())
    if norm is FeatureWiseTransform:
        assert not torch.equal(
            model.feature(source().pixels(np.arange(2))), model.feature(source().pixels(np.arange(2)))
        )


def test_statistics_of_the_episode() -> None:
    model, images = learner().eval(), source().pixels(np.arange(9)).unflatten(0, (3, 3))
    expected = copy.deepcopy(model).train().scores(images)
    with evaluation_mode(model, "episode"):
        torch.testing.assert_close(model.scores(images), expected)
    assert not torch.allclose(model.scores(images), expected)


def test_embedding_is_the_encoder_in_batches() -> None:
    model = learner().eval()
    whole = model.feature(source().pixels(np.arange(24)))
    torch.testing.assert_close(embed(model.feature, source(), batch_size=7), whole)


def test_bad_mode() -> None:
    with pytest.raises(ValueError, match="bn_mode: expected 'eval' or 'episode', got 'train'"):
        evaluate(learner(), source(), sampler(), episodes=1, bn_mode="train")  # pyright: ignore[reportArgumentType]
