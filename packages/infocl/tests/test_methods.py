"""Methods with and without a regulariser, theory, evaluation."""

from __future__ import annotations

import pytest
import torch
from infocl_testing.tiny_networks import Tiny, TinyDecoder, views

from infocl import BarlowTwins, Byol, Decoder, Encoder, LowerBoundRegularizer, SimClr, Supervised, target_momentum
from infocl.losses import byol_regression, cross_correlation, nt_xent


def make(kind, **kwargs):
    torch.manual_seed(0)
    return {"simclr": SimClr, "barlow": BarlowTwins, "byol": Byol}[kind](Tiny(), 8, out=5, **kwargs)


@pytest.mark.parametrize("kind", ["simclr", "barlow", "byol"])
def test_a_weight_of_zero_is_the_plain_method(kind):
    plain = make(kind)(*views())
    for extra in ({"regulariser": "ip"}, {"regulariser": "lbe"}, {"regulariser": "mib"}):
        changed = make(kind, weight=0.0, lower_bound=LowerBoundRegularizer(sigma=0.0), **extra)
        torch.testing.assert_close(changed(*views()), plain)
    torch.manual_seed(0)
    with_decoder = make(kind, regulariser="rc", weight=0.0, decoder=TinyDecoder())
    with_decoder.load_state_dict(make(kind).state_dict(), strict=False)
    torch.testing.assert_close(with_decoder(*views()), plain)


@pytest.mark.parametrize("kind", ["simclr", "barlow", "byol"])
@pytest.mark.parametrize("regulariser", ["none", "rc", "lbe"])
def test_training_reduces_the_loss(kind, regulariser):
    decoder = TinyDecoder() if regulariser == "rc" else None
    model = make(kind, regulariser=regulariser, weight=0.1, decoder=decoder)
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model(*views())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])
    used = model.encoder.stages if regulariser == "lbe" else model.encoder.stages[-1:]
    assert all(value.grad is not None for value in used.parameters())


def test_byols_target_moves_slowly_and_has_no_gradient():
    model = make("byol")
    online, target = model.encoder.stages[0].weight, model.target_encoder.stages[0].weight
    assert torch.equal(online, target)
    with torch.no_grad():
        online.add_(1.0)
    start = target.clone()
    for _ in range(3):
        model.update_target(0.9)
    torch.testing.assert_close(target, start + (1 - 0.9**3))
    model(*views()).backward()
    assert target.grad is None
    assert not torch.equal(model.target_encoder.norm.running_mean, torch.zeros(48))
    assert target_momentum(0, 200) == pytest.approx(0.996)
    assert target_momentum(100, 200) == pytest.approx(0.998)


def test_views_have_statistics_of_their_own():
    model = make("simclr")
    one, other = views()
    other = other + 3
    model(one, other)
    wanted = torch.zeros(48)
    for view in (one, other):
        wanted = 0.9 * wanted + 0.1 * view.flatten(1).mean(0)
    torch.testing.assert_close(model.encoder.norm.running_mean, wanted)


def test_every_loss_is_in_full_precision():
    for kind in ("simclr", "barlow", "byol"):
        model = make(kind, regulariser="lbe")
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(*views())
        assert loss.dtype == torch.float32
        assert all(value.dtype == torch.float32 for value in model.log.values())


def test_noise_alone_is_the_bottleneck_with_weight_zero():
    losses = []
    for kwargs in (
        {"regulariser": "noise"},
        {"regulariser": "mib", "weight": 0.0},
        {"regulariser": "lbe", "weight": 0.0},
    ):
        model = make("simclr", **kwargs)
        torch.manual_seed(5)
        losses.append(model(*views()).detach())
    assert float(losses[0]) == float(losses[1]) == float(losses[2])
    assert float(losses[0]) != float(make("simclr")(*views()).detach())


def test_the_log_says_what_the_loss_is_made_of():
    model = make("simclr", regulariser="lbe", weight=0.3)
    loss = model(*views()).detach()
    assert float(loss) == pytest.approx(float(model.log["base"] + 0.3 * model.log["regulariser"]))
    assert {"information_0", "information_1", "information_2", "norm", "participation_ratio"} <= model.log.keys()
    assert not any(value.requires_grad for value in model.log.values())


def test_supervised():
    torch.manual_seed(0)
    model = Supervised(Tiny(), 8, 3, regulariser="lbe", weight=0.1)
    assert model(views()[0], labels=torch.tensor([0, 1, 2, 0, 1, 2])).ndim == 0
    with pytest.raises(ValueError, match="labels"):
        model(views()[0])


def test_sizes():
    assert sum(value.numel() for value in Encoder().parameters()) == 11_168_832
    assert sum(value.numel() for value in SimClr(Encoder(), 512).parameters()) == 11_497_152
    with torch.device("meta"):
        assert sum(value.numel() for value in Encoder("resnet50", "imagenet").parameters()) == 23_508_032
    for size, count in ((32, 1_045_059), (64, 1_646_979)):
        assert sum(value.numel() for value in Decoder(512, size).parameters()) == count
        assert Decoder(512, size)(torch.randn(2, 512)).shape == (2, 3, size, size)
    assert sum(value.numel() for value in Decoder(2048, 224).parameters()) == 6_873_795


@pytest.mark.parametrize("call", [
    lambda: make("simclr", regulariser="more"),
    lambda: make("simclr", regulariser="rc"),
    lambda: make("simclr", decoder=TinyDecoder()),
    lambda: Encoder("resnet7"),
    lambda: Encoder(stem="mnist"),
    lambda: Decoder(8, 48),
    lambda: make("simclr")(*(view[:1] for view in views())),
    lambda: make("simclr")(views()[0], views()[1][:4]),
    lambda: make("simclr")(views()[0]),
    lambda: nt_xent(torch.randn(2, 3, 4), torch.randn(2, 3, 4)),
    lambda: nt_xent(torch.randn(2, 3), torch.randn(2, 4)),
    lambda: byol_regression(torch.randn(2, 3), torch.randn(2, 1)),
    lambda: cross_correlation(torch.randn(2, 3), torch.randn(2, 4)),
    lambda: make("simclr", regulariser="lbe")(*(view * float("nan") for view in views())),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"expected|needed"):
        call()
