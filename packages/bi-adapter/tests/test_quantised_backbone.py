"""Adapters on a backbone whose own weights are quantised, where torchao or bitsandbytes is installed."""

from __future__ import annotations

from importlib import import_module

import pytest
import timm
import torch
from torch import nn

from bi_adapter import (
    AdapterFileError,
    BiAdapterConfig,
    adapter_matrices,
    attach,
    export_bin,
    from_pretrained,
    load_bin,
    merge,
    read_config,
    save_pretrained,
)
from bi_adapter.fingerprint import backbone_fingerprint

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
METHODS = ("adaptformer", "lora")
# What the libraries warn of themselves: kernels they would rather have, casts they do
pytestmark = pytest.mark.filterwarnings("ignore")


def plain() -> nn.Module:
    """A tiny ViT."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, depth=2).eval()


def torchao_int8(model: nn.Module) -> nn.Module:
    """Weights of 8 bits by torchao; all linear layers, the classifier too."""
    quantization = import_module("torchao.quantization")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def bitsandbytes_layers(model: nn.Module, make: str) -> nn.Module:
    """The linear layers of all blocks in the place of plain ones."""
    bnb = import_module("bitsandbytes")
    for block in model.blocks:  # pyright: ignore[reportGeneralTypeIssues]
        for parent, name in ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2")):
            old = getattr(parent, name)
            weight = old.weight.detach().clone()
            if make == "nf4":
                new = bnb.nn.Linear4bit(old.in_features, old.out_features, quant_type="nf4")
                new.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
            else:
                new = bnb.nn.Linear8bitLt(old.in_features, old.out_features, has_fp16_weights=False)
                new.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            new.bias = old.bias
            setattr(parent, name, new)
    return model.to("cpu").eval()  # the move quantises


QUANTISED = {
    "torchao int8": ("torchao.quantization", torchao_int8, 0.05),
    "bitsandbytes int8": ("bitsandbytes", lambda model: bitsandbytes_layers(model, "int8"), 0.05),
    "bitsandbytes NF4": ("bitsandbytes", lambda model: bitsandbytes_layers(model, "nf4"), 0.3),
}


@pytest.fixture(params=QUANTISED)
def kind(request):
    """(function that quantises a backbone, how far logits may be off)."""
    module, quantise, tolerance = QUANTISED[request.param]
    pytest.importorskip(module)
    return quantise, tolerance


def trained(model: nn.Module, method: str) -> nn.Module:
    """A model with an adapter after some steps."""
    attach(model, BiAdapterConfig(method=method, dim=4, scale=3.0, dropout=0.0), num_classes=3)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.02)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model.train()(IMAGES), torch.tensor([0, 1, 2, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    return model.eval()


@pytest.mark.parametrize("method", METHODS)
def test_training_reaches_adapter_and_classifier_alone(kind, method):
    model = trained(kind[0](plain()), method)
    learnt = [name for name, value in model.named_parameters() if value.grad is not None]
    assert len(learnt) >= 4
    assert all("adapter" in name or "head" in name for name in learnt)


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_of_the_float_backbone_serves_on_the_quantised_one(kind, method, tmp_path):
    quantise, tolerance = kind
    model = trained(plain(), method)
    save_pretrained(model, tmp_path)
    served = from_pretrained(quantise(plain()), tmp_path, verify_backbone=False)
    with torch.no_grad():
        torch.testing.assert_close(served(IMAGES), model(IMAGES), rtol=0, atol=tolerance * float(model(IMAGES).std()))


@pytest.mark.parametrize("method", METHODS)
def test_it_is_saved_and_loaded(kind, method, tmp_path):
    quantise, tolerance = kind
    model = trained(quantise(plain()), method)
    export_bin(model, tmp_path / "a.bin")
    loaded = [load_bin(quantise(plain()), tmp_path / "a.bin", read_config(tmp_path / "a.yaml"))]
    save_pretrained(model, tmp_path / "folder")
    loaded.append(from_pretrained(quantise(plain()), tmp_path / "folder"))
    with pytest.raises(AdapterFileError, match="belongs to"):
        from_pretrained(plain(), tmp_path / "folder")
    for other in loaded:
        for name, matrix in adapter_matrices(other).items():
            torch.testing.assert_close(matrix.effective_weight(), adapter_matrices(model)[name].effective_weight())
        with torch.no_grad():
            # The library's own rounding differs between a first and a later pass
            torch.testing.assert_close(other(IMAGES), model(IMAGES), rtol=0, atol=tolerance)


class Halves(torch.Tensor):
    """A stand-in for a library's quantised tensor: two plain tensors behind one, of which nothing else can be asked."""

    @staticmethod
    def __new__(cls, low, scale):
        return torch.Tensor._make_wrapper_subclass(cls, low.shape, dtype=torch.float32)

    def __init__(self, low, scale):
        self.low, self.scale = low, scale

    def __tensor_flatten__(self):
        return ["low", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].low, args[0].scale)
        raise NotImplementedError(f"{function} on a quantised tensor")


def test_the_fingerprint_reads_what_a_quantised_tensor_stores():
    def backbone(low, scale):
        model = plain()
        model.blocks[0].mlp.fc1.weight = nn.Parameter(Halves(low, scale), requires_grad=False)
        return backbone_fingerprint(model)

    low, scale = torch.arange(768 * 192, dtype=torch.int8).view(768, 192), torch.ones(768)
    assert backbone(low, scale) == backbone(low.clone(), scale.clone())
    assert len({backbone(low, scale), backbone(low + 1, scale), backbone(low, 2 * scale)}) == 3


def test_merging_into_quantised_weights_is_refused(kind):
    model = trained(kind[0](plain()), "lora")
    before = model(IMAGES).detach()
    with pytest.raises(ValueError, match="no plain floating-point weight"):
        merge(model)
    assert torch.equal(model(IMAGES).detach(), before)
