"""timm's ViTs pre-trained in place."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from lmim.probes import tap_features
from lmim.wrapping import wrap


def plain(**changes):
    torch.manual_seed(0)
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 7, "num_heads": 2, "num_classes": 3}
    return VisionTransformer(**(settings | changes)).double()


SMALL = {"decoder_dim": 8, "decoder_heads": 2}


@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 3}, {"reg_tokens": 2, "no_embed_class": True}])
def test_nothing_hidden_is_the_wrapped_vit(changes):
    vit = plain(**changes)
    model = wrap(vit, **SMALL).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tokens = vit.eval().forward_intermediates(images, indices=[6], norm=False, intermediates_only=True)[0]
    wanted = model.norm[3](tokens.flatten(2).mT)
    torch.testing.assert_close(tap_features(model, images)[3], wanted.mean(dim=1).detach(), rtol=1e-9, atol=1e-6)


def test_training_reaches_the_wrapped_vit():
    vit = plain(reg_tokens=2)
    model = wrap(vit, **SMALL).double()
    before = {name: value.clone() for name, value in vit.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.losses(torch.randn(2, 3, 32, 32, dtype=torch.float64)).sum().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, value in vit.named_parameters() if not value.equal(before[name])}
    assert moved == {"patch_embed", "cls_token", "reg_token", "blocks"}


def test_weights_are_kept_on_request():
    vit = plain()
    weight = vit.blocks[0].mlp.fc1.weight.clone()
    wrap(vit, initialise=False, **SMALL)
    assert vit.blocks[0].mlp.fc1.weight.equal(weight)
    wrap(vit, **SMALL)
    assert not vit.blocks[0].mlp.fc1.weight.equal(weight)


@pytest.mark.parametrize("changes", [
    {"class_token": False, "global_pool": "avg"}, {"pre_norm": True}, {"dynamic_img_size": True}, {"pos_embed": "none"},
    {"img_size": (32, 16)}, {"depth": 6},
])  # fmt: skip
def test_bad_input(changes):
    with pytest.raises(ValueError, match=r"expected a class token|need 7"):
        wrap(plain(**changes), **SMALL)
