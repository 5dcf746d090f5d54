"""A model as a folder: `config.json` with sizes and conventions, `model.safetensors` with the weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from nat_crf.autoregressive import Teacher
from nat_crf.config import NatConfig, TransformerConfig
from nat_crf.models import Nat
from sextet.files import write_atomic

FORMAT = 1
_KINDS: dict[str, tuple[type[Nat | Teacher], type[TransformerConfig]]] = {
    "nat": (Nat, NatConfig),
    "teacher": (Teacher, TransformerConfig),
}


def save_model(model: Nat | Teacher, folder: Path) -> None:
    """Write the model into `folder`; tied weights once. Each of the two files is complete or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.named_parameters()}
    settings = {
        "format": FORMAT,
        "kind": "nat" if isinstance(model, Nat) else "teacher",
        "config": dataclasses.asdict(model.config),
        "source_vocab": model.source_vocab,
        "target_vocab": model.target_vocab,
    }
    write_atomic(folder / "model.safetensors", safetensors.torch.save(tensors))
    write_atomic(folder / "config.json", json.dumps(settings, indent=1).encode())


def load_model(folder: Path) -> Nat | Teacher:
    """The model that `save_model` wrote, on the CPU, in evaluation mode.

    Raises:
        ValueError: a file is missing or damaged, or the weights are not those of the config.
    """
    settings = _settings(folder / "config.json")
    try:
        model_class, config_class = _KINDS[settings["kind"]]
        config = config_class(**settings["config"])
        model = model_class(config, settings["source_vocab"], settings["target_vocab"])  # pyright: ignore[reportArgumentType]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder / 'config.json'}: not the settings of a model ({error})") from error
    path = folder / "model.safetensors"
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: expected the weights of a model ({error})") from error
    wanted = dict(model.named_parameters())
    wrong = sorted(wanted.keys() ^ tensors.keys()) or [
        name for name, value in wanted.items() if tensors[name].shape != value.shape
    ]
    if wrong:
        raise ValueError(f"{path}: its weights are not those of config.json: {', '.join(wrong[:5])}")
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(tensors[name])
    return model.eval()


def load_nat(folder: Path) -> Nat:
    """A non-autoregressive model.

    Raises:
        ValueError: as `load_model`, or the folder holds a teacher.
    """
    model = load_model(folder)
    if not isinstance(model, Nat):
        raise ValueError(f"{folder}: expected a non-autoregressive model, found a teacher")
    return model


def load_teacher(folder: Path) -> Teacher:
    """An autoregressive model.

    Raises:
        ValueError: as `load_model`, or the folder holds a non-autoregressive model.
    """
    model = load_model(folder)
    if not isinstance(model, Teacher):
        raise ValueError(f"{folder}: expected a teacher, found a non-autoregressive model")
    return model


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected the settings of a model ({error})") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        found = settings.get("format") if isinstance(settings, dict) else type(settings).__name__
        raise ValueError(f"{path}: expected format {FORMAT}, found {found}")
    return settings
