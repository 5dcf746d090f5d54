"""Properties of the pre-training models (section 13 of the specification)."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from lmim import LocalMim, SparseSwin, SwinClassifier, SwinLocalMim, VitClassifier
from lmim.masking import mask_from_noise
from lmim.vit import default_taps


def small(**changes):
    torch.manual_seed(0)
    settings = {"image": 64, "patch": 16, "dim": 16, "depth": 7, "heads": 2, "decoder_dim": 16, "decoder_heads": 2}
    return LocalMim(**(settings | changes)).double()


def images(count=2, size=64):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def noise(count=2, tokens=16):
    return torch.rand(count, tokens, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize(("dim", "depth", "heads", "bins", "count"), [
    (384, 12, 6, 9, 25_463_276), (768, 12, 12, 9, 89_916_140), (1024, 24, 16, 18, 307_651_480)
])  # fmt: skip
def test_published_parameter_counts(dim, depth, heads, bins, count):
    with torch.device("meta"):
        model = LocalMim(dim=dim, depth=depth, heads=heads, bins=bins)
    assert sum(value.numel() for value in model.parameters()) == count
    assert model.taps == ((1, 3, 21, 23) if depth == 24 else (1, 3, 9, 11))
    assert model.cells == (4, 8, 16, 32)


@pytest.mark.parametrize(("dim", "heads", "window", "target", "count"), [
    (128, (4, 8, 16, 32), 7, "hog", 87_761_872), (128, (4, 8, 16, 32), 7, "pixels", 88_641_592),
    (192, (6, 12, 24, 48), 14, "hog", 196_450_028),
])  # fmt: skip
def test_published_parameter_counts_of_swin(dim, heads, window, target, count):
    with torch.device("meta"):
        model = SwinLocalMim(SparseSwin(dim=dim, heads=heads, window=window), target=target)
    assert sum(value.numel() for value in model.parameters()) == count


@pytest.mark.parametrize("target", ["hog", "pixels", "normalised-pixels"])
def test_shapes_and_hidden_pixels(target):
    """No prediction depends on a hidden pixel, and no loss on a visible cell's prediction."""
    model, x = small(target=target), images().requires_grad_()
    found = model(x, 0.75, noise())
    assert [part.shape[1] for part in found.predictions] == [256, 64, 16, 4]
    assert [part.shape for part in found.predictions] == [part.shape for part in found.targets]
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in found.predictions), x)
    hidden = found.mask.view(2, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3).bool()
    assert float(gradient.abs().masked_fill(~hidden, 0).max()) == 0
    assert float(gradient.abs().max()) > 0
    torch.testing.assert_close(found.loss, found.losses.sum())


def test_a_loss_reaches_the_blocks_below_its_tap_alone():
    model, grads = small(), []
    for tap in range(4):
        model.zero_grad()
        model(images(), 0.75, noise()).losses[tap].backward()
        reached = [number for number, block in enumerate(model.blocks) if block.attn.qkv.weight.grad is not None]
        used = [number for number in reached if float(model.blocks[number].attn.qkv.weight.grad.abs().max()) > 0]
        assert used == list(range(model.taps[tap] + 1))
        others = [d for number, d in enumerate(model.decoder) if number != tap]
        assert all(value.grad is None or not value.grad.any() for decoder in others for value in decoder.parameters())
        grads.append(model.blocks[0].attn.qkv.weight.grad.clone())
    model.zero_grad()
    model(images(), 0.75, noise()).loss.backward()
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight.grad, sum(grads))


def test_isolated_stages_learn_from_their_own_loss_alone():
    model = small(isolate_stages=True)
    for tap, wanted in enumerate([[0, 1], [2, 3], [4], [5, 6]]):
        model.zero_grad()
        model.losses(images(), 0.75, noise())[tap].backward()
        grads = [block.attn.qkv.weight.grad for block in model.blocks]
        assert [number for number, grad in enumerate(grads) if grad is not None and grad.any()] == wanted
    torch.testing.assert_close(model.losses(images(), 0.75, noise()), small().losses(images(), 0.75, noise()))


def test_fusion_is_a_learned_mean_of_the_taps():
    model = small(fusion=True, scales=(1,))
    found = model(images(), 0.75, noise())
    assert len(found.latents) == len(found.losses) == 1
    separate = small(scales=(1, 1, 1, 1))
    separate.load_state_dict(
        {name: value for name, value in model.state_dict().items() if name != "fusion"}, strict=False
    )
    latents = separate(images(), 0.75, noise()).latents
    torch.testing.assert_close(found.latents[0], sum(latents) / 4)
    found.loss.backward()
    assert float(model.fusion.grad.abs().min()) > 0


def test_other_noise_of_the_same_image_hides_other_tokens():
    model = small()
    masks = [model(images()).mask for _ in range(2)]
    assert not masks[0].equal(masks[1])
    assert masks[0].sum(dim=1).tolist() == masks[1].sum(dim=1).tolist() == [12, 12]


