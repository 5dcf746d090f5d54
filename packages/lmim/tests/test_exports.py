"""Our models in other libraries: equal features with the real timm, torchvision and transformers."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import nn

from lmim import LocalMim, SwinClassifier, SwinLocalMim, VitClassifier
from lmim.config import MimConfig
from lmim.conversion import encoder_state
from lmim.exports import export, save_safetensors
from lmim.masking import mask_from_noise

VIT = MimConfig(image=32, patch=8, dim=12, depths=(7,), heads=(2,), decoder_dims=(8,), decoder_heads=2)
SWIN = MimConfig(
    backbone="swin", image=56, patch=1, dim=4, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), scales=(1.0,) * 4,
    decoder_dims=(8,), decoder_heads=2, target="pixels",
)  # fmt: skip
LIBRARIES = ("timm", "torchvision", "transformers")


def shaken(model: nn.Module) -> nn.Module:
    """In float64 with weights that leave nothing at its start, biases and norms included."""
    generator = torch.Generator().manual_seed(3)
    model = model.double().eval()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return model


def images(size):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def last_tap(model, x):
    """The normalised tokens of a pre-trained model's last tap, nothing hidden."""
    if isinstance(model, LocalMim):
        tokens = model.patch_embed(x) + model.pos_embed[:, 1:]
        noise = torch.arange(tokens.shape[1], dtype=torch.float64).expand(len(x), -1) / tokens.shape[1]
        return model.encode(tokens, mask_from_noise(noise, 0.0))[-1]
    return model.encoder(x, torch.zeros(49, dtype=torch.bool))[-1]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_pre_trained_vit(library):
    model, x = shaken(LocalMim.of(VIT)), images(32)
    other = export(model, library).double()
    found = {
        "timm": lambda: other.forward_features(x),
        "torchvision": lambda: other.encoder(
            torch.cat([other.class_token.expand(2, -1, -1), other._process_input(x)], dim=1)
        ),
        "transformers": lambda: other(x).last_hidden_state,
    }[library]()
    close(found, last_tap(model, x))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_fine_tuned_vit_by_class_token(library):
    model, x = shaken(VitClassifier(5, 32, 8, 12, 3, 2, global_pool=False)), images(32)
    other = export(model, library).double()
    if library == "transformers":
        close(other(x).last_hidden_state[:, 0], model.features(x))
    else:
        close(other(x), model(x))


def test_a_fine_tuned_vit_that_pools():
    model, x = shaken(VitClassifier(5, 32, 8, 12, 3, 2)), images(32)
    other = export(model, "timm").double()
    close(other(x), model(x))
    close(other.forward_head(other.forward_features(x), pre_logits=True), model.features(x))
    other = export(model, "transformers").double()
    tokens = other(x, output_hidden_states=True).hidden_states[-1]
    close(other.layernorm(tokens[:, 1:].mean(dim=1)), model.features(x))
    with pytest.raises(ValueError, match="cannot pool"):
        export(model, "torchvision")


@pytest.mark.parametrize("geometry", ["correct", "published"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_pre_trained_swin(library, geometry):
    """Published weights come out with standard merges, so a model of correct geometry with those is the reference."""
    model, x = shaken(SwinLocalMim.of(replace(SWIN, geometry=geometry))), images(56)
    correct = SwinLocalMim.of(SWIN).double()
    correct.load_state_dict(model.state_dict())
    correct.encoder.load_state_dict(encoder_state(model), strict=False)
    other = export(model, library).double()
    found = {
        "timm": lambda: other.forward_features(x).flatten(1, 2),
        "torchvision": lambda: other.norm(other.features(x)).flatten(1, 2),
        "transformers": lambda: other(x).last_hidden_state,
    }[library]()
    close(found, last_tap(correct, x))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_fine_tuned_swin(library):
    model, x = shaken(SwinClassifier(3, 1, 4, (2, 2, 2, 2), (1, 2, 2, 4))), images(56)
    other = export(model, library).double()
    if library == "transformers":
        close(other.layernorm(other(x, output_hidden_states=True).hidden_states[-1].mean(1)), model.features(x))
    else:
        close(other(x), model(x))


def test_windows_larger_than_the_grid_go_to_timm_alone():
    model, x = shaken(SwinClassifier(3, 1, 4, (2, 2, 2, 2), (1, 2, 2, 4), 14)), images(56)
    assert model.windows == (14, 14, 14, 7)
    close(export(model, "timm").double()(x), model(x))
    for library in ("torchvision", "transformers"):
        with pytest.raises(ValueError, match=r"14, 14, 14, 7.*Export to timm"):
            export(model, library)


def test_exports_are_files_of_safetensors(tmp_path):
    model = shaken(VitClassifier(5, 32, 8, 12, 3, 2))
    save_safetensors(export(model, "timm"), tmp_path / "model.safetensors")
    other = export(shaken(VitClassifier(5, 32, 8, 12, 3, 2)), "timm")
    with torch.no_grad():
        other.head.weight.zero_()
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    close(other(images(32)), model(images(32)))


def test_an_export_shares_no_weights():
    model = VitClassifier(5, 32, 8, 12, 3, 2)
    before = copy.deepcopy(model.state_dict())
    for library in ("timm", "transformers"):
        other = export(model, library)
        with torch.no_grad():
            for value in other.parameters():
                value += 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_input():
    with pytest.raises(ValueError, match="expected timm, torchvision or transformers, got 'keras'"):
        export(VitClassifier(5, 32, 8, 12, 3, 2), "keras")
    with pytest.raises(ValueError, match="3 channels"):
        export(LocalMim.of(replace(VIT, channels=1)), "torchvision")
