"""Nearest neighbours, monitors of features, probes of the augmentation, features of images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from infocl.augmentation import Augmentation, Draws, Views, augment
from infocl.augmentation_probes import augmentation_facts, augmentation_information, explained, mean_colours
from infocl.diagnostics import alignment, spectrum, uniformity
from infocl.features import encode, encode_photographs
from infocl.knn import knn_hits, nearest_neighbours
from infocl.methods import Byol, SimClr
from infocl.networks import SmallEncoder
from infocl.online_probe import OnlineProbe, add_online_probe
from infocl.preprocessing import centred_pixels, pixels, statistics_of
from infocl.regularisers import feature_statistics
from infocl.stored_images import images_of
from infocl.training import TrainingConfig, train
from sextet.training import read_log

CPU = torch.device("cpu")


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# k nearest neighbours


def test_two_neighbours_of_three():
    train = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    assert nearest_neighbours(train, torch.tensor([[2.0, 0.0], [0.0, 3.0]]), 2, k=1).tolist() == [0, 1]
    assert nearest_neighbours(train, torch.tensor([[0.0, 3.0]]), 2, k=3, temperature=None).tolist() == [0]
    assert nearest_neighbours(train, torch.tensor([[0.0, 3.0]]), 2, k=3).tolist() == [1]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 25), st.integers(0, 99), st.sampled_from([None, 0.1, 1.0]))
def test_votes_by_loops(count, queries, k, seed, temperature):
    x, q = rows(count, 4, seed=seed), rows(queries, 4, seed=seed + 1)
    y = torch.randint(3, (count,), generator=torch.Generator().manual_seed(seed))
    found = nearest_neighbours((x, y), q, 3, k=k, temperature=temperature)
    for row in range(queries):
        cosine = F.cosine_similarity(x, q[row][None])
        votes = [0.0] * 3
        for index in cosine.argsort(descending=True)[:k].tolist():
            votes[int(y[index])] += 1.0 if temperature is None else math.exp(float(cosine[index]) / temperature)
        assert votes[int(found[row])] == pytest.approx(max(votes))


def test_neighbours_do_not_see_the_scale():
    x, y = rows(30, 4), torch.arange(30) % 3
    assert torch.equal(knn_hits((x, y), (x, y), 3, k=5), knn_hits((9 * x, y), (0.1 * x, y), 3, k=5))
    assert bool(knn_hits((x, y), (x, y), 3, k=1).all())


# Monitors of features


def test_spectra_of_known_shape():
    directions = torch.linalg.qr(rows(8, 3))[0]
    white = rows(4000, 3) @ directions.T
    found = spectrum(white)
    assert found.participation_ratio == pytest.approx(3, abs=0.05)
    assert found.effective_rank == pytest.approx(3, abs=0.05)
    assert found.singular_values[:3].tolist() == pytest.approx([1, 1, 1], abs=0.05)
    collapsed = spectrum(torch.cat([rows(50, 1), torch.ones(50, 7, dtype=torch.float64)], dim=1))
    assert collapsed.participation_ratio == pytest.approx(1)
    assert collapsed.dead == 7


def test_the_spectrum_agrees_with_what_training_logs():
    h = rows(20, 30) @ torch.diag(torch.linspace(0.1, 3, 30, dtype=torch.float64))
    logged = feature_statistics(h)
    assert spectrum(h).participation_ratio == pytest.approx(float(logged["participation_ratio"]))
    assert spectrum(h).norm == pytest.approx(float(logged["norm"]))
    assert spectrum(torch.ones(4, 3)).effective_rank == pytest.approx(1)


def test_alignment_and_uniformity():
    h = rows(6, 3)
    assert alignment(h, 5 * h) == pytest.approx(0, abs=1e-12)
    assert alignment(h, -h) == pytest.approx(4)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)
    assert uniformity(rows(500, 3)) < -1.5
    pair = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert uniformity(pair) == pytest.approx(-4)


def test_the_online_probe_leaves_the_encoder_alone():
    torch.manual_seed(0)
    encoder, probe = nn.Linear(4, 8), OnlineProbe(8, 3, momentum=0.5)
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.05)
    labels = torch.arange(60) % 3
    x = F.one_hot(labels, 4).float() + 0.1 * torch.randn(60, 4)
    for _ in range(60):
        loss = probe.loss(encoder(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert encoder.weight.grad is None
    assert float(probe.running_accuracy) > 0.95
    assert bool((probe.eval()(encoder(x)).argmax(1) == labels).all())


@pytest.mark.parametrize("kind", [SimClr, Byol])
def test_an_online_probe_in_the_trainer(kind, tmp_path):
    """It learns the brightness of images; the encoder's weights are those of a run without it."""
    labels = torch.arange(24) % 2
    images = (torch.rand(24, 8, 8, 3) * 60 + 150 * labels[:, None, None, None]).to(torch.uint8)
    views = Views(images, Augmentation(size=8, jitter=0.0), seed=0, labels=labels)
    config, encoders = TrainingConfig(epochs=12, batch_size=12, lr=0.01), []
    for name in ("with", "without"):
        torch.manual_seed(0)
        model = kind(SmallEncoder(3, (2, 3, 4, 5)), 5, out=4)
        if name == "with":
            add_online_probe(model, 5, 2, momentum=0.5)
        train(model, views, config, tmp_path / name, seed=0, device=CPU, title=None)
        encoders.append(model.encoder.state_dict())
    assert all(map(torch.equal, encoders[0].values(), encoders[1].values()))
    assert read_log(tmp_path / "with")[-1]["online_accuracy"] > 0.8
    with pytest.raises(ValueError, match="labels"):
        kind_with = kind(SmallEncoder(3, (2, 3, 4, 5)), 5, out=4)
        add_online_probe(kind_with, 5, 2)
        kind_with(*torch.randn(2, 4, 3, 8, 8))


