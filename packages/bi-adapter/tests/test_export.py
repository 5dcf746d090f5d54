"""Adapters in compiled, exported and half-precision models."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from bi_adapter import BiAdapterConfig, attach, freeze_adapter, merge_and_unload

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def tuned(method: str, *, frozen: bool = True) -> nn.Module:
    """A tiny ViT with an adapter that changes its output."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, depth=2)
    attach(model, BiAdapterConfig(method=method, dim=4, scale=10.0, dropout=0.0), num_classes=5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "adapter_up" in name:
                value.normal_(std=0.05)
    return (freeze_adapter(model) if frozen else model).eval()


@pytest.mark.parametrize("method", ["adaptformer", "lora"])
def test_export_keeps_the_outputs(method: str) -> None:
    model = tuned(method)
    program = torch.export.export(model, (IMAGES,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(IMAGES), model(IMAGES))


def test_export_of_a_merged_model() -> None:
    unmerged = tuned("lora")
    merged = merge_and_unload(copy.deepcopy(unmerged))
    program = torch.export.export(merged, (IMAGES,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(IMAGES), unmerged(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["adaptformer", "lora"])
def test_onnx_runtime_gives_the_outputs(method: str, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, file = tuned(method), tmp_path / "model.onnx"
    torch.onnx.export(model, (IMAGES,), file, dynamo=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(IMAGES).numpy(), rtol=1e-3, atol=1e-4)


# Dynamo warns as it looks through gradients
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", ["adaptformer", "lora"])
def test_compiled_steps_have_the_gradients_of_eager(method: str, training: bool) -> None:
    model = tuned(method, frozen=False).train(training)
    gradients = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        nn.functional.cross_entropy(run(IMAGES), torch.tensor([0, 3])).backward()
        gradients.append([value.grad.clone() for value in model.parameters() if value.grad is not None])
    assert len(gradients[0]) > 4
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["adaptformer", "lora"])
def test_autocast_trains_float_latents_near_the_full_precision_gradients(method: str) -> None:
    model = tuned(method, frozen=False)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nn.functional.cross_entropy(model(IMAGES).float(), torch.tensor([0, 3]))
        loss.backward()
        gradients.append(
            torch.cat([value.grad.flatten() for name, value in model.named_parameters() if "adapter_up" in name])
        )
    assert gradients[1].dtype == torch.float32
    assert nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99
