"""The command line."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import torch
from lmim_testing.official_files import write_imagenet

from lmim import cli
from lmim.config import MimConfig
from lmim.conversion import load_released, make_pretrained
from lmim.imagenet import IMAGENET, decode_imagenet
from sextet.data import adopt

VIT = MimConfig(image=32, patch=8, dim=64, depths=(7,), heads=(2,), decoder_dims=(8,), decoder_heads=8)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `lmim` with some arguments."""
    monkeypatch.setattr(sys, "argv", ["lmim", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("library", ["lmim", "timm", "torchvision", "transformers"])
def test_a_checkpoint_is_converted(monkeypatch, capsys, tmp_path, library) -> None:
    model = make_pretrained(VIT)
    torch.save({"model": model.state_dict()}, tmp_path / "checkpoint.pth")
    words = ("--checkpoint", str(tmp_path / "checkpoint.pth"), "--out", str(tmp_path / "out.safetensors"))
    assert run(monkeypatch, "convert", *words, "--to", library, "--heads", "2") == 0
    assert library in capsys.readouterr().out
    state = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert any(torch.equal(value, model.cls_token) for value in state.values())
    if library == "lmim":
        again = load_released(tmp_path / "out.safetensors", heads=2)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_shards_can_be_adopted_in_the_place_of_folders(monkeypatch, capsys, tmp_path) -> None:
    toy = replace(IMAGENET, decode=partial(decode_imagenet, n_classes=3), counts={})
    adopt(toy, write_imagenet(tmp_path / "raw", per_class=3, val=3), tmp_path / "data")
    monkeypatch.setenv("SEXTET_DATA", str(tmp_path / "data"))
    for split in ("train", "val"):
        assert run(monkeypatch, "shards", "--folder", str(tmp_path / "shards"), "--split", split) == 0
    assert "1 shards of val" in capsys.readouterr().out
    adopt(toy, tmp_path / "shards", tmp_path / "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("convert", "--checkpoint", "{}/gone.pth", "--out", "{}/x"), "gone.pth"),
        (("paper", "--folder", "{}/run", "--run", "vit-tiny"), "run: expected one of"),
        (("segmentation", "--folder", "{}/run", "--crop", "100"), "multiple of 32"),
        (("paper", "--folder", "{}/run", "--arm", "fusion", "--run", "swin-large"), "of ViTs only"),
    ],
)
def test_bad_input_is_explained_before_anything_starts(monkeypatch, capsys, tmp_path, words, message) -> None:
    assert run(monkeypatch, *(word.format(tmp_path) for word in words)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["paper", "segmentation"])
def test_missing_data_is_explained(monkeypatch, capsys, tmp_path, command) -> None:
    monkeypatch.setenv("SEXTET_DATA", str(tmp_path / "nothing"))
    assert run(monkeypatch, command, "--folder", str(tmp_path / "run")) == 3
    assert "ILSVRC2012_img_train.tar" in capsys.readouterr().err


def test_every_command_has_its_help(monkeypatch, capsys) -> None:
    for command in ("laptop", "paper", "segmentation", "convert", "shards"):
        assert run(monkeypatch, command, "--help") == 0
        assert "--folder" in capsys.readouterr().out or command == "convert"
