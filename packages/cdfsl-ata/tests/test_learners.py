"""Identities of the heads (§16 of the specification); their numbers are pinned by the golden vectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cdfsl_ata import AdversarialTaskAugmenter, Gnn, MatchingNet, ProtoNet, RelationNet, Tpn
from cdfsl_ata.tpn import affinity, propagate

WAY, SHOTS, QUERIES = 4, 2, 3


def episode(maps=False, seed=0, queries=QUERIES):
    generator = torch.Generator().manual_seed(seed)
    shape = (WAY, SHOTS + queries, 6, 7, 7) if maps else (WAY, SHOTS + queries, 6)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def learner(kind):
    torch.manual_seed(0)
    made = {
        "proto": lambda: ProtoNet(nn.Identity(), SHOTS),
        "matching": lambda: MatchingNet(nn.Identity(), SHOTS, 6),
        "relation": lambda: RelationNet(nn.Identity(), SHOTS, 6, 7),
        "gnn": lambda: Gnn(nn.Identity(), SHOTS, WAY, 6, 5, 4),
        "gnn-independent": lambda: Gnn(nn.Identity(), SHOTS, WAY, 6, 5, 4, queries="independent"),
        "tpn": lambda: Tpn(nn.Identity(), SHOTS, 6),
    }[kind]()
    return made.double().eval()


def data(kind):
    return episode(maps=kind in ("relation", "tpn"))


KINDS = ("proto", "relation", "gnn", "gnn-independent", "tpn", "matching")


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_gradients(kind):
    x = data(kind).requires_grad_()
    model = learner(kind)
    scores = model.scores(x)
    assert scores.shape == (WAY * QUERIES, WAY)
    loss = model(x)
    assert loss.ndim == 0
    torch.testing.assert_close(loss, model.loss(scores))
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.isfinite().all()
    assert gradient.abs().amax(dim=tuple(range(2, x.ndim))).min() >= 0
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_permuting_classes_permutes_scores(kind):
    """MatchingNet reads its support set in order and is left out; GNN's label channels go by learned weights."""
    if kind.startswith("gnn"):
        pytest.skip("labels are features of the nodes")
    x, order, model = data(kind), torch.tensor([2, 0, 3, 1]), learner(kind)
    scores = model.scores(x).view(WAY, QUERIES, WAY)
    permuted = model.scores(x[order]).view(WAY, QUERIES, WAY)
    torch.testing.assert_close(permuted, scores[order][:, :, order])


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_the_order_of_support_and_queries_does_not_matter(kind):
    x, model = data(kind), learner(kind)
    swapped = torch.cat([x[:, :SHOTS].flip(1), x[:, SHOTS:]], dim=1)
    torch.testing.assert_close(model.scores(swapped), model.scores(x))
    turned = torch.cat([x[:, :SHOTS], x[:, SHOTS:].flip(1)], dim=1)
    scores = model.scores(x).view(WAY, QUERIES, WAY).flip(1).flatten(0, 1)
    torch.testing.assert_close(model.scores(turned), scores)


def test_protonet_by_hand_and_with_duplicates():
    x = episode()
    scores = ProtoNet(nn.Identity(), SHOTS).scores(x)
    for row, query in enumerate(x[:, SHOTS:].flatten(0, 1)):
        for label in range(WAY):
            wanted = -(query - x[label, :SHOTS].mean(0)).square().sum()
            torch.testing.assert_close(scores[row, label], wanted)
    single = torch.cat([x[:, :1], x[:, SHOTS:]], dim=1)
    double = torch.cat([x[:, :1], x[:, :1], x[:, SHOTS:]], dim=1)
    one, two = ProtoNet(nn.Identity(), 1).scores(single), ProtoNet(nn.Identity(), 2).scores(double)
    torch.testing.assert_close(one, two)


