"""The authors' released files: what they decode to, what their adapters compute, and the same bytes written again."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bi_adapter import PublishedConfig, bin_content, load_bin
from bi_adapter.registry import active_adapter, adapter_head, adapter_hosts, adapter_matrices
from bi_adapter_testing.golden_core import Arrays, close

NAMED = {"meta", "tensors", "adapter_input", "logits"}


def knows(path: Path) -> bool:
    """Whether `check` is the one for this file."""
    return re.fullmatch(r"released_[^/]*\.npz", path.name) is not None


def check(path: Path) -> None:
    """Fail unless the released file beside this description is read and written exactly."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    told = {key for key in arrays if key.startswith(("weight/", "adapter_out/")) or key in ("head.weight", "head.bias")}
    assert set(arrays) == NAMED | told, sorted(set(arrays) ^ (NAMED | told))
    meta, file = json.loads(str(arrays["meta"])), path.with_suffix(".bin")
    content = file.read_bytes()
    assert len(content) == meta["bytes"]
    assert hashlib.sha256(content).hexdigest() == meta["sha256"]
    model = made_up_backbone(meta["backbone_seed"], meta["num_class"], meta["n_backbone_params"])
    config = PublishedConfig(
        meta["method"], meta["dim"], meta["num_class"], meta["scale"], meta["bit"], meta.get("task", "")
    )
    load_bin(model, file, config)
    assert bin_content(model) == content
    check_weights(model, arrays)
    check_adapters(model, arrays, meta["scale"])
    images = np.random.RandomState(meta["backbone_seed"] + 999).uniform(0, 1, (2, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(images))
    np.testing.assert_allclose(logits.numpy(), arrays["logits"], rtol=0, atol=1e-4)


def made_up_backbone(seed: int, classes: int, count: int) -> VisionTransformer:
    """A ViT-B/16 with weights by the names' order, see README.md of the golden folder."""
    with torch.device("meta"):
        model = VisionTransformer(num_classes=classes)
    model = model.to_empty(device="cpu")
    names = sorted(name for name, _ in model.named_parameters() if not name.startswith("head."))
    assert len(names) == count
    parameters: dict[str, Any] = dict(model.named_parameters())
    for number, name in enumerate(names):
        values = np.random.RandomState(seed + number).standard_normal(tuple(parameters[name].shape))
        scaled = torch.from_numpy(values.astype(np.float32) * np.float32(0.02))
        parameters[name].data.copy_(scaled + 1 if "norm" in name and name.endswith("weight") else scaled)
    return model


def check_weights(model: nn.Module, arrays: Arrays) -> None:
    """Decoded weights, bit by bit."""
    told = json.loads(str(arrays["tensors"]))
    matrices = adapter_matrices(model)
    assert set(told) == {f"{name}.weight" for name in matrices}
    for name, matrix in matrices.items():
        weight = matrix.effective_weight().detach().numpy()
        facts = told[f"{name}.weight"]
        assert list(weight.shape) == facts["shape"], name
        assert hashlib.sha256(np.ascontiguousarray(weight, "<f4").tobytes()).hexdigest() == facts["sha256"], name
        low, high = float(weight.min()), float(weight.max())
        assert (low, high) == (facts["low"], facts["high"]), name
        assert float((weight == weight.max()).mean()) == facts["frac_high"], name
        if f"weight/{name}" in arrays:
            assert np.array_equal(weight, arrays[f"weight/{name}"]), name
    stored = {key.removeprefix("weight/") for key in arrays if key.startswith("weight/")}
    assert stored <= set(matrices), sorted(stored - set(matrices))
    head = adapter_head(model)
    if "head" not in matrices:
        assert isinstance(head, nn.Linear)
        assert np.array_equal(head.weight.detach().numpy(), arrays["head.weight"])
        assert np.array_equal(head.bias.detach().numpy(), arrays["head.bias"])


def check_adapters(model: nn.Module, arrays: Arrays, scale: float) -> None:
    """What single adapters compute, before the factor s."""
    name = active_adapter(model)
    bottlenecks = {
        host.prefix + part: bottleneck
        for host in adapter_hosts(model, name)
        for part, bottleneck in host.bottlenecks(name).items()
    }
    x = torch.from_numpy(arrays["adapter_input"])
    outputs = {key.removeprefix("adapter_out/"): value for key, value in arrays.items() if key.startswith("adapter_o")}
    assert outputs
    assert set(outputs) <= set(bottlenecks)
    for key, wanted in outputs.items():
        with torch.no_grad():
            close(bottlenecks[key].eval()(x) / scale, wanted, 1e-5, key)
