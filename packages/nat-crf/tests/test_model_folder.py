"""Models as folders."""

import json
from pathlib import Path

import pytest
import torch
from nat_crf_testing.tiny import tiny_config

from nat_crf.autoregressive import Teacher
from nat_crf.model_folder import load_model, load_nat, load_teacher, save_model
from nat_crf.models import Nat


@pytest.mark.parametrize(("name", "crf"), [("paper", "dynamic"), ("fairseq", "static"), ("laptop", "none")])
def test_nat_survives(name: str, crf: str, tmp_path: Path) -> None:
    model = Nat(tiny_config(name, crf=crf), 13)
    save_model(model, tmp_path)
    found = load_nat(tmp_path)
    assert found.config == model.config
    assert not found.training
    expected = model.state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.state_dict().items())
    with pytest.raises(ValueError, match="expected a teacher"):
        load_teacher(tmp_path)


def test_teacher_survives(tmp_path: Path) -> None:
    model = Teacher(tiny_config("laptop").teacher(), 13, 11)
    save_model(model, tmp_path)
    found = load_teacher(tmp_path)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.state_dict().items())
    with pytest.raises(ValueError, match="found a teacher"):
        load_nat(tmp_path)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the settings of a model"):
        load_model(tmp_path)
    save_model(Nat(tiny_config("laptop"), 13), tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for changes, message in (
        ({"format": 2}, "expected format 1, found 2"),
        ({"kind": "seq2seq"}, "not the settings of a model"),
        ({"config": {"dim": "many"}}, "not the settings of a model"),
        ({"config": {"dimension": 3}}, "not the settings of a model"),
        ({"source_vocab": 12}, "its weights are not those of config.json"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(settings | changes))
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="found list"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 50)
    with pytest.raises(ValueError, match="expected the weights of a model"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="expected the weights of a model"):
        load_model(tmp_path)
