"""Adapters on a backbone: attaching, switching, counting (§2.3-2.5, §11.5)."""

from __future__ import annotations

import pytest
import torch
from bi_adapter_testing.small import adapted, images, vit
from timm import create_model

from bi_adapter import (
    BiAdapterConfig,
    UnsupportedBackbone,
    active_adapter,
    adapter_head,
    adapter_infos,
    adapter_matrices,
    add_adapter,
    attach,
    delete_adapter,
    disable_adapter,
    enable_adapter,
    post_training_quantise,
    set_adapter,
    storage_bytes,
    trainable_parameters,
)

METHODS = ("adaptformer", "lora")


def body(model):
    """Features before the classifier."""
    return model.forward_head(model.forward_features(images()), pre_logits=True)


@pytest.mark.parametrize("method", METHODS)
def test_plain_floats_start_as_the_backbone(method):
    model = attach(vit(), BiAdapterConfig(method=method, bits=32, dim=4)).eval()
    torch.testing.assert_close(body(model), body(vit()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 32])
def test_a_scale_of_zero_leaves_the_backbone(method, bits):
    model = adapted(BiAdapterConfig(method=method, bits=bits, dim=4, scale=0.0))
    torch.testing.assert_close(body(model), body(vit()))
    assert not torch.allclose(body(adapted(BiAdapterConfig(method=method, bits=bits, dim=4))), body(vit()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head_bits", [1, 32])
def test_only_adapter_and_classifier_learn(method, head_bits):
    model = attach(vit(), BiAdapterConfig(method=method, dim=4, head_bits=head_bits), num_classes=3)
    parameters = trainable_parameters(model)
    assert {id(value) for value in model.parameters() if value.requires_grad} == {id(value) for value in parameters}
    model.train()(images()).square().sum().backward()
    assert all((value.grad is not None) == value.requires_grad for value in model.parameters())
    matrices = 2 if method == "adaptformer" else 4
    assert sum(value.numel() for value in parameters) == 2 * matrices * 4 * 24 + 3 * 24 + (3 if head_bits == 32 else 0)


@pytest.mark.parametrize(
    ("method", "bits", "dim", "head_bits", "wanted"),
    [("adaptformer", 1, 32, 32, 12 * 2 * (32 * 96 + 8) + 4 * 769 * 10), ("lora", 1, 1, 1, 12 * 4 * (96 + 8) + 968)],
)
def test_published_sizes(method, bits, dim, head_bits, wanted):
    """8 + bits/8 a weight for every matrix of a ViT-B/16, plus the classifier (§3)."""
    with torch.device("meta"):
        backbone = create_model("vit_base_patch16_224", num_classes=10)
    model = attach(backbone.to_empty(device="cpu"), BiAdapterConfig(method, bits, dim, head_bits=head_bits))
    assert storage_bytes(model) == wanted
    assert storage_bytes(model, by="file") < wanted + 2048
    with pytest.raises(ValueError, match="payload"):
        storage_bytes(model, by="disk")  # pyright: ignore[reportArgumentType]


def test_only_the_chosen_one_of_many_adapters_learns():
    model = attach(vit(), BiAdapterConfig(dim=4), num_classes=3, name="a")
    for name, method in (("b", "lora"), ("c", "adaptformer")):
        add_adapter(model, name, BiAdapterConfig(method=method, dim=4), num_classes=2)

    def learns() -> bool:
        wanted = {id(value) for value in trainable_parameters(model)}
        return {id(value) for value in model.parameters() if value.requires_grad} == wanted

    for name in ("c", "b", "b", "a"):
        set_adapter(model, name)
        assert active_adapter(model) == name
        assert learns()
    delete_adapter(model, "a")
    set_adapter(model, "b")
    disable_adapter(model)
    enable_adapter(model)
    assert learns()


def test_several_adapters_of_both_kinds():
    model = attach(vit(), BiAdapterConfig(dim=4, scale=5.0), num_classes=3, name="one")
    add_adapter(model, "two", BiAdapterConfig(method="lora", dim=2, scale=5.0), class_names=["cat", "dog"])
    assert active_adapter(model) == "one"
    assert set(adapter_infos(model)) == {"one", "two"}
    first = model(images())
    set_adapter(model, "two")
    second = model(images())
    assert (first.shape, second.shape) == ((4, 3), (4, 2))
    disable_adapter(model)
    torch.testing.assert_close(model(images()), vit()(images()))
    enable_adapter(model)
    torch.testing.assert_close(model(images()), second)
    delete_adapter(model, "two")
    with pytest.raises(ValueError, match="no adapter is chosen"):
        active_adapter(model)
    set_adapter(model, "one")
    torch.testing.assert_close(model(images()), first)
    delete_adapter(model, "one")
    assert model.state_dict().keys() == vit().state_dict().keys()
    torch.testing.assert_close(model(images()), vit()(images()))


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "deit3_small_patch16_224", "vit_small_patch14_reg4_dinov2.lvd142m"]
)
@pytest.mark.parametrize("method", METHODS)
def test_other_backbones_of_timm(name, method):
    size = {"img_size": 28} if "dinov2" in name else {} if "swin" in name else {"img_size": 32}
    if "swin" in name:
        size = {"img_size": 56, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2), "window_size": 7}
    torch.manual_seed(0)
    model = create_model(name, num_classes=4, **size).eval()
    shape = (2, 3, size["img_size"], size["img_size"])
    before = model(torch.ones(shape))
    attach(model, BiAdapterConfig(method=method, bits=32, dim=3), num_classes=4)
    disable_adapter(model)
    torch.testing.assert_close(model(torch.ones(shape)), before)
    enable_adapter(model)
    with torch.no_grad():
        for matrix in adapter_matrices(model).values():
            matrix.weight.normal_()
    model(torch.ones(shape)).sum().backward()
    assert all(value.grad is not None for value in trainable_parameters(model))


