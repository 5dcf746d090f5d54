"""The command line."""

import json
import sys

import pytest
import timm

from bi_adapter import BiAdapterConfig, attach, cli, save_pretrained


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `bi-adapter` with some arguments."""
    monkeypatch.setattr(sys, "argv", ["bi-adapter", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0  # pyright: ignore[reportReturnType]


def test_show_tells_what_a_folder_holds(monkeypatch, capsys, tmp_path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    attach(model, BiAdapterConfig(dim=4, scale=10.0), num_classes=3)
    save_pretrained(model, tmp_path, class_names=["a", "b", "c"])
    assert run(monkeypatch, "show", "--folder", str(tmp_path)) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["config"]["dim"], told["config"]["scale"], told["class_names"]) == (4, 10.0, ["a", "b", "c"])
    assert told["bytes"] == sum(file.stat().st_size for file in tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_a_folder_that_is_no_adapter_is_bad_input(monkeypatch, capsys, tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "adapter_config.json").write_bytes(content)
    assert run(monkeypatch, "show", "--folder", str(tmp_path)) == 2
    assert "bi-adapter:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("laptop", ("--method", "nonsense")),
        ("paper", ("--bits", "3")),
        ("paper", ("--dim", "0")),
        ("paper", ("--noise", "-1")),
    ],
)
def test_bad_settings_are_bad_input_before_anything_starts(monkeypatch, tmp_path, command, option) -> None:
    assert run(monkeypatch, command, "--folder", str(tmp_path), *option) == 2
    assert not list(tmp_path.iterdir())
