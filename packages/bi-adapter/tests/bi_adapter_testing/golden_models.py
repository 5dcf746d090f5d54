"""Golden vectors of adapted blocks and small transformers: outputs, gradients, files, training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from bi_adapter import BiAdapterConfig, PublishedConfig, attach, bin_content, load_bin
from bi_adapter.registry import adapter_matrices
from bi_adapter_testing.golden_core import Arrays, cases, close, same_floats

ADAPTER = re.compile(r"(?:.*\.)?(?:adapter_mlp|lora_[qv])\.adapter_(?:down|up)\.weight")


def knows(path: Path) -> bool:
    """Whether `check` is the one for this file."""
    return re.fullmatch(r"(modules|model_|trajectory_)[^/]*\.npz", path.name) is not None


def check(path: Path) -> None:
    """Fail unless everything in the file is what this package computes."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if path.name.startswith("modules"):
        for name, case in cases(arrays).items():
            check_module(name, case)
    elif path.name.startswith("model_"):
        check_model(arrays, path)
    else:
        check_trajectory(arrays)


def adapted(meta: dict[str, Any], state: Arrays) -> VisionTransformer:
    """A small ViT with an adapter, its weights those of `state` under the published names (some may be missing)."""
    dtype = torch.from_numpy(next(iter(state.values()))).dtype
    model = VisionTransformer(
        img_size=meta["img"], patch_size=meta["patch"], embed_dim=meta["D"], depth=meta["depth"],
        num_heads=meta["heads"], num_classes=meta["nc"],
    ).to(dtype)  # fmt: skip
    own = {name: torch.from_numpy(value) for name, value in state.items() if not ADAPTER.fullmatch(name)}
    method, _, bihead = meta["method"].partition("-")
    head_bits = 1 if bihead else 32
    head = {key: own.pop(key) for key in ("head.weight", "head.bias") if key in own}
    backbone = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    assert set(own) <= set(backbone), sorted(set(own) - set(backbone))
    model.load_state_dict(own, strict=False)
    config = BiAdapterConfig(
        method=method, bits=meta["bit"], dim=meta["dim"], scale=float(meta["s"]), dropout=0.0, head_bits=head_bits,
        codebook="as-published",
    )  # fmt: skip
    attach(model, config)
    latents = adapter_matrices(model)
    with torch.no_grad():
        for name, value in state.items():
            if ADAPTER.fullmatch(name):
                latents[name.removesuffix(".weight")].weight.copy_(torch.from_numpy(value))
        current = model.head.current
        for key, value in head.items():
            getattr(current, key.removeprefix("head.")).copy_(value)
    return model.eval()


def latent(model: nn.Module, name: str) -> nn.Parameter:
    """A latent weight or the classifier's weight or bias, by its published name."""
    if name in ("head.weight", "head.bias"):
        return getattr(model.head.current, name.removeprefix("head."))
    return adapter_matrices(model)[name.removesuffix(".weight")].weight


def check_module(name: str, case: Arrays) -> None:
    """One block with an AdaptFormer, or one attention with LoRA: output and gradients in float64."""
    meta = json.loads(str(case["meta"]))
    assert meta["module"] in ("block", "attn"), meta
    prefix = "blocks.0." if meta["module"] == "block" else "blocks.0.attn."
    state = {prefix + key.removeprefix("param/"): value for key, value in case.items() if key.startswith("param/")}
    grads = {key.removeprefix("grad/"): value for key, value in case.items() if key.startswith("grad/")}
    named = {"meta", "x", "grad_y", "y", "grad_x"} | {key for key in case if key.startswith(("param/", "grad/"))}
    assert set(case) == named, f"{name}: {sorted(set(case) ^ named)}"
    assert set(grads) == {key.removeprefix(prefix) for key in state if ADAPTER.fullmatch(key)}
    model = adapted(meta, state)
    block = model.blocks[0] if meta["module"] == "block" else model.blocks[0].attn
    x = torch.from_numpy(case["x"]).requires_grad_()
    y = block(x)
    y.backward(torch.from_numpy(case["grad_y"]))
    tolerance = 5e-8 if 3 <= meta["bit"] <= 8 else 1e-12
    assert x.grad is not None
    close(y, case["y"], tolerance, f"{name}/y")
    close(x.grad, case["grad_x"], tolerance, f"{name}/grad_x")
    for key, wanted in grads.items():
        found = latent(model, prefix + key).grad
        assert found is not None
        close(found, wanted, tolerance, f"{name}/grad/{key}")