def test_the_vit_of_transformers():
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    config = transformers.ViTConfig(**settings, image_size=16, patch_size=8, num_labels=5)
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    before = model(images()).logits
    for method in METHODS:
        attach(model, BiAdapterConfig(method=method, dim=4), num_classes=3, name=method)
        assert model(images()).logits.shape == (4, 3)
    disable_adapter(model)
    torch.testing.assert_close(model(images()).logits, before)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_quantising_afterwards(bits):
    config = BiAdapterConfig(bits=32, dim=4)
    model = post_training_quantise(adapted(config), bits)
    for matrix in adapter_matrices(model).values():
        assert len(matrix.weight.unique()) <= 2**bits
    if bits == 8:
        torch.testing.assert_close(model(images()), adapted(config)(images()), rtol=0.05, atol=0.05)
    with pytest.raises(ValueError, match="expected an adapter of 16 or 32 bits"):
        post_training_quantise(adapted(BiAdapterConfig(dim=4)), 1)


def test_the_classifier_has_the_right_number_of_classes():
    assert adapter_head(attach(vit(), BiAdapterConfig(dim=2))).out_features == 5
    model = attach(vit(classes=0), BiAdapterConfig(dim=2))
    assert adapter_head(model) is None
    assert model(images()).shape == (4, 24)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"num_classes": 0}, "at least 1"),
        ({"num_classes": 3, "class_names": ["a"]}, "expected 3 names"),
        ({"name": "a.b"}, "letters, digits"),
        ({"name": "keys"}, "letters, digits"),
    ],
)
def test_bad_arguments_leave_the_model_alone(kwargs, said):
    model = vit()
    with pytest.raises(ValueError, match=said):
        attach(model, BiAdapterConfig(dim=2), **kwargs)
    assert model.state_dict().keys() == vit().state_dict().keys()


def test_names_are_unique_and_known():
    model = attach(vit(), BiAdapterConfig(dim=2))
    with pytest.raises(ValueError, match="already"):
        attach(model, BiAdapterConfig(dim=2))
    with pytest.raises(ValueError, match="no adapter 'x'"):
        set_adapter(model, "x")
    with pytest.raises(ValueError, match="no adapters"):
        trainable_parameters(vit())


def test_unknown_backbones_say_so():
    with pytest.raises(UnsupportedBackbone, match="ViTLayer"):
        attach(torch.nn.Sequential(torch.nn.Linear(3, 3)), BiAdapterConfig())
    with pytest.raises(UnsupportedBackbone, match="SwinTransformerBlock"):
        attach(create_model("resnet18"), BiAdapterConfig())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bits": 3}, "bits: expected one of"),
        ({"bits": True}, "bits"),
        ({"method": "prefix"}, "method"),
        ({"dim": 0}, "dim"),
        ({"scale": float("nan")}, "scale"),
        ({"dropout": 1.0}, "dropout"),
        ({"quantiser": "nf4", "bits": 1}, "4 bits only"),
        ({"codebook": "mine"}, "codebook"),
        ({"drop_path": -0.1}, "drop_path"),
    ],
)
def test_bad_settings(values, said):
    with pytest.raises(ValueError, match=said):
        BiAdapterConfig(**values)


def test_stochastic_depth_rises_with_depth():
    model = attach(vit(depth=3), BiAdapterConfig(dim=2, drop_path=0.2))
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    torch.testing.assert_close(
        body(model.eval()), body(attach(vit(depth=3), BiAdapterConfig(dim=2)).eval()), rtol=1, atol=1
    )
