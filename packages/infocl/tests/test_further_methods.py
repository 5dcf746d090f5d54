"""MoCo v2, SimSiam and VICReg: brute force, lightly's losses, and the common interface."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from infocl_testing.tiny_networks import Tiny, TinyDecoder, views

from infocl import MoCo, SimSiam, VicReg
from infocl.further_methods import info_nce, vicreg

KINDS = {"moco": MoCo, "simsiam": SimSiam, "vicreg": VicReg}


def make(kind, **kwargs):
    torch.manual_seed(0)
    kwargs |= {"queue_size": 10} if kind == "moco" else {}
    return KINDS[kind](Tiny(), 8, out=6, **kwargs)


def test_info_nce_by_loops():
    query, key, queue = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.randn(7, 3).double()
    total = 0.0
    for q, k in zip(query, key, strict=True):
        similarities = [float(F.cosine_similarity(q, row, dim=0)) / 0.2 for row in (k, *queue)]
        total += math.log(sum(map(math.exp, similarities))) - similarities[0]
    assert float(info_nce(query, key, queue)) == pytest.approx(total / 4)


def test_vicreg_is_lightlys():
    from lightly.loss import VICRegLoss

    one, other = torch.randn(2, 12, 5).unbind(0)
    torch.testing.assert_close(vicreg(one, other), VICRegLoss()(one, other))


def test_simsiam_is_lightlys_negative_cosine():
    from lightly.loss import NegativeCosineSimilarity

    model = make("simsiam")
    loss = model(*views())
    one, other = (model.projector(model.encoder(view)[-1]) for view in views())
    criterion = NegativeCosineSimilarity()
    wanted = criterion(model.predictor(one), other.detach()) + criterion(model.predictor(other), one.detach())
    torch.testing.assert_close(loss, wanted / 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("regulariser", ["none", "rc", "lbe"])
def test_training_reduces_the_loss(kind, regulariser):
    decoder = TinyDecoder() if regulariser == "rc" else None
    model = make(kind, regulariser=regulariser, weight=0.1, decoder=decoder)
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model(*views())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step(0, 1)
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.05
    assert {"base", "regulariser", "norm", "participation_ratio"} <= model.log.keys()


def test_mocos_queue_keeps_the_latest_keys_and_its_keys_have_no_gradient():
    model = make("moco")
    keys = F.normalize(torch.randn(4, 6), dim=1)
    for shift in range(4):
        model.enqueue(keys.roll(shift, 1))
    assert int(model.position) == 6
    torch.testing.assert_close(model.queue[2:6], keys.roll(3, 1))
    torch.testing.assert_close(model.queue[:2], keys.roll(2, 1)[2:])
    model.enqueue(torch.randn(25, 6))
    before = model.queue.clone()
    loss = model(*views())
    loss.backward()
    assert not torch.equal(before, model.queue)
    assert all(value.grad is None for value in model.key_encoder.parameters())
    model.eval()
    before = model.queue.clone()
    model(*views())
    assert torch.equal(before, model.queue)


def test_mocos_keys_follow_slowly():
    model = make("moco", momentum=0.9)
    online, key = model.encoder.stages[0].weight, model.key_encoder.stages[0].weight
    start = key.clone()
    with torch.no_grad():
        online.add_(1.0)
    for _ in range(3):
        model.after_step(0, 1)
    torch.testing.assert_close(key, start + (1 - 0.9**3))


@pytest.mark.parametrize("call", [
    lambda: make("moco", momentum=1.5),
    lambda: MoCo(Tiny(), 8, queue_size=0),
    lambda: vicreg(torch.zeros(3, 4), torch.zeros(4, 4)),
    lambda: info_nce(torch.zeros(3), torch.zeros(3), torch.zeros(2, 3)),
    lambda: make("simsiam")(*(view[:1] for view in views())),
    lambda: make("vicreg")(views()[0]),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