@pytest.mark.parametrize(("image", "patch", "grid"), [(32, 8, 4), (96, 16, 6), (48, 8, 6), (56, 14, 4)])
def test_any_size_that_divides(image, patch, grid):
    scales = (2, 2, 1, 0.5) if patch == 14 else (4, 2, 1, 0.5)
    model = small(image=image, patch=patch, scales=scales)
    found = model(images(1, image))
    sides = [round(grid * scale) for scale in scales]
    assert [part.shape[1] for part in found.predictions] == [side**2 for side in sides]
    assert model.cells == tuple(image // side for side in sides)


def test_nothing_hidden_is_the_plain_vit_of_timm():
    model = small()
    plain = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=16, depth=7, num_heads=2, num_classes=0, global_pool=""
    ).double().eval()  # fmt: skip
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.norm.load_state_dict(model.norm[3].state_dict())
    everything = mask_from_noise(torch.arange(16.0, dtype=torch.float64).expand(2, 16) / 16, 0.0)
    tokens = model.patch_embed(images()) + model.pos_embed[:, 1:]
    torch.testing.assert_close(model.encode(tokens, everything)[3], plain(images()), rtol=1e-9, atol=1e-9)


def test_the_fine_tuning_vit_is_timms():
    torch.manual_seed(0)
    model = VitClassifier(5, 48, 16, 12, 3, 2).double()
    plain = VisionTransformer(
        img_size=48, patch_size=16, embed_dim=12, depth=3, num_heads=2, num_classes=5, global_pool="avg"
    ).double().eval()  # fmt: skip
    plain.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-9, atol=1e-12)
    assert model(torch.randn(1, 3, 96, 96, dtype=torch.float64)).shape == (1, 5)


def to_timm(name):
    """Merging belongs to the next stage there."""
    parts = name.split(".")
    if len(parts) > 2 and parts[2] == "downsample":
        parts[1] = str(int(parts[1]) + 1)
    return ".".join(parts)


def test_dense_swin_is_timms():
    torch.manual_seed(0)
    settings = {"depths": (2, 2, 2, 2), "window_size": 7, "patch_size": 1, "img_size": 56, "embed_dim": 4}
    model = SwinClassifier(3, 1, 4, (2, 2, 2, 2), (1, 2, 2, 4), 7).double()
    plain = SwinTransformer(num_heads=(1, 2, 2, 4), num_classes=0, global_pool="", **settings).double().eval()
    for module in plain.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    for name, module in plain.named_modules():
        if name.endswith("norm2"):
            module.eps = 1e-5
    own = {to_timm(name): value for name, value in model.state_dict().items() if not name.startswith(("head", "norm."))}
    missing, unknown = plain.load_state_dict(own, strict=False)
    assert not unknown
    assert all(name.startswith("norm.") or "relative_position_index" in name or "attn_mask" in name for name in missing)
    plain.norm = torch.nn.Identity()
    x = torch.randn(2, 3, 56, 56, dtype=torch.float64)
    visible = torch.zeros(49, dtype=torch.bool)
    found = SparseSwin.forward(model, x, visible)[-1]
    torch.testing.assert_close(found, plain.forward_features(x).flatten(1, 2), rtol=1e-9, atol=1e-9)


def test_swin_sees_no_hidden_pixel():
    torch.manual_seed(0)
    model = SwinLocalMim(
        SparseSwin(1, 4, (2, 2, 2, 2), (1, 2, 2, 4)), decoder_dims=(4, 4, 4, 4), decoder_heads=1, target="pixels"
    ).double()
    x = images(2, 56).requires_grad_()
    found = model(x, 0.75, torch.randperm(49))
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in found.predictions), x)
    hidden = found.mask.view(7, 7).repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert float(gradient[:, :, hidden].abs().max()) == 0
    assert float(gradient[:, :, ~hidden].abs().min()) > 0
    assert [part.shape[1] for part in found.latents] == [12 * 16, 12 * 4, 12, 12]


def test_training_reduces_the_loss():
    model = small(decoder_dim=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model(images(), 0.75, noise()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_biases_of_hog_are_drawn_and_kept():
    model = small(hog_bias=True)
    assert model.hog_biases.shape == (4, 2)
    assert float(model.hog_biases.abs().max()) <= 1 / 3
    assert "hog_biases" in model.state_dict()
    assert model(images(), 0.75, noise()).loss.isfinite()


@pytest.mark.parametrize("call", [
    lambda: default_taps(6),
    lambda: small(image=60),
    lambda: small(taps=(1, 1, 2, 3)),
    lambda: small(taps=(1, 2, 3, 9)),
    lambda: small(scales=(4, 2, 1, 3)),
    lambda: small(scales=(32, 2, 1, 0.5)),
    lambda: small(image=48),
    lambda: small(taps=()),
    lambda: small(taps=(-1, 1, 2, 3)),
    lambda: small()(images(1, 32)),
    lambda: small()(images(), 1.0),
    lambda: small()(images(), -0.1),
    lambda: small(heads=3),
    lambda: SparseSwin(geometry="flat"),
    lambda: SparseSwin(1, 4, (1, 1, 1, 1), (1, 1, 1, 1))(images(1, 28), torch.zeros(49, dtype=torch.bool)),
    lambda: SparseSwin(1, 4, (1, 1, 1, 1), (1, 1, 1, 1))(images(1, 56), torch.ones(49, dtype=torch.bool)),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"expected|need 7"):
        call()
