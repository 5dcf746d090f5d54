"""Embedding networks and DropBlock."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fslstm import Conv4, ResNet12
from fslstm.backbones import Backbone, PretrainingClassifier, ResidualBlock
from fslstm.drop_block import DropBlock, drop_block, drop_block_gamma, drop_block_keep_rate, drop_block_mask


@pytest.mark.parametrize(
    ("network", "size", "features", "parameters"),
    [
        (Conv4, 32, 2048, 1_848_832),
        (Conv4, 84, 4608, 1_848_832),
        (ResNet12, 32, 2560, 12_424_320),
        (ResNet12, 84, 5760, 12_424_320),
    ],
)
def test_published_sizes(network: type[Backbone], size: int, features: int, parameters: int) -> None:
    with torch.device("meta"):
        model = network(image_size=size)
        assert model.out_features == features
        assert model(torch.zeros(2, 3, size, size)).shape == (2, features)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@settings(max_examples=15, deadline=None)
@given(size=st.integers(16, 100), channels=st.integers(1, 4), pool=st.sampled_from([None, True, False]))
def test_out_features_is_the_output_size(size: int, channels: int, pool: bool | None) -> None:
    with torch.device("meta"):
        for network in (Conv4, ResNet12):
            model = network(channels, (4, 6, 8, 10), size, pool=pool)
            assert model(torch.zeros(2, channels, size, size)).shape == (2, model.out_features)


def test_small_grey_network() -> None:
    model = Conv4(1, (32, 48, 64, 128), 32)
    assert model.out_features == 512
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 512)


def test_conv4_layer_by_layer() -> None:
    """Conv -> batch norm -> max pool -> LeakyReLU(0.2), in this order."""
    model = Conv4(1, (2, 2, 2, 2), 32).double().eval()
    expected = images = torch.randn(3, 1, 32, 32, dtype=torch.float64)
    for stage in (model.conv_1, model.conv_2, model.conv_3, model.conv_4):
        inner = stage[1](torch.nn.functional.conv2d(expected, stage[0].weight, padding=1))
        expected = torch.nn.functional.leaky_relu(torch.nn.functional.max_pool2d(inner, 2), 0.2)
    torch.testing.assert_close(model(images), expected.flatten(1))


def test_pooling_counts_the_padding() -> None:
    """The corner of the 3x3 map is a quarter of the corner of the 5x5 map."""
    model = Conv4(1, (2, 2, 2, 2), 84).eval()
    images = torch.randn(1, 1, 84, 84)
    features, inner = model(images).reshape(2, 3, 3), model.feature_map(images)[0]
    torch.testing.assert_close(features[:, 0, 0], inner[:, 0, 0] / 4)
    torch.testing.assert_close(features[:, 1, 1], inner[:, 1:3, 1:3].mean(dim=(1, 2)))


def test_initialisation() -> None:
    model = ResNet12()
    convolution = model.layer4[0].conv2
    # Kaiming normal, fan-out 9 * 640, gain sqrt(2)
    assert float(convolution.weight.detach().std()) == pytest.approx((2 / (9 * 640)) ** 0.5, rel=0.01)
    assert torch.equal(model.layer1[0].bn1.weight, torch.ones(64))
    assert not model.layer1[0].bn1.bias.any()


def test_dropout_of_the_stages() -> None:
    kinds = [type(stage[-1]).__name__ for stage in Conv4().stages()]
    assert kinds == ["LeakyReLU", "LeakyReLU", "Dropout2d", "Dropout2d"]
    kinds = [type(stage[0].dropout).__name__ for stage in ResNet12().stages()]
    assert kinds == ["Dropout", "Dropout", "Identity", "Identity"]
    blocks = [stage[0].dropout for stage in ResNet12(image_size=32, drop_block=0.1).stages()[2:]]
    assert [(type(block), block.block_size) for block in blocks] == [(DropBlock, 2)] * 2


def test_residual_block_gradcheck() -> None:
    block = ResidualBlock(2, 3).double().eval()
    assert torch.autograd.gradcheck(block, torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True))


def test_pretraining_classifier() -> None:
    backbone = Conv4(1, (2, 3, 4, 5), 32, dropout=(0.0,) * 4)
    model = PretrainingClassifier(backbone, 7).eval()
    images = torch.randn(3, 1, 32, 32)
    pooled = backbone.feature_map(images).mean(dim=(2, 3))
    torch.testing.assert_close(model(images), model.linear(pooled))
    assert model(images).shape == (3, 7)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_squares_are_complete(size: int) -> None:
    """Brute force over seeds, whatever their number."""
    seeds = (torch.rand(2, 3, 11 - size, 11 - size) < 0.05).float()
    expected = torch.ones(2, 3, 10, 10)
    for image, channel, row, column in seeds.nonzero().tolist():
        expected[image, channel, row : row + size, column : column + size] = 0
    assert torch.equal(drop_block_mask(seeds, size), expected)


def test_rescaling() -> None:
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    features = torch.tensor([[[[3.0, 5.0], [6.0, 9.0]]]])
    torch.testing.assert_close(drop_block(features, mask), torch.tensor([[[[4.0, 0.0], [8.0, 12.0]]]]))
    assert not drop_block(features, torch.zeros_like(mask)).any()


def test_drop_rate_over_training() -> None:
    """The share of dropped units approaches the rate; in evaluation nothing happens."""
    module = DropBlock(0.1, 2, ramp=50)
    features = torch.ones(64, 16, 10, 10)
    shares = [float((module(features) == 0).float().mean()) for _ in range(60)]
    assert module.count == 60
    assert shares[0] < 0.01
    assert sum(shares[50:]) / 10 == pytest.approx(0.1, abs=0.01)
    assert module.eval()(features) is features
    assert module.count == 60
    assert DropBlock(0.0)(features) is features


def test_ramp() -> None:
    keep = [float(drop_block_keep_rate(0.1, count)) for count in (0, 20_000, 40_000, 90_000)]
    assert keep == pytest.approx([1.0, 0.95, 0.9, 0.9])
    assert float(drop_block_gamma(0.9, 5, 5)) == pytest.approx(0.1)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="widths: expected"):
        Conv4(widths=(1, 2, 3))
    with pytest.raises(ValueError, match="image_size: expected"):
        ResNet12(image_size=15)
    with pytest.raises(ValueError, match=r"images: expected \[batch, 1, 32, 32\]"):
        Conv4(1, (2, 2, 2, 2), 32)(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="block_size: expected"):
        drop_block_gamma(0.9, 6, 5)
    with pytest.raises(ValueError, match="drop_rate: expected"):
        DropBlock(1.0)
    with pytest.raises(ValueError, match="features: expected square"):
        DropBlock(0.1, 2)(torch.zeros(1, 1, 4, 5))
    with pytest.raises(TypeError, match="abstract"):
        Backbone(3, (1, 1, 1, 1), 32, None).stages()
