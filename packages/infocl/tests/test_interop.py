"""The real lightly and timm with our regularisers."""

from __future__ import annotations

import pytest
import timm
import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from lightly.models.modules import SimCLRProjectionHead, SimSiamPredictionHead, SimSiamProjectionHead
from torch import nn

from infocl import Decoder, LowerBoundRegularizer, ReconstructionRegularizer
from infocl.augmentation import Augmentation, Views
from infocl.interop import TwoViewMethod
from infocl.losses import nt_xent
from infocl.networks import DecoderPlan, SmallEncoder
from infocl.taps import StageTaps
from infocl.training import TrainingConfig, train
from sextet.training import read_log

DECODER = DecoderPlan((8, 4, 4), ((8, 2), (8, 2), (3, 1)))
CPU = torch.device("cpu")


def images(count=12, side=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)


def test_their_nt_xent_is_ours():
    one, other = torch.randn(2, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(NTXentLoss(temperature=0.5)(one, other), nt_xent(one, other))


CRITERIA = {
    "nt-xent": lambda: (SimCLRProjectionHead(16, 16, 8), NTXentLoss(), None),
    "barlow": lambda: (SimCLRProjectionHead(16, 16, 8), BarlowTwinsLoss(), None),
    "vicreg": lambda: (SimCLRProjectionHead(16, 16, 8), VICRegLoss(), None),
    "simsiam": lambda: (
        SimSiamProjectionHead(16, 16, 8), NegativeCosineSimilarity(), SimSiamPredictionHead(8, 4, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("regulariser", ["rc", "lbe"])
def test_their_heads_and_losses_are_trained_with_our_terms(name, regulariser, tmp_path):
    torch.manual_seed(0)
    projector, criterion, predictor = CRITERIA[name]()
    decoder = Decoder(16, DECODER) if regulariser == "rc" else None
    encoder = SmallEncoder(3, (4, 4, 8, 16))
    model = TwoViewMethod(encoder, projector, criterion, regulariser, predictor=predictor, decoder=decoder)
    before = {key: value.clone() for key, value in model.named_parameters()}
    views = Views(images(), Augmentation(size=16), seed=0)
    config = TrainingConfig(epochs=10, batch_size=12, lr=3e-3)
    train(model, views, config, tmp_path, seed=0, device=CPU, title=None)
    log = read_log(tmp_path)
    assert len(log) == 10
    assert sum(line["loss"] for line in log[-4:]) < sum(line["loss"] for line in log[:4])
    moved = {key.split(".")[0] for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved == {"encoder", "projector"} | ({"decoder"} if decoder else set()) | (
        {"predictor"} if predictor else set()
    )


def test_our_terms_in_a_loop_of_theirs():
    """lightly's SimCLR tutorial with three lines more."""
    torch.manual_seed(0)
    backbone = StageTaps(timm.create_model("resnet18", num_classes=0), ["layer2", "layer3", "layer4"])
    head, criterion, lbe = SimCLRProjectionHead(512, 64, 32), NTXentLoss(), LowerBoundRegularizer()
    rc = ReconstructionRegularizer(Decoder(512, DECODER))
    x = images(6).permute(0, 3, 1, 2).float() / 255
    views = [x, x.flip(3)]
    stages = [backbone(view) for view in views]
    noisy = [lbe.noisy(each) for each in stages]
    loss = criterion(*(head(each[-1]) for each in noisy))
    term, log = lbe(stages, noisy)
    other, _ = rc([each[-1] for each in stages], views)
    (loss + term + other).backward()
    assert {"information_0", "information_1", "information_2", "norm"} <= log.keys()
    assert all(value.grad is not None for value in backbone.parameters())
    assert all(value.grad is not None for value in rc.parameters())


@pytest.mark.parametrize(
    ("name", "taps", "kwargs"),
    [
        ("resnet10t", ["layer2", "layer3", "layer4"], {}),
        ("vit_tiny_patch16_224", ["blocks.0", "blocks.1"], {"img_size": 32, "depth": 2}),
    ],
)
def test_encoders_of_timm(name, taps, kwargs, tmp_path):
    torch.manual_seed(0)
    encoder = StageTaps(timm.create_model(name, num_classes=0, **kwargs), taps)
    (*_, dim) = encoder.widths(torch.zeros(2, 3, 32, 32))
    bound = LowerBoundRegularizer(weights=[0.5] * (len(taps) - 1) + [1.0])
    model = TwoViewMethod(encoder, nn.Linear(dim, 8), NTXentLoss(), "lbe", lower_bound=bound)
    views = Views(images(4, 32), Augmentation(), seed=0)
    train(model, views, TrainingConfig(epochs=2, batch_size=4), tmp_path, seed=0, device=CPU, title=None)
    assert all(key in read_log(tmp_path)[-1] for key in ("loss", "regulariser", "norm"))


def test_with_a_predictor_targets_have_no_gradient():
    torch.manual_seed(0)
    projector, criterion, predictor = CRITERIA["simsiam"]()
    model = TwoViewMethod(nn.Identity(), projector.eval(), criterion, predictor=predictor.eval())
    one, other = torch.randn(2, 4, 16)
    loss = model.base([one, other], [], None)
    z = [projector(view) for view in (one, other)]
    wanted = sum(criterion(predictor(a), b.detach()) for a, b in (z, z[::-1])) / 2
    torch.testing.assert_close(loss, wanted)


def test_an_encoder_without_stages_is_told_what_to_do():
    model = TwoViewMethod(nn.Sequential(nn.Flatten(), nn.Linear(48, 16)), nn.Linear(16, 4), NTXentLoss(), "lbe")
    with pytest.raises(ValueError, match="StageTaps"):
        model(*torch.randn(2, 4, 3, 4, 4))
