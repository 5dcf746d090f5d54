from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bi_adapter.backbone import Architecture, TimmHub, backbone_passport, load_frozen, make_backbone
from sextet.data import DataError, DataMissing, SourceUnavailable, adopt, load

TINY = Architecture(image_size=16, patch_size=8, dim=12, depth=2, heads=2)


@pytest.fixture
def model():
    model = make_backbone(TINY)
    for value in model.parameters():
        torch.nn.init.normal_(value)
    return model.eval()


def google_npz(model, **more):
    """A state dict under the names and in the shapes of Google's file."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    heads, width = TINY.heads, TINY.dim
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "pre_logits/kernel": np.ones((width, width), np.float32),
        "pre_logits/bias": np.zeros(width, np.float32),
        "head/kernel": np.zeros((width, 21843), np.float32),
        "head/bias": np.zeros(21843, np.float32),
    }
    for i in range(TINY.depth):
        block = f"Transformer/encoderblock_{i}/"
        attention = f"{block}MultiHeadDotProductAttention_1/"
        weights = state[f"blocks.{i}.attn.qkv.weight"].reshape(3, width, width)
        biases = state[f"blocks.{i}.attn.qkv.bias"].reshape(3, width)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}{name}/kernel"] = weight.T.reshape(width, heads, -1)
            arrays[f"{attention}{name}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = state[f"blocks.{i}.attn.proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = state[f"blocks.{i}.attn.proj.bias"]
        for number in (1, 2):
            arrays[f"{block}MlpBlock_3/Dense_{number - 1}/kernel"] = state[f"blocks.{i}.mlp.fc{number}.weight"].T
            arrays[f"{block}MlpBlock_3/Dense_{number - 1}/bias"] = state[f"blocks.{i}.mlp.fc{number}.bias"]
            arrays[f"{block}LayerNorm_{2 * number - 2}/scale"] = state[f"blocks.{i}.norm{number}.weight"]
            arrays[f"{block}LayerNorm_{2 * number - 2}/bias"] = state[f"blocks.{i}.norm{number}.bias"]
    return arrays | more


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pth"])
def test_every_file_of_the_same_weights_gives_the_same_model(model, suffix, tmp_path):
    path = tmp_path / "raw" / f"ViT-B_16.{suffix}"
    path.parent.mkdir()
    if suffix == "npz":
        np.savez(path, **google_npz(model))
    elif suffix == "pth":
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    passport = backbone_passport(TINY)
    adopt(passport, tmp_path / "raw", tmp_path / "root")
    loaded = load_frozen(TINY, 0.0, tmp_path / "root").eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.allclose(loaded(images), model(images), atol=1e-5)
    state = model.state_dict()
    flat = np.concatenate([state[name].numpy().ravel() for name in sorted(state)])
    assert np.array_equal(load(passport, tmp_path / "root")["weights"], flat)


def test_the_standard_backbone_is_vit_b16():
    with torch.device("meta"):
        model = make_backbone(Architecture())
    assert sum(value.numel() for value in model.parameters()) == 85_798_656
    assert backbone_passport().counts == {"weights": 85_798_656}
    assert model.norm.eps == 1e-6


def test_drop_path_rises_linearly():
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in make_backbone(TINY, 0.1).blocks]
    assert rates == pytest.approx([0.0, 0.1])


def test_other_weights_of_the_same_shape_are_refused(model, tmp_path):
    arrays = google_npz(model)
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw/a.npz", **{name: value for name, value in arrays.items() if "pre_logits" not in name})
    with pytest.raises(DataError, match=r"AugReg.*wanted: the original"):
        adopt(backbone_passport(TINY), tmp_path / "raw", tmp_path / "root")
    state = model.state_dict() | {"head.weight": torch.ones(5, 12), "head.bias": torch.zeros(5)}
    safetensors.torch.save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"they have a head"):
        adopt(backbone_passport(TINY), tmp_path / "b.safetensors", tmp_path / "root")
    state["head.weight"] = torch.zeros(5, 12)
    safetensors.torch.save_file(state, tmp_path / "raw/b.safetensors")
    adopt(backbone_passport(TINY), tmp_path / "raw", tmp_path / "root")  # beside the wrong one


def test_damaged_and_foreign_files(model, tmp_path):
    passport = backbone_passport(TINY)
    for name, content, message in (
        ("a.safetensors", model.state_dict() | {"norm.weight": torch.ones(13)}, "has shape"),
        ("b.safetensors", model.state_dict() | {"norm.weight": torch.full((12,), torch.nan)}, "not finite"),
        ("c.safetensors", {"a": torch.ones(3)}, "no weights of a vision transformer"),
    ):
        safetensors.torch.save_file(content, tmp_path / name)
        with pytest.raises(DataError, match=message):
            passport.decode(tmp_path)
        (tmp_path / name).unlink()
    arrays = google_npz(model)
    for name, change, message in (
        ("a.npz", {"x": np.ones(2)}, "holds no weights"),
        ("b.npz", {**arrays, "embedding/kernel": np.ones(3, np.float32)}, "does not fit"),
        ("c.npz", {name: value for name, value in arrays.items() if "Dense_1" not in name}, "does not fit"),
    ):
        np.savez(tmp_path / name, **change)
        with pytest.raises(DataError, match=message):
            passport.decode(tmp_path)
        (tmp_path / name).unlink()
    with pytest.raises(DataMissing, match="no weights"):
        passport.decode(tmp_path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100), st.sampled_from(["npz", "safetensors", "pth"]))
def test_any_bytes_raise_nothing_but_data_errors(tmp_path, body, suffix):
    (tmp_path / f"f.{suffix}").write_bytes(body)
    try:
        with pytest.raises(DataError):
            backbone_passport(TINY).decode(tmp_path)
    finally:
        (tmp_path / f"f.{suffix}").unlink()


def test_timms_hub(model, monkeypatch, tmp_path):
    asked = {}

    def create_model(name, **options):
        asked.update(name=name, **options)
        return model

    monkeypatch.setattr(timm, "create_model", create_model)
    TimmHub().fetch(tmp_path)
    assert asked == {"name": "vit_base_patch16_224.orig_in21k", "pretrained": True, "num_classes": 0}
    assert len(backbone_passport(TINY).decode(tmp_path)["weights"]) == sum(v.numel() for v in model.parameters())

    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(SourceUnavailable, match="no network"):
        TimmHub().fetch(tmp_path)
    with pytest.raises(DataMissing, match=r"ViT-B_16\.npz.*Beware"):
        load_frozen(Architecture(), 0.0, tmp_path / "root")