# What features know of the augmentation


def test_facts_are_those_of_the_views():
    """Brightness alone, on white images, is the views' level; crops and mirrors are seen on a ramp."""
    config = Augmentation(size=16, contrast=0.0, saturation=0.0, hue=0.0, grey=0.0)
    draws = Draws(0, 40).rows(0, 0, torch.arange(40))
    sizes = torch.full((40, 2), 16)
    facts = augmentation_facts(draws, sizes, config)
    white = augment(torch.full((40, 16, 16, 3), 100, dtype=torch.uint8), draws, config)
    expected = (100 / 255 * facts["brightness"]).clamp(max=1).float()
    torch.testing.assert_close(white.mean(dim=(1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean_colours(white)["green"].float(), expected, rtol=1e-4, atol=1e-4)
    ramp = (15 * torch.arange(16, dtype=torch.uint8))[None, None, :, None].expand(40, 16, 16, 3)
    plain = Augmentation(size=16, jitter=0.0, grey=0.0)
    found = augment(ramp.contiguous(), draws, plain)[:, 0] * 255 / 15
    facts = augmentation_facts(draws, sizes, plain)
    assert torch.equal(found[:, 0, -1] < found[:, 0, 0], facts["mirrored"])
    torch.testing.assert_close(found.mean(dim=(1, 2)).double(), 16 * facts["column"] - 0.5, rtol=0, atol=0.1)


def test_what_is_known_of_the_augmentation():
    count = 300
    noise = rows(count, 6)
    facts = {"row": noise[:, 0] * 2 + 1, "area": rows(count, seed=9), "mirrored": noise[:, 1] > 0.5}
    split = 200
    parts = [(noise[s], {k: v[s] for k, v in facts.items()}) for s in (slice(split), slice(split, None))]
    found = augmentation_information(*parts, seed=0)
    assert found["row"] == pytest.approx(1, abs=1e-6)
    assert found["mirrored"] > 0.8
    assert found["area"] < 0.05


def test_explained_by_least_squares():
    x, weights = rows(200, 5), rows(5, 2, seed=1)
    y = x @ weights + 0.5 * rows(200, 2, seed=2)
    found = explained((x[:150], y[:150]), (x[150:], y[150:]), ridges=(0.0,))
    design = torch.cat([x, torch.ones(200, 1, dtype=torch.float64)], dim=1)
    fit = design[150:] @ torch.linalg.lstsq(design[:150], y[:150]).solution
    wanted = 1 - (y[150:] - fit).square().sum(0) / (y[150:] - y[150:].mean(0)).square().sum(0)
    torch.testing.assert_close(found, wanted)
    scaled = explained((100 * x[:150] + 3, y[:150]), (100 * x[150:] + 3, y[150:]), ridges=(0.0,))
    torch.testing.assert_close(scaled, wanted)


# Features of images


def test_features_are_those_of_the_protocol(tmp_path):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    encoder = SmallEncoder(3, (2, 3, 4, 5)).eval()
    images = rng.integers(0, 255, (7, 30, 20, 3), np.uint8)
    photographs = images_of({"test_images": images, "test_labels": np.zeros(7, np.int64)}, "test", 1)
    statistics = statistics_of("dtd")
    found = encode_photographs(encoder, photographs, 16, statistics, device=CPU, batch_size=3)
    by_hand = torch.stack([pixels(Image.fromarray(image), "dtd", 16) for image in images])
    torch.testing.assert_close(found, encoder(by_hand)[-1].detach())
    cropped = encode_photographs(encoder, photographs.subset([2]), 224, statistics, device=CPU, fit="crop", resize=256)
    torch.testing.assert_close(cropped, encoder(centred_pixels(photographs[2], "dtd")[None])[-1].detach())
    assert not encoder.training
    resized = np.stack([np.asarray(Image.fromarray(image).resize((16, 16), 2)) for image in images])
    torch.testing.assert_close(encode(encoder, torch.from_numpy(resized), statistics, device=CPU), found)


@pytest.mark.parametrize("call", [
    lambda: nearest_neighbours((rows(3, 2), torch.zeros(3).long()), rows(1, 2), 1, k=0),
    lambda: nearest_neighbours((rows(3, 2), torch.zeros(3).long()), rows(1, 3), 1),
    lambda: nearest_neighbours((rows(3, 2), torch.zeros(3).long()), rows(1, 2), 1, temperature=0.0),
    lambda: spectrum(rows(1, 3)),
    lambda: spectrum(torch.full((3, 3), math.nan)),
    lambda: explained((rows(5, 2), rows(5, 1)), (rows(5, 2), rows(5, 1))),
    lambda: augmentation_facts(rows(3, 4), torch.full((3, 2), 8), Augmentation()),
    lambda: pixels(Image.new("RGB", (4, 4)), "food", 4),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
