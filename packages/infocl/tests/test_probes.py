"""Linear probes, as published and converged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from infocl.probes import (
    PENALTIES,
    converged_probe,
    cosine_rate,
    fit_logistic,
    linear_probe,
    reference_probe,
    step_rate,
)


def clusters(count=120, spread=0.1, dim=3, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    noise = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return 2 * F.one_hot(labels, dim).double() + spread * noise, labels


def test_both_probes_separate_what_is_separable():
    train = clusters()
    assert converged_probe(train, train, 3, seed=0).accuracy == 100
    probe = reference_probe(train, train, 3, seed=0, epochs=30, lr=0.1, batch_size=32)
    assert probe.accuracies[-1] == 100
    assert len(probe.losses) == len(probe.hits) == 30


def test_the_published_probe_reports_its_best_epoch():
    train, test = clusters(spread=2.0), clusters(spread=2.0, seed=1)
    probe = reference_probe(train, test, 3, seed=0, epochs=20, lr=0.5, batch_size=16)
    assert probe.best == max(probe.accuracies) > probe.accuracies[-1]
    assert probe.accuracies.index(probe.best) == probe.best_epoch
    assert probe.best == pytest.approx(100 * float(probe.hits[probe.best_epoch].double().mean()))


def test_rates():
    assert [step_rate(epoch, 100) for epoch in (0, 59, 60, 79, 80)] == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4])
    assert [cosine_rate(epoch, 100) for epoch in (0, 50, 100)] == pytest.approx([0.3, 0.15, 0])


def test_incomplete_batches_are_dropped():
    """Rows of the last, incomplete batch leave no trace."""
    features, labels = clusters(22)
    order = [torch.arange(22)]
    spoilt = features.clone()
    spoilt[20:] = 1e6
    weights = []
    for each in (features, spoilt):
        torch.manual_seed(0)
        layer = nn.Linear(3, 3).double()
        linear_probe(layer, (each, labels), (each, labels), order, [0.1], batch_size=10)
        weights.append(layer.weight.detach().clone())
    assert torch.equal(*weights)


def test_the_published_probe_is_decided_by_its_seed():
    train = clusters(spread=1.0)
    first, second, other = (reference_probe(train, train, 3, seed=s, epochs=3, batch_size=16) for s in (1, 1, 2))
    assert torch.equal(first.layer.weight, second.layer.weight)
    assert not torch.equal(first.layer.weight, other.layer.weight)


def test_the_converged_probe_does_not_see_the_scale():
    """Unlike the published one, which larger features train faster (section 9.4)."""
    train, test = clusters(spread=1.5, dim=6), clusters(spread=1.5, dim=6, seed=1)
    scale = torch.linspace(0.2, 5, 6, dtype=torch.float64)
    changed = [(10 * part[0] * scale + 3, part[1]) for part in (train, test)]
    assert torch.equal(converged_probe(*changed, 3, seed=0).hits, converged_probe(train, test, 3, seed=0).hits)
    slow = reference_probe(train, test, 3, seed=0, epochs=2, lr=1e-3, batch_size=16)
    fast = reference_probe(*((4 * x, y) for x, y in (train, test)), 3, seed=0, epochs=2, lr=1e-3, batch_size=16)
    assert fast.losses[0] - fast.losses[1] > 2 * (slow.losses[0] - slow.losses[1])


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 60), st.integers(1, 6), st.integers(2, 4), st.floats(1e-3, 1.0), st.integers(0, 99))
def test_the_optimum_has_no_gradient(count, dim, classes, penalty, seed):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(count, dim, generator=generator, dtype=torch.float64) + 1
    y = torch.randint(classes, (count,), generator=generator)
    layer = fit_logistic(x, y, classes, penalty, tolerance=1e-8)
    # In terms of standardised features, which the penalty acts on
    std = x.std(0, correction=0)
    weight = (layer.weight * std).requires_grad_()
    bias = (layer.bias + layer.weight @ x.mean(0)).requires_grad_()
    loss = F.cross_entropy(F.linear((x - x.mean(0)) / std, weight, bias), y) + penalty / 2 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)


def test_as_scikit_learn_has_it():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = clusters(60, spread=1.0)
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    theirs = linear_model.LogisticRegression(C=1 / (60 * 0.01), tol=1e-10, max_iter=2000).fit(standard, y.numpy())
    ours = fit_logistic(x, y, 3, 0.01, tolerance=1e-9)
    assert np.allclose(ours(x).softmax(1).numpy(), theirs.predict_proba(standard), atol=1e-5)


def test_a_start_changes_nothing():
    x, y = clusters(spread=1.0)
    start = fit_logistic(x[:80] * 1.1, y[:80], 3, 1.0)
    for one, other in zip(
        fit_logistic(x, y, 3, 0.01, start, tolerance=1e-9).parameters(),
        fit_logistic(x, y, 3, 0.01, tolerance=1e-9).parameters(),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def test_the_penalty_is_chosen_without_the_test_set():
    train = clusters(60, spread=2.0, dim=20)
    ours = converged_probe(train, clusters(60, 2.0, 20, seed=1), 3, seed=0)
    assert set(ours.validation) == set(PENALTIES)
    assert ours.validation[ours.penalty] == max(ours.validation.values())
    other = converged_probe(train, clusters(60, 0.1, 20, seed=2), 3, seed=0)
    assert other.penalty == ours.penalty
    assert torch.equal(other.layer.weight, ours.layer.weight)


def test_constant_features_are_ignored():
    x, y = clusters(spread=1.0)
    more = torch.cat([x, torch.full((len(x), 2), 7.0, dtype=torch.float64)], 1)
    layer = fit_logistic(more, y, 3, 0.01)
    assert bool(layer.weight[:, 3:].eq(0).all())
    torch.testing.assert_close(layer(more), fit_logistic(x, y, 3, 0.01)(x))


@pytest.mark.parametrize("call", [
    lambda x, y: reference_probe((x[:3], y[:3]), (x, y), 3, seed=0),
    lambda x, y: reference_probe((x, y), (x, y), 3, seed=0, epochs=0),
    lambda x, y: converged_probe((x, y), (x, y), 3, seed=0, penalties=()),
    lambda x, y: converged_probe((x, y), (x, y), 3, seed=0, held_out=1.0),
    lambda x, y: fit_logistic(x, y, 3, -1.0),
    lambda x, y: fit_logistic(x[:0], y[:0], 3, 1.0),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call(*clusters(40))
