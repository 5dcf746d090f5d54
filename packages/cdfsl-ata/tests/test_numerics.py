"""Gradients in float64, rounding in float32 against the naive formulation, and training in bfloat16."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sextet_testing.numerics import assert_as_exact, assert_near_full_precision
from torch import nn

from cdfsl_ata import Gnn, MatchingNet, ProtoNet, RelationNet, Tpn
from cdfsl_ata.discrepancy import mmd
from cdfsl_ata.encoders import ConvBlock
from cdfsl_ata.images import PackedImages, crop_and_flip
from cdfsl_ata.learners import RelationModule
from cdfsl_ata.lrp import linear_relevance
from cdfsl_ata.training import AscentConfig, MetaTrainingConfig, meta_train
from sextet.training import read_log

MAKERS = {
    "proto": lambda: ProtoNet(nn.Identity(), 2),
    "matching": lambda: MatchingNet(nn.Identity(), 2, 4),
    "matching-correct": lambda: MatchingNet(nn.Identity(), 2, 4, "correct"),
    "relation": lambda: RelationNet(nn.Identity(), 2, 4, 7),
    "relation-softmax": lambda: RelationNet(nn.Identity(), 2, 4, 7, "softmax"),
    "gnn": lambda: Gnn(nn.Identity(), 2, 3, 4, 5, 4),
    "gnn-independent": lambda: Gnn(nn.Identity(), 2, 3, 4, 5, 4, queries="independent"),
    "tpn": lambda: Tpn(nn.Identity(), 2, 4),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_gradcheck_of_the_episodes_loss(kind):
    torch.manual_seed(0)
    learner = MAKERS[kind]().double().eval()
    maps = (7, 7) if kind.startswith(("relation", "tpn")) else ()
    # A graph of 20 neighbours needs as many images
    episode = torch.randn(3, 7, 4, *maps, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(learner, episode, fast_mode=True)


def test_gradcheck_of_the_relevance_rule():
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3), (4, 3), (2, 4))]
    assert torch.autograd.gradcheck(linear_relevance, inputs)


def kernel_sum(left, right, bandwidth):
    """Multi-kernel MMD for a given bandwidth, kernel by kernel."""

    def mean(one, other):
        squared = (one[:, None] - other).square().sum(2)
        return sum((-squared / (bandwidth * 2**i)).exp().mean() for i in range(5))

    return mean(left, left) + mean(right, right) - mean(left, right) - mean(right, left)


def bandwidth_of(left, right):
    both = torch.cat([left, right])
    return (both[:, None] - both).square().sum() / (len(both) ** 2 - len(both)) / 4


def test_the_gradient_of_mmd_is_that_of_a_fixed_bandwidth():
    torch.manual_seed(0)
    left, right = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    bandwidth = bandwidth_of(left, right).detach()
    assert torch.autograd.gradcheck(lambda *sets: kernel_sum(*sets, bandwidth), (left, right))
    found, wanted = (
        torch.autograd.grad(value, (left, right)) for value in (mmd(left, right), kernel_sum(left, right, bandwidth))
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_float32_mmd_is_as_exact_as_kernel_by_kernel(shift):
    trials = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        for scale in (1e-3, 1.0, 1e3):
            left, right = (scale * (torch.randn(2, 16, 32, generator=generator) + shift)).unbind()
            right = right + scale
            naive = kernel_sum(left, right, bandwidth_of(left, right))
            exact = kernel_sum(left.double(), right.double(), bandwidth_of(left.double(), right.double()))
            trials.append((mmd(left, right), naive, exact))
    assert_as_exact(trials)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_float32_relations_are_as_exact_as_pair_by_pair(scale):
    trials = []
    for seed in range(6):
        torch.manual_seed(seed)
        learner = RelationNet(nn.Identity(), 2, 8, 7)
        assert isinstance(learner.relation_module, RelationModule)
        z = scale * torch.randn(3, 5, 8, 7, 7) + scale
        ours, naive = learner.head(z), learner.activation(learner.relations(learner.pairs(z), 3))
        exact = learner.double()
        z = z.double()
        trials.append((ours, naive, exact.activation(exact.relations(exact.pairs(z), 3)).detach()))
    assert_as_exact(trials)


def trained(folder, precision):
    generator = torch.Generator().manual_seed(0)
    labels = np.arange(3).repeat(8)
    patterns = torch.randint(0, 200, (3, 1, 8, 8), generator=generator)
    images = patterns[torch.from_numpy(labels)] + torch.randint(0, 56, (24, 1, 8, 8), generator=generator)
    source = PackedImages(images.to(torch.uint8), labels, augment=crop_and_flip(1), seed=0)
    torch.manual_seed(0)
    learner = ProtoNet(nn.Sequential(ConvBlock(3, 4, pool=True, padding=1, norm=nn.BatchNorm2d), nn.Flatten()), 1)
    augmenter = AscentConfig(
        steps=2, step_size=0.05, normalise=True, kernel_sizes=(1, 3), precision=precision
    ).augmenter(learner)
    config = MetaTrainingConfig(n_way=3, n_support=1, n_query=4, epochs=4, episodes_per_epoch=12, lr=0.02)
    meta_train(
        learner, source, config, folder, seed=3, device=torch.device("cpu"), augmenter=augmenter, precision=precision
    )
    return torch.tensor([entry["loss"] for entry in read_log(folder)]), learner


def test_training_in_bfloat16_is_near_float32(tmp_path):
    full, half = (trained(tmp_path / precision, precision) for precision in ("fp32", "bf16"))
    assert_near_full_precision(full, half, tolerance=0.2)
