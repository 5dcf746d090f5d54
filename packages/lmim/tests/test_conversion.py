"""Checkpoints with the released names into our models, and pre-trained encoders into classifiers."""

from __future__ import annotations

import argparse
import pickle
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from lmim import LocalMim, SwinClassifier, SwinLocalMim, VitClassifier
from lmim.classifiers import make_classifier
from lmim.config import PAPER_RUNS, VIT_LARGE, MimConfig
from lmim.conversion import (
    GeometryError,
    config_of,
    encoder_state,
    load_released,
    make_pretrained,
    standard_merges,
    start_classifier,
)
from sextet.checkpoint import CheckpointError

VIT = MimConfig(image=32, patch=8, dim=128, depths=(7,), heads=(2,), taps=(1, 3, 4, 6), decoder_dims=(8,))
SWIN = MimConfig(
    backbone="swin", image=224, patch=4, dim=4, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), scales=(1.0,) * 4,
    decoder_dims=(8, 16, 16, 16), decoder_heads=4, bins=18, hog_bias=True, geometry="published",
)  # fmt: skip


def released(model, path):
    """A file as the authors wrote them: all state of a run, the biases of HOG under their names, an argparse result."""
    state = dict(model.state_dict())
    biases = state.pop("hog_biases", None)
    for tap in range(4):
        state[f"hog_enc.{tap}.conv.weight"] = torch.zeros(2, 1, 3, 3)
        if biases is not None:
            state[f"hog_enc.{tap}.conv.bias"] = biases[tap]
    if isinstance(model, SwinLocalMim):
        state["encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    args = argparse.Namespace(model="MIM_vit_base_patch16", hog_nbins=9, mask_ratio=0.75, output_dir=None)
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 1599, "scaler": {}, "args": args}, path)
    return path


def images(size, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", [VIT, replace(VIT, hog_bias=True, bins=18), SWIN], ids=["vit", "vit-bias", "swin"])
def test_a_released_file_gives_the_same_losses(config, tmp_path):
    model = make_pretrained(config)
    path = released(model, tmp_path / "checkpoint.pth")
    other = load_released(path)
    x, draw = images(config.image), torch.rand(2, 16) if config.backbone == "vit" else torch.randperm(49)
    torch.testing.assert_close(other(x, 0.75, draw).losses, model(x, 0.75, draw).losses, rtol=0, atol=0)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())


def test_our_own_files_are_read_too(tmp_path):
    model = make_pretrained(replace(SWIN, geometry="correct"))
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = load_released(tmp_path / "model.safetensors", geometry="correct")
    assert isinstance(other, SwinLocalMim)
    assert other.encoder.geometry == "correct"
    x, draw = images(224), torch.randperm(49)
    assert torch.equal(other(x, 0.75, draw).losses, model(x, 0.75, draw).losses)


@pytest.mark.parametrize("name", sorted(PAPER_RUNS))
def test_the_papers_models_are_told_by_their_shapes(name):
    wanted = PAPER_RUNS[name].model
    with torch.device("meta"):
        state = make_pretrained(wanted).state_dict()
    found = config_of(state, geometry="correct")
    taps = (1, 3, wanted.depth - 3, wanted.depth - 1) if wanted.backbone == "vit" else ()
    assert found == replace(wanted, taps=taps, bins=wanted.bins if wanted.target == "hog" else 9)


def test_another_geometry_is_named(tmp_path):
    path = released(make_pretrained(VIT), tmp_path / "checkpoint.pth")
    with pytest.raises(
        GeometryError, match=r"checkpoint.pth.*dim 128 there, 64 here; depths \(7,\) there, \(8,\) here"
    ):
        load_released(path, LocalMim.of(replace(VIT, dim=64, depths=(8,), heads=(1,), taps=())))
    with pytest.raises(GeometryError, match="backbone vit there, swin here"):
        load_released(path, SwinLocalMim.of(SWIN))
    swin = released(make_pretrained(SWIN), tmp_path / "swin.pth")
    with pytest.raises(GeometryError, match="window 7 there, 14 here"):
        load_released(swin, SwinLocalMim.of(replace(SWIN, window=14)))
    with pytest.raises(GeometryError, match="target hog there, normalised-pixels here"):
        load_released(swin, SwinLocalMim.of(replace(SWIN, target="pixels", hog_bias=False)))


