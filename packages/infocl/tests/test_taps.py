"""Stages of encoders of torchvision, timm and one's own."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from infocl import Encoder, LowerBoundRegularizer, SimClr, StageTaps


def test_the_taps_of_torchvisions_resnet_are_the_encoders_stages():
    torch.manual_seed(0)
    own = Encoder("resnet18", "imagenet").eval()
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(own.state_dict(), strict=False)
    images = torch.randn(2, 3, 32, 32)
    taps = StageTaps(theirs, ["layer2", "layer3", "layer4"])
    for ours, tapped in zip(own(images), taps(images), strict=True):
        torch.testing.assert_close(ours, tapped)
    assert taps.train().widths(images) == [128, 256, 512]
    assert taps.training


@pytest.mark.parametrize(("name", "taps", "widths", "options"), [
    ("resnet10t", ["layer3", "layer4"], [256, 512], {}),
    ("vit_tiny_patch16_224", ["blocks.5", "norm"], [192, 192], {"img_size": 32}),
    ("convnext_atto", ["stages.2", "stages.3"], [160, 320], {}),
])  # fmt: skip
def test_timm(name, taps, widths, options):
    torch.manual_seed(0)
    encoder = timm.create_model(name, pretrained=False, num_classes=0, **options)
    stages = StageTaps(encoder, taps).eval()(torch.randn(2, 3, 32, 32))
    assert [list(stage.shape) for stage in stages] == [[2, width] for width in widths]
    if name.startswith("vit"):
        tokens = encoder.eval().forward_features(torch.zeros(2, 3, 32, 32))
        mean = StageTaps(encoder, ["norm"]).eval()(torch.zeros(2, 3, 32, 32))[0]
        torch.testing.assert_close(mean, tokens[:, 1:].mean(dim=1))


def test_a_method_on_tapped_stages_learns_in_all_of_them():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 5))
    model = SimClr(
        StageTaps(encoder, ["0", "2", "4"]), 5, "lbe", out=4, lower_bound=LowerBoundRegularizer(weights=(0.5, 0.5, 1.0))
    )
    model(*torch.randn(2, 4, 3, 8, 8)).backward()
    assert all(value.grad is not None for value in encoder.parameters())


def test_maps_with_channels_last():
    class Swin(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage = nn.Identity()

        def forward(self, x):
            return self.stage(x.permute(0, 2, 3, 1))

    images = torch.randn(2, 3, 4, 5)
    stages = StageTaps(Swin(), ["stage"], channels_last=True)(images)
    torch.testing.assert_close(stages[0], images.mean(dim=(2, 3)))


def test_the_message_names_what_there_is():
    with pytest.raises(ValueError, match=r"expected submodules of ResNet, got \['stage5'\]; it has conv1, bn1"):
        StageTaps(torchvision.models.resnet18(weights=None), ["stage5"])
    with pytest.raises(ValueError, match=r"StageTaps\(encoder, \['layer2', 'layer3', 'layer4'\]\)"):
        SimClr(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 5)(*torch.randn(2, 4, 3, 2, 2))
    with pytest.raises(ValueError, match="ran 0 times"):
        layer = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        layer.add_module("unused", nn.Identity())
        layer.forward = lambda x: layer[1](layer[0](x))
        StageTaps(layer, ["unused"])(torch.randn(2, 3, 2, 2))
    with pytest.raises(ValueError, match="expected maps, tokens or vectors, got tuple"):
        StageTaps(nn.Sequential(nn.Flatten(), nn.LSTM(12, 5)), ["1"])(torch.randn(2, 3, 2, 2))
