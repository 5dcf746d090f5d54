"""Diversity of attention, and pictures of reconstructions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lmim import LocalMim, hog_targets
from lmim.diagnostics import (
    attention_diversity,
    attention_maps,
    hog_glyphs,
    normalised_mutual_information,
    pixel_picture,
    save_pictures,
    tap_pictures,
)
from lmim.targets import pixel_vectors


def small(**changes):
    torch.manual_seed(0)
    settings = {"image": 32, "patch": 8, "dim": 8, "depth": 7, "heads": 2, "decoder_dim": 8, "decoder_heads": 2}
    return LocalMim(**(settings | changes)).double()


def test_information_by_hand():
    attention = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64)
    wanted = (math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert float(normalised_mutual_information(attention)) == pytest.approx(wanted)


def test_information_at_its_limits():
    same = torch.rand(5).softmax(0).expand(2, 5, 5)
    assert normalised_mutual_information(same).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert float(normalised_mutual_information(torch.eye(5))) == pytest.approx(1, abs=1e-6)


def test_attention_is_what_the_blocks_use():
    model, images = small(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    maps = attention_maps(model, images)
    assert [tuple(part.shape) for part in maps] == [(2, 2, 17, 17)] * 7
    torch.testing.assert_close(maps[3].sum(dim=3), torch.ones(2, 2, 17, dtype=torch.float64))
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), model.patch_embed(images) + model.pos_embed[:, 1:]], dim=1)
    block = model.blocks[0]
    value = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)[2]
    mixed = block.attn.proj((maps[0] @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, block.attn(block.norm1(tokens)))
    found = attention_diversity(model, images)
    assert found.shape == (7,)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert not model.blocks[0].attn._forward_pre_hooks


@pytest.mark.parametrize(("rows", "axis"), [(True, 0), (False, 1)])
def test_strokes_run_along_the_edge(rows, axis):
    """An edge of rows (bright above, dark below) is a horizontal stroke, one of columns a vertical one."""
    image = torch.zeros(1, 1, 16, 16)
    if rows:
        image[:, :, :8] = 1
    else:
        image[..., :8] = 1
    (cells,) = hog_targets(image, (16,), 18)
    picture = hog_glyphs(cells[0].view(1, 1, 18), 33)
    spread = [float((picture.sum(dim=1 - dim) > 0.5 * picture.sum(dim=1 - dim).max()).sum()) for dim in (0, 1)]
    assert spread[axis] < 8 < 20 < spread[1 - axis]


def test_diagonals_are_not_mirrored():
    """Bright above the diagonal from upper left to lower right: strokes run down to the right."""
    image = torch.ones(16, 16).triu()[None, None]
    (cells,) = hog_targets(image, (16,), 18)
    picture = hog_glyphs(cells[0].view(1, 1, 18), 32)
    assert float(picture.diagonal().sum()) > 3 * float(picture.flip(1).diagonal().sum())


def test_pixels_are_put_back():
    image = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(pixel_picture(pixel_vectors(image, 4)[0], 4), image[0])


@pytest.mark.parametrize("target", ["hog", "pixels", "normalised-pixels"])
def test_pictures_of_every_tap(tmp_path, target):
    model, image = small(target=target), torch.randn(3, 32, 32, dtype=torch.float64)
    noise = torch.arange(16) / 16  # the first row of patches is visible
    pictures = tap_pictures(model, image, 0.75, noise, size=8)
    assert len(pictures) == 4
    for picture, cell in zip(pictures, model.cells, strict=True):
        side = (32 // cell) * 8 if target == "hog" else 32
        assert picture.target.shape == picture.prediction.shape == (3, side, side)
        different = (picture.target - picture.prediction).abs().amax(dim=0)
        if cell <= 8:
            assert float(different[: side // 4].max()) < 1e-9
        assert float(different[side // 2 :].max()) > 1e-3
        if target != "hog":
            torch.testing.assert_close(picture.target, image)
    save_pictures(pictures, tmp_path / "deep" / "taps.png", height=40)
    assert np.asarray(Image.open(tmp_path / "deep" / "taps.png")).shape == (160, 80, 3)


def test_bad_input():
    with pytest.raises(ValueError, match="expected a target"):
        tap_pictures(SimpleNamespace(target="mine"), torch.zeros(3, 32, 32))
