"""k nearest neighbours and linear classifiers on frozen features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from lmim import LocalMim, SparseSwin, SwinLocalMim
from lmim.probes import accuracy, hits, knn_predictions, linear_predictions, online_probes, tap_features


def small():
    torch.manual_seed(0)
    return LocalMim(16, 4, 8, 7, 2, decoder_dim=8, decoder_heads=2, bins=4, channels=1).double()


def points(count, seed=0):
    """Three overlapping clouds."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[2.0, 0, 0, 1], [0, 2, 0, 1], [0, 0, 2, 1]], dtype=torch.float64)
    return centres[labels] + torch.randn(count, 4, generator=generator, dtype=torch.float64), labels


def test_nearest_neighbours_by_hand():
    bank, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]]), torch.tensor([0, 1, 1])
    assert knn_predictions(bank, labels, torch.tensor([[2.0, 0.1], [0.1, 3.0]]), k=1).tolist() == [0, 1]
    (bank, labels), (asked, _) = points(30), points(8, 1)
    wanted = []
    for feature in asked:
        cosines = [float(F.cosine_similarity(feature, row, dim=0)) for row in bank]
        nearest = sorted(range(30), key=lambda row: -cosines[row])[:5]
        votes = [sum(math.exp(cosines[row] / 0.2) for row in nearest if labels[row] == kind) for kind in range(3)]
        wanted.append(votes.index(max(votes)))
    assert knn_predictions(bank, labels, asked, k=5, temperature=0.2, batch=3).tolist() == wanted


def test_more_neighbours_than_rows():
    bank, labels = points(5)
    assert knn_predictions(bank, labels, bank, k=20).shape == (5,)


def test_the_linear_probe_is_scikit_learns_logistic_regression():
    (bank, labels), (asked, _) = points(120), points(60, 1)
    standard = ((part - bank.mean(dim=0)) / bank.std(dim=0) for part in (bank, asked))
    known, unknown = (part.numpy() for part in standard)
    machine = LogisticRegression(C=1 / (0.01 * 120), tol=1e-10, max_iter=1000).fit(known, labels.numpy())
    assert linear_predictions(bank, labels, asked, penalty=0.01).tolist() == machine.predict(unknown).tolist()


def test_features_are_the_encoders_with_nothing_hidden():
    model, images = small(), torch.randn(5, 1, 16, 16, dtype=torch.float64)
    found = tap_features(model, images, batch=2)
    latents = model(images, 0.0, torch.arange(16.0).expand(5, -1) / 16).latents
    assert len(found) == 4
    for feature, latent in zip(found, latents, strict=True):
        torch.testing.assert_close(feature, latent[:, 1:].mean(dim=1).detach())


def test_features_of_a_swin():
    torch.manual_seed(0)
    swin = SwinLocalMim(SparseSwin(1, 4, (1, 1, 1, 1), (1, 1, 1, 1)), decoder_dims=(4,) * 4, decoder_heads=1)
    found = tap_features(swin, torch.randn(3, 3, 56, 56), batch=2)
    assert [part.shape for part in found] == [(3, 8), (3, 16), (3, 32), (3, 32)]


def test_probes_of_every_tap():
    model, images = small(), torch.randn(30, 1, 16, 16, dtype=torch.float64)
    labels = torch.arange(30) % 2
    found = online_probes(model, images, labels, images[:9], labels[:9])(1)
    assert sorted(found) == sorted(f"{kind}_{tap}" for kind in ("knn", "linear") for tap in (1, 2, 3, 4))
    assert all(0 <= value <= 1 for value in found.values())


def test_hits():
    found, wanted = torch.tensor([1, 0, 2]), torch.tensor([1, 1, 2])
    assert hits(found, wanted) == [1.0, 0.0, 1.0]
    assert accuracy(found, wanted) == 2 / 3
