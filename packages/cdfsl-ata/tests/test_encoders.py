"""Encoders and the FT layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cdfsl_ata.encoders import ConvNet, FeatureWiseTransform, ResidualBlock, ResNet, SmallResNet, fixed_parameters


@pytest.mark.parametrize(
    ("arch", "count"), [("ResNet10", 4_905_792), ("ResNet18", 11_176_512), ("ResNet34", 21_284_672)]
)
def test_parameters(arch, count):
    model = ResNet(arch)
    assert sum(value.numel() for value in model.parameters()) == count
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 512)
    assert ResNet(arch, flatten=False)(torch.randn(1, 3, 224, 224)).shape == (1, 512, 7, 7)


@pytest.mark.parametrize(("depth", "count"), [(4, 113_088), (6, 187_200)])
def test_convolutional_encoders(depth, count):
    model = ConvNet(depth)
    assert sum(value.numel() for value in model.parameters()) == count
    assert model(torch.randn(2, 3, 84, 84)).shape == (2, 1600)
    assert ConvNet(depth, maps=True)(torch.randn(2, 3, 84, 84)).shape == (2, 64, 19, 19)


def test_the_transform_is_batch_normalisation_in_evaluation():
    layer, plain, x = FeatureWiseTransform(4), nn.BatchNorm2d(4), torch.randn(5, 4, 3, 3)
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))
    layer.train()
    torch.manual_seed(0)
    first, second = layer(x), layer(x)
    assert not torch.allclose(first, second)
    with torch.no_grad():
        layer.gamma.fill_(-100)
        layer.beta.fill_(-100)
    torch.testing.assert_close(layer(x), plain.train()(x))


def test_a_small_residual_network():
    model = SmallResNet((8, 8, 16))
    images = torch.randn(2, 3, 32, 32)
    assert model(images).shape == (2, 16)
    assert SmallResNet(flatten=False)(images).shape == (2, 64, 4, 4)
    assert sum(isinstance(m, FeatureWiseTransform) for m in SmallResNet(last_norm=FeatureWiseTransform).modules()) == 5


def test_ft_has_seven_layers_in_resnet10_that_are_not_trained():
    model = ResNet(last_norm=FeatureWiseTransform)
    assert sum(isinstance(module, FeatureWiseTransform) for module in model.modules()) == 7
    assert len(fixed_parameters(model)) == 14
    assert {id(value) for value in fixed_parameters(model)} < {id(value) for value in model.parameters()}


def test_bad_settings():
    with pytest.raises(ValueError, match="ResNet10"):
        ResNet("ResNet50")
    with pytest.raises(ValueError, match="stride 1"):
        ResidualBlock(4, 4, 2)