def test_a_gnn_query_alone_does_not_depend_on_its_neighbours_features():
    """Apart from the normalisation over the episode, which is frozen here."""
    model, x = learner("gnn-independent"), episode()
    model.fc[1] = nn.Identity()
    for module in model.gnn.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.forward = lambda values: values
    changed = x.clone()
    changed[0, -1] += 1
    before, after = model.scores(x), model.scores(changed)
    kept = [row for row in range(WAY * QUERIES) if row != QUERIES - 1]
    torch.testing.assert_close(after[kept], before[kept])
    assert not torch.allclose(after[QUERIES - 1], before[QUERIES - 1])


@pytest.mark.parametrize(("size", "objective"), [(7, "mse"), (4, "softmax"), (11, "mse")])
def test_relations_without_pairs_are_those_of_all_pairs(size, objective):
    """Also where the first block does not pad (maps of 10 and more)."""
    torch.manual_seed(0)
    model = RelationNet(nn.Identity(), SHOTS, 3, size, objective).double()
    x = torch.randn(WAY, SHOTS + QUERIES, 3, size, size, dtype=torch.float64, requires_grad=True)
    pairs = model.activation(model.relations(model.pairs(x), WAY))
    scores = model.scores(x)
    torch.testing.assert_close(scores, pairs)
    ours, theirs = (torch.autograd.grad(model.loss(each), [x, *model.parameters()]) for each in (scores, pairs))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_both_orders_of_the_support_lstm():
    support = episode()[:, :SHOTS].flatten(0, 1)
    published, correct = learner("matching"), learner("matching")
    correct.order = "correct"
    assert not torch.allclose(published.encode_support(support), correct.encode_support(support))
    # Reversing the support reverses a bidirectional encoding by one shared cell
    mirrored = correct.encode_support(support.flip(0)).flip(0)
    torch.testing.assert_close(mirrored, correct.encode_support(support))
    probabilities = correct.scores(episode()).exp().sum(dim=1)
    torch.testing.assert_close(probabilities, torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-5)


def test_propagation():
    features = torch.randn(25, 6, dtype=torch.float64)
    graph = affinity(features, torch.ones(25, 1, dtype=torch.float64))
    torch.testing.assert_close(graph, graph.T)
    assert float(torch.linalg.eigvalsh(graph).abs().max()) <= 1 + 1e-9
    labels = torch.rand(25, 3, dtype=torch.float64)
    torch.testing.assert_close(propagate(graph, labels, alpha=0.0), labels)
    series, term = torch.zeros_like(labels), labels
    for _ in range(200):
        series, term = series + term, 0.5 * graph @ term
    torch.testing.assert_close(propagate(graph, labels, alpha=0.5), series, rtol=1e-6, atol=1e-9)
    assert bool((propagate(graph, labels) >= 0).all())
    with pytest.raises(ValueError, match="got 4"):
        affinity(features[:4], torch.ones(4, 1))


@pytest.mark.parametrize("kind", ["relation", "gnn"])
def test_heads_with_episode_statistics_are_the_same_in_both_modes(kind):
    model, x = learner(kind), data(kind)
    torch.testing.assert_close(model.train().scores(x), model.eval().scores(x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_plug_in_makes_every_episode_harder(kind):
    model, x = learner(kind), data(kind)
    if x.ndim == 3:
        model.feature, x = nn.Flatten(), x[..., None, None]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task = AdversarialTaskAugmenter(model, 3, 1e-3, 1.0, normalise=True)(x, measure=True)
    assert task.loss_after is not None
    assert float(task.loss_after) > float(task.losses[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_episodes():
    with pytest.raises(ValueError, match="n_support: expected at least 1"):
        ProtoNet(nn.Identity(), 0)
    with pytest.raises(ValueError, match="with queries"):
        ProtoNet(nn.Identity(), 5)(episode())
    with pytest.raises(ValueError, match="expected 4 classes"):
        learner("gnn").scores(episode()[:3])
    for make in (
        lambda: MatchingNet(nn.Identity(), 1, order="other"),
        lambda: RelationNet(nn.Identity(), 1, objective="hinge"),
        lambda: Gnn(nn.Identity(), 1, queries="some"),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()
