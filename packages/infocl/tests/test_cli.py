"""The command line."""

from __future__ import annotations

import json
import sys

import pytest
from safetensors.torch import save_file

from infocl import cli
from infocl.checkpoints import load_encoder_file
from infocl.export import torchvision_state
from infocl.networks import Encoder
from sextet.data import load_legacy_pickle


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `infocl` with some arguments."""
    monkeypatch.setattr(sys, "argv", ["infocl", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0  # pyright: ignore[reportReturnType]


def test_an_encoder_for_others(monkeypatch, capsys, tmp_path) -> None:
    save_file(torchvision_state(Encoder("resnet18", "stl10")), tmp_path / "encoder.safetensors")
    words = ("export", "--encoder", str(tmp_path / "encoder.safetensors"), "--stem", "stl10")
    assert run(monkeypatch, *words, "--to", "detectron2", "--out", str(tmp_path / "encoder.pkl")) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "resnet18"
    assert "stem.conv1.weight" in load_legacy_pickle(tmp_path / "encoder.pkl")["model"]
    assert run(monkeypatch, *words, "--to", "timm", "--out", str(tmp_path / "timm"), "--dataset", "STL-10") == 0
    assert load_encoder_file(tmp_path / "timm/model.safetensors", "stl10").dim == 512


def test_an_encoder_that_is_none(monkeypatch, capsys, tmp_path) -> None:
    (tmp_path / "encoder.safetensors").write_bytes(b"nothing")
    words = ("--encoder", str(tmp_path / "encoder.safetensors"), "--out", str(tmp_path / "out"))
    assert run(monkeypatch, "export", *words, "--to", "timm", "--stem", "cifar") == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "option"), [
    ("laptop", ("--method", "nonsense")),
    ("paper", ("--data", "SVHN")),
    ("paper", ("--protocol", "best")),
    ("paper", ("--evaluate-on", "voc")),
])  # fmt: skip
def test_bad_settings_are_bad_input_before_anything_starts(monkeypatch, tmp_path, command, option) -> None:
    assert run(monkeypatch, command, "--folder", str(tmp_path), *option) == 2
    assert not list(tmp_path.iterdir())


def test_data_that_is_not_here(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("SEXTET_DATA", str(tmp_path / "data"))
    words = ("--folder", str(tmp_path / "run"), "--data", "ImageNet", "--processes", "1", "--device", "cpu")
    assert run(monkeypatch, "paper", *words) == 3
    assert "the folder that holds train and val" in capsys.readouterr().err