def check_model(arrays: Arrays, path: Path) -> None:
    """A whole small ViT, trained form and loaded form, and its file byte for byte."""
    state = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    named = {"meta", "order", "image", "logits_fakequant", "bin_file", "logits_loaded", "bin_file_resaved_by_reference"}
    assert set(arrays) == named | {key for key in arrays if key.startswith("param/")}
    meta, order = json.loads(str(arrays["meta"])), json.loads(str(arrays["order"]))
    model = adapted(meta, state)
    assert set(state) <= {*model_names(model), *(f"{name}.weight" for name in order), "head.weight", "head.bias"}
    image = torch.from_numpy(arrays["image"])
    logits_close(model(image), arrays["logits_fakequant"])
    assert list(adapter_matrices(model)) == order
    wanted, found = arrays["bin_file"].tobytes(), bin_content(model)
    assert len(found) == len(wanted)
    position = 0
    for matrix in adapter_matrices(model).values():
        size = matrix.stored().packed.numel()
        assert found[position : position + size] == wanted[position : position + size]
        position += size
        same_floats(*(np.frombuffer(text[position : position + 8], "<f4") for text in (found, wanted)), path.name)
        position += 8
    same_floats(*(np.frombuffer(text[position:], "<f4") for text in (found, wanted)), path.name)
    check_loaded(meta, state, image, arrays)


def check_loaded(meta: dict[str, Any], state: Arrays, image: Tensor, arrays: Arrays) -> None:
    """The file on a fresh backbone: the reference's logits, and the same bytes when saved again."""
    import tempfile

    fresh = adapted(meta, {name: value for name, value in state.items() if not ADAPTER.fullmatch(name)})
    config = PublishedConfig(meta["method"], meta["dim"], meta["nc"], float(meta["s"]), meta["bit"], "golden")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.bin"
        file.write_bytes(arrays["bin_file"].tobytes())
        for dequantised in (True, False):
            load_bin(fresh, file, config, name=f"loaded-{dequantised}", dequantised=dequantised)
            logits_close(fresh.eval()(image), arrays["logits_loaded"])
            assert bin_content(fresh) == arrays["bin_file"].tobytes()
    # The reference computes the statistics anew from quantised weights, which shrinks them; ours keeps them
    assert arrays["bin_file_resaved_by_reference"].dtype == np.uint8
    assert arrays["bin_file_resaved_by_reference"].shape == arrays["bin_file"].shape


def model_names(model: nn.Module) -> set[str]:
    """The backbone's own names."""
    from bi_adapter.installation import base_tensors

    return set(base_tensors(model))


def logits_close(found: Tensor, wanted: np.ndarray) -> None:
    assert str(found.dtype) == f"torch.{wanted.dtype}"
    assert list(found.shape) == list(wanted.shape)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-5)


def check_trajectory(arrays: Arrays) -> None:
    """Some steps of AdamW on one batch, in float64."""
    parts = {part: _part(arrays, part) for part in ("init", "grad0", "final")}
    assert set(arrays) == {"image", "label", "meta", "loss"} | {
        f"{part}/{name}" for part, values in parts.items() for name in values
    }
    meta = json.loads(str(arrays["meta"]))
    model = adapted(meta, parts["init"])
    tuned = {name: latent(model, name) for name in parts["final"]}
    assert set(tuned) == {name for name in parts["init"] if ADAPTER.fullmatch(name) or name.startswith("head.")}
    assert set(parts["grad0"]) == set(tuned)
    image, label = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["label"])
    optimizer = torch.optim.AdamW(tuned.values(), lr=meta["lr"], weight_decay=meta["weight_decay"])
    losses = []
    for step in range(meta["steps"]):
        loss = F.cross_entropy(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, wanted in parts["grad0"].items():
                grad = tuned[name].grad
                assert grad is not None
                close(grad, wanted, _tolerance(meta, 1e-12), f"grad0/{name}")
        optimizer.step()
        losses.append(loss.detach())
    close(torch.stack(losses), arrays["loss"], _tolerance(meta, 1e-12), "loss")
    for name, wanted in parts["final"].items():
        close(tuned[name], wanted, _tolerance(meta, 1e-11), f"final/{name}")


def _tolerance(meta: dict[str, Any], exact: float) -> float:
    """The reference adds up float32 half-steps from 3 bits on."""
    return max(exact, 1e-6) if 3 <= meta["bit"] <= 8 else exact


def _part(arrays: Arrays, part: str) -> Arrays:
    return {name.removeprefix(f"{part}/"): value for name, value in arrays.items() if name.startswith(f"{part}/")}