class Trap:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a foreign file was executed",))


def test_foreign_files_are_never_executed(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": {}, "args": Trap()}, path)
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        load_released(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        load_released(path)


def test_broken_and_other_files(tmp_path):
    path = released(make_pretrained(VIT), tmp_path / "checkpoint.pth")
    (tmp_path / "short.pth").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"short\.pth"):
        load_released(tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="gone"):
        load_released(tmp_path / "gone.pth")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}}, path)
    with pytest.raises(GeometryError, match="expected the weights of a LocalMIM ViT"):
        load_released(path)
    state = make_pretrained(VIT).state_dict()
    del state["blocks.2.mlp.fc1.bias"]
    torch.save(state, path)
    with pytest.raises(GeometryError, match=r"missing \['blocks.2.mlp.fc1.bias'\]"):
        load_released(path)


def test_reordering_merges_is_an_involution():
    state = make_pretrained(SWIN).state_dict()
    once = standard_merges(state)
    name = "encoder.layers.0.downsample.reduction.weight"
    assert torch.equal(once[name].unflatten(1, (4, -1)), state[name].unflatten(1, (4, -1))[:, [0, 2, 1, 3]])
    assert all(torch.equal(value, state[key]) for key, value in standard_merges(once).items())


def test_published_merges_of_visible_units_are_the_classifiers():
    """With one stage of misplaced tokens only (the 7 x 7 grid of units), the rest of the geometry agrees."""
    model = SwinLocalMim.of(replace(SWIN, image=32))  # one unit: its strips and its square are the same cells
    classifier = make_classifier(replace(SWIN, image=32), 3)
    start_classifier(classifier, encoder_state(model))
    for block in classifier.modules():
        if isinstance(block, torch.nn.LayerNorm):
            block.eps = 1e-6
    x, everything = images(32), torch.zeros(1, dtype=torch.bool)
    unit = torch.zeros(1, dtype=torch.int64)
    (_, tokens), (_, published) = (next(iter(each.stages(x, unit, (1, 1)))) for each in (classifier, model.encoder))
    torch.testing.assert_close(tokens, published, rtol=1e-5, atol=1e-6)
    assert len(model.encoder(x, everything)) == 4


@pytest.mark.parametrize("config", [VIT, replace(SWIN, geometry="correct")], ids=["vit", "swin"])
def test_a_classifier_starts_from_the_encoder(config):
    model, classifier = make_pretrained(config), make_classifier(config, 5, drop_path=0.1)
    head = classifier.head.weight.clone()
    start_classifier(classifier, encoder_state(model))
    assert torch.equal(classifier.head.weight, head)
    prefix = "encoder." if config.backbone == "swin" else ""
    for name, value in encoder_state(model).items():
        assert torch.equal(classifier.state_dict()[name], model.state_dict()[prefix + name])
        assert torch.equal(classifier.state_dict()[name], value)
    assert classifier(images(config.image)).shape == (2, 5)


def test_drop_path_rises_with_the_block():
    vit = make_classifier(replace(VIT_LARGE, dim=64, image=32, heads=(1,)), 3, drop_path=0.2)
    assert isinstance(vit, VitClassifier)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    assert rates == pytest.approx([0.2 * number / 23 for number in range(24)])
    swin = make_classifier(replace(SWIN, image=32), 3, drop_path=0.3)
    assert isinstance(swin, SwinClassifier)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for layer in swin.layers for block in layer.blocks]
    assert rates == pytest.approx([0.3 * number / 7 for number in range(8)])
    x = images(32, 4).expand(4, -1, -1, -1)
    torch.testing.assert_close(swin.eval()(x), swin(x))
    assert not torch.equal(swin.train().features(x), swin.eval().features(x))


def test_encoders_of_other_models_are_refused():
    with pytest.raises(GeometryError, match=r"blocks\.0\.attn"):
        start_classifier(make_classifier(replace(VIT, dim=64, heads=(1,)), 5), encoder_state(make_pretrained(VIT)))
    with pytest.raises(CheckpointError, match="differing"):
        start_classifier(make_classifier(VIT, 5), encoder_state(make_pretrained(SWIN)))
    with pytest.raises(TypeError, match="expected a model of this package"):
        encoder_state(torch.nn.Linear(2, 2))
