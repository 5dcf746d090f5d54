"""LoRA merged into the backbone (§11.7)."""

from __future__ import annotations

import pytest
import torch
from bi_adapter_testing.small import adapted, images, vit

from bi_adapter import BiAdapterConfig, attach, merge, merge_and_unload, save_pretrained, unmerge


def test_merged_computes_the_same_and_unmerging_restores_every_bit(tmp_path):
    model = adapted(BiAdapterConfig("lora", 1, 4, scale=3.0))
    wanted, weight = model(images()), model.blocks[0].attn.qkv.base.weight.clone()
    merge(model)
    assert not torch.equal(model.blocks[0].attn.qkv.base.weight, weight)
    torch.testing.assert_close(model(images()), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="unmerge"):
        save_pretrained(model, tmp_path)
    with pytest.raises(ValueError, match="unmerge"):
        merge(model)
    unmerge(model)
    assert torch.equal(model.blocks[0].attn.qkv.base.weight, weight)
    assert torch.equal(model(images()), wanted)


@pytest.mark.parametrize("head_bits", [1, 32])
def test_unloading_leaves_a_plain_model(head_bits):
    model = adapted(BiAdapterConfig("lora", 2, 4, scale=3.0, head_bits=head_bits), num_classes=3)
    wanted = model(images())
    plain = merge_and_unload(model)
    assert {type(module) for module in plain.modules()} <= {type(module) for module in vit().modules()}
    torch.testing.assert_close(plain(images()), wanted, rtol=1e-4, atol=1e-5)


def test_an_adaptformer_cannot_be_merged():
    with pytest.raises(ValueError, match="ReLU"):
        merge(attach(vit(), BiAdapterConfig(dim=2)))


def test_a_quantised_base_cannot_be_merged_and_stays_as_it_was():
    model = adapted(BiAdapterConfig("lora", 1, 4))
    wanted, hosts = model(images()), model.blocks
    last = hosts[1].attn.qkv
    held = last.base
    last.base = torch.nn.Identity()
    before = hosts[0].attn.qkv.base.weight.clone()
    with pytest.raises(ValueError, match="floating-point weight"):
        merge(model)
    last.base = held
    assert torch.equal(hosts[0].attn.qkv.base.weight, before)
    assert torch.equal(model(images()), wanted)
