"""Dense features, UPerNet, windows and mIoU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork

from lmim import SwinClassifier, VitClassifier
from lmim.config import MimConfig
from lmim.conversion import GeometryError, encoder_state, make_pretrained
from lmim.features import STRIDES, SwinFeatures, VitFeatures, make_features, raster, relative_index, start_features
from lmim.segmentation import (
    IGNORED,
    Confusion,
    FcnHead,
    PyramidPooling,
    SegmentationLoss,
    Segmenter,
    UPerHead,
    pixel_cross_entropy,
    sliding_logits,
    window_starts,
)

VIT = MimConfig(image=64, patch=16, dim=12, depths=(7,), heads=(2,), decoder_dims=(8,), decoder_heads=2)
SWIN = MimConfig(
    backbone="swin", image=64, patch=4, dim=4, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), scales=(1.0,) * 4,
    decoder_dims=(8,), decoder_heads=2,
)  # fmt: skip


def images(height, width=None, count=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, height, width or height, generator=generator, dtype=dtype)


@pytest.mark.parametrize("config", [VIT, SWIN], ids=["vit", "swin"])
def test_four_maps_at_four_scales(config):
    backbone = make_features(config, 96, 0.0).double().eval()
    maps = backbone(images(96))
    assert [tuple(each.shape[2:]) for each in maps] == [(96 // stride,) * 2 for stride in STRIDES]
    assert [each.shape[1] for each in maps] == list(backbone.channels)


def test_a_vit_gives_the_tokens_of_its_taps():
    """Its relative positions start at zero and its layer scales at one: a plain ViT."""
    torch.manual_seed(0)
    plain = VitClassifier(3, 64, 16, 12, 7, 2).double().eval()
    backbone = VitFeatures(64, 16, 12, 7, 2).double().eval()
    start_features(backbone, encoder_state(plain))
    backbone.pyramid = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    tokens = plain.patch_embed(images(64))
    tokens = torch.cat([plain.cls_token.expand(2, -1, -1), tokens], dim=1) + plain.pos_embed
    taps = []
    for number, block in enumerate(plain.blocks):
        tokens = block(tokens)
        if number in (1, 3, 4, 6):
            taps.append(tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
    for found, wanted in zip(backbone(images(64)), taps, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_relative_positions_by_hand():
    index = relative_index(2)
    assert index.tolist() == [
        [11, 9, 9, 9, 9], [10, 4, 3, 1, 0], [10, 5, 4, 2, 1], [10, 7, 6, 4, 3], [10, 8, 7, 5, 4],
    ]  # fmt: skip


def test_relative_positions_act_in_attention():
    torch.manual_seed(0)
    attention = VitFeatures(32, 16, 8, 7, 2).double().blocks[0].attn
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    query, key, value = attention.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    bias = torch.stack([attention.relative_position_bias_table[:, head][relative_index(2)] for head in range(2)])
    scores = (query @ key.transpose(-2, -1) / 2 + bias).softmax(-1)
    wanted = attention.proj((scores @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), wanted, rtol=0, atol=1e-12)


def test_a_swin_gives_its_stages_before_merging():
    torch.manual_seed(0)
    plain = SwinClassifier(3, 4, 4, (2, 2, 2, 2), (1, 2, 2, 4), image=64).double().eval()
    backbone = SwinFeatures(4, 4, (2, 2, 2, 2), (1, 2, 2, 4), image=64).double().eval()
    start_features(backbone, encoder_state(plain))
    maps = backbone(images(64))
    stages = list(plain.stages(images(64), torch.arange(4), (2, 2)))
    for number, (before, _) in enumerate(stages):
        normed = F.layer_norm(before, before.shape[-1:])
        torch.testing.assert_close(maps[number], raster(normed, 8 >> number, 2, 2), rtol=1e-9, atol=1e-9)


def test_raster_order():
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    by_units = torch.stack([rows, columns], -1).view(2, 2, 3, 2, 2).transpose(1, 2).reshape(1, 24, 2)
    maps = raster(by_units, 2, 2, 3)
    assert torch.equal(maps[0, 0], rows)
    assert torch.equal(maps[0, 1], columns)


@pytest.mark.parametrize(("height", "width"), [(50, 70), (33, 64)])
def test_a_swin_takes_images_of_any_size(height, width):
    backbone = make_features(SWIN, 64, 0.0).double().eval()
    x = images(height, width)
    maps = backbone(x)
    assert [tuple(each.shape[2:]) for each in maps] == [(-(-height // s), -(-width // s)) for s in STRIDES]
    filled = backbone(F.pad(x, (0, -width % 32, 0, -height % 32)))
    assert torch.equal(maps[0], filled[0][:, :, : maps[0].shape[2], : maps[0].shape[3]])


@pytest.mark.parametrize("config", [VIT, SWIN], ids=["vit", "swin"])
def test_pre_trained_weights_are_taken(config):
    model, backbone = make_pretrained(config), make_features(config, 96, 0.1)
    start_features(backbone, encoder_state(model))
    prefix = "encoder.layers.1" if config.backbone == "swin" else "blocks.1"
    own = "layers.1.blocks.0" if config.backbone == "swin" else "blocks.1"
    source = model.state_dict()[f"{prefix}{'.blocks.0' if config.backbone == 'swin' else ''}.attn.qkv.weight"]
    assert torch.equal(backbone.state_dict()[f"{own}.attn.qkv.weight"], source)
    if config.backbone == "vit":
        assert backbone.pos_embed.shape[1] == 1 + 36
        assert torch.equal(backbone.pos_embed[:, :1], model.pos_embed[:, :1])
    with pytest.raises(GeometryError, match="differing"):
        start_features(make_features(replace(config, dim=24), 96, 0.1), encoder_state(model))
    with pytest.raises(GeometryError, match="differing"):
        start_features(make_features(SWIN if config is VIT else VIT, 96, 0.1), encoder_state(model))


@pytest.mark.parametrize("config", [VIT, SWIN], ids=["vit", "swin"])
def test_a_segmenter_learns(config):
    torch.manual_seed(0)
    model = Segmenter(make_features(config, 64, 0.0), 3, 8)
    x = images(64, dtype=torch.float32)
    labels = (x[:, 0] > 0).long()
    labels[:, :4] = IGNORED
    loss, optimizer = SegmentationLoss(model), torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        value = loss(x, labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0]
    assert model(x).shape == (2, 3, 64, 64)
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert not without


@pytest.mark.parametrize("config", [VIT, SWIN], ids=["vit", "swin"])
def test_detectors_of_torchvision_take_the_maps(config):
    """A step of Mask R-CNN on a feature pyramid over our maps reaches the first block."""
    torch.manual_seed(0)

    class Pyramid(torch.nn.Module):
        out_channels = 8

        def __init__(self):
            super().__init__()
            self.features = make_features(config, 64, 0.0)
            self.levels = FeaturePyramidNetwork(list(self.features.channels), 8)

        def forward(self, x):
            return self.levels({str(level): each for level, each in enumerate(self.features(x))})

    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    backbone = Pyramid()
    model = MaskRCNN(backbone, 2, min_size=64, max_size=64, rpn_anchor_generator=anchors)
    boxes, masks = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, 8:40, 8:40] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1]), "masks": masks}
    losses = model([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    first = backbone.features.get_submodule("blocks.0" if config is VIT else "layers.0.blocks.0")
    assert float(first.attn.qkv.weight.grad.abs().max()) > 0


def test_heads_have_their_sizes():
    assert sum(value.numel() for value in UPerHead((8, 8, 8, 8), 4, 3).parameters()) == (
        3 * (8 * 4 + 8)  # lateral
        + 4 * (8 * 4 + 8) + (8 + 4 * 4) * 4 * 9 + 8  # pyramid pooling
        + 3 * (4 * 4 * 9 + 8) + 16 * 4 * 9 + 8  # smooth, merge
        + 4 * 3 + 3
    )  # fmt: skip
    head = FcnHead(8, 3)
    assert head(torch.randn(2, 8, 5, 5)).shape == (2, 3, 5, 5)
    pooling = PyramidPooling(4, 2).eval()
    constant = pooling(torch.ones(1, 4, 7, 7))
    torch.testing.assert_close(constant[:, :, 3:4, 3:4].expand(-1, -1, 5, 5), constant[:, :, 1:6, 1:6])


def test_pixel_cross_entropy_leaves_out_what_has_no_label():
    logits, labels = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randint(3, (2, 4, 4))
    labels[0] = IGNORED
    wanted = F.cross_entropy(logits[1:].float(), labels[1:])
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), wanted)
    assert float(pixel_cross_entropy(logits, torch.full_like(labels, IGNORED))) == 0


def test_windows_cover_every_pixel():
    assert window_starts(512, 512, 341) == [0]
    assert window_starts(683, 512, 341) == [0, 171]
    assert window_starts(2048, 512, 341) == [0, 341, 682, 1023, 1364, 1536]
    for length in range(1, 60):
        starts = window_starts(length, 16, 11)
        covered = {pixel for start in starts for pixel in range(start, start + 16)}
        assert covered >= set(range(length))
        assert starts[-1] + 16 == max(length, 16)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 40), (10, 25), (33, 16)])
def test_sliding_logits_are_means_over_windows(height, width):
    def model(window):
        assert window.shape[-2:] == (16, 16)
        return torch.cat([window.sum(1, keepdim=True), torch.ones_like(window[:, :1])], dim=1)

    x = images(height, width, count=1, dtype=torch.float32)
    found = sliding_logits(model, x, 16, 11)
    torch.testing.assert_close(found[:, :1], x.sum(1, keepdim=True))
    assert torch.equal(found[:, 1:], torch.ones(1, 1, height, width))


def test_mean_intersection_over_union_by_hand():
    confusion = Confusion(4)
    confusion.add(torch.tensor([[0, 0, 1], [1, 1, 3]]), torch.tensor([[0, 1, 1], [1, IGNORED, 0]]))
    # class 0: 1 of 3, class 1: 2 of 3, class 2 does not occur, class 3 was predicted once
    assert confusion.intersection_over_union().tolist() == [1 / 3, 2 / 3, 0.0]
    generator = torch.Generator().manual_seed(0)
    predicted, labels = (torch.randint(5, (3, 9, 9), generator=generator) for _ in range(2))
    confusion = Confusion(5)
    for one, other in zip(predicted, labels, strict=True):
        confusion.add(one, other)
    for label, score in enumerate(confusion.intersection_over_union()):
        both, either = (predicted == label) & (labels == label), (predicted == label) | (labels == label)
        assert float(score) == int(both.sum()) / int(either.sum())


@pytest.mark.parametrize("call", [
    lambda: VitFeatures(60, 16, 8, 7, 2),
    lambda: VitFeatures(64, 16, 8, 7, 2, taps=(1, 2)),
    lambda: VitFeatures(64, 16, 8, 7, 2)(images(32, dtype=torch.float32)),
    lambda: SwinFeatures(4, 4, (2, 2), (1, 2), image=60),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
