"""Pseudo sets, their augmentation, and relevance."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cdfsl_ata import Gnn, RelationNet
from cdfsl_ata.finetuning import PseudoAugmentation, gamma_correction, pseudo_set
from cdfsl_ata.lrp import (
    ExplainedLearner,
    convolution_relevance,
    explain_gnn,
    explain_relation,
    initial_relevance,
    input_weight,
    linear_relevance,
    pooling_relevance,
)


def test_orders_of_a_pseudo_set():
    support = torch.arange(4.0).view(2, 2, 1, 1, 1)
    published = pseudo_set(support, 8, lambda image: image + 0.5)[..., 0, 0, 0]
    assert published[0].tolist() == [0, 0.5, 0.5, 1, 1.5, 1.5]
    ordered = pseudo_set(support, 8, lambda image: image + 0.5, "support-first")[..., 0, 0, 0]
    assert ordered[1].tolist() == [2, 3, 2.5, 2.5, 3.5, 3.5]
    with pytest.raises(ValueError, match="multiple of the 4"):
        pseudo_set(support, 6, lambda image: image)


def test_augmentation_keeps_the_shape_and_is_reproducible():
    image = torch.randn(3, 12, 12)
    for seed in range(40):
        one, two = (PseudoAugmentation(torch.Generator().manual_seed(seed))(image) for _ in range(2))
        assert one.shape == image.shape
        assert torch.equal(one, two)
        assert one.isfinite().all()
    copies = torch.stack([PseudoAugmentation(torch.Generator().manual_seed(seed))(image) for seed in range(40)])
    unchanged = (copies == image).flatten(1).all(1).float().mean()
    assert float(unchanged) < 0.3
    with pytest.raises(ValueError, match="size, size"):
        PseudoAugmentation()(torch.randn(3, 4, 5))


def test_gamma_keeps_the_extremes():
    image = torch.randn(3, 8, 8)
    changed = gamma_correction(image, 1.4)
    torch.testing.assert_close(changed.aminmax(), image.aminmax())
    torch.testing.assert_close(gamma_correction(image, 1.0), image)
    flat = torch.ones(3, 4, 4)
    assert torch.equal(gamma_correction(flat, 1.3), flat)


def test_relevance_is_conserved():
    """Up to the epsilons, for maps without bias."""
    torch.manual_seed(0)
    x, weight = torch.rand(3, 5, dtype=torch.float64), torch.rand(4, 5, dtype=torch.float64)
    relevance = torch.randn(3, 4, dtype=torch.float64)
    found = linear_relevance(100 * x, weight, relevance)
    torch.testing.assert_close(found.sum(1), relevance.sum(1), rtol=1e-3, atol=1e-3)
    maps, kernel = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    relevance = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    found = convolution_relevance(maps, kernel, relevance, 1)
    torch.testing.assert_close(found.sum(), relevance.sum(), rtol=1e-3, atol=1e-3)
    relevance = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    found = pooling_relevance(maps, relevance)
    torch.testing.assert_close(found.sum(), relevance.sum())


def test_weights_lie_between_zero_and_two():
    relevance = torch.randn(4, 7)
    weight = input_weight(relevance, dim=1)
    assert float(weight.min()) >= 0
    assert float(weight.max()) <= 2
    assert torch.equal(input_weight(torch.zeros(4, 7), dim=1), torch.ones(4, 7))
    assert initial_relevance(torch.randn(6, 5)).isfinite().all()


@pytest.mark.parametrize("kind", ["relation", "gnn"])
def test_explained_learners_train(kind):
    torch.manual_seed(0)
    if kind == "relation":
        learner, x = RelationNet(nn.Identity(), 1, 4, 7), torch.randn(3, 3, 4, 7, 7)
        found = explain_relation(learner, x)
    else:
        learner, x = Gnn(nn.Identity(), 1, 3, 8, 6, 4), torch.randn(3, 3, 8)
        found = explain_gnn(learner, x)
    torch.testing.assert_close(ExplainedLearner(learner)(x), found.loss)
    torch.testing.assert_close(found.scores, learner.scores(x))
    assert not torch.allclose(found.weighted_scores, found.scores)
    found.loss.backward()
    assert all(value.grad is not None for value in learner.parameters())


def test_independent_queries_have_no_explanation():
    with pytest.raises(ValueError, match="published"):
        explain_gnn(Gnn(nn.Identity(), 1, 3, 8, 6, 4, queries="independent"), torch.randn(3, 3, 8))
