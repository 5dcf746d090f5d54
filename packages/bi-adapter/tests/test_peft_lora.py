"""LoRA checkpoints against the real peft."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from bi_adapter_testing.small import adapted, images, vit

from bi_adapter import AdapterFileError, BiAdapterConfig, export_peft, import_peft, trainable_parameters

peft = pytest.importorskip("peft")


def peft_model(tmp_path, **settings):
    """A LoRA on a small ViT made by peft itself, with random weights, saved."""
    kwargs = {"r": 4, "lora_alpha": 10, "target_modules": ["qkv"], "modules_to_save": ["head"], "lora_dropout": 0.0}
    model = peft.get_peft_model(vit(), peft.LoraConfig(**(kwargs | settings)))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                value.normal_(std=0.3)
            if "lora_B" in name and "qkv" in name:
                value[24:48] = 0
    model.save_pretrained(str(tmp_path))
    return model.eval()


@pytest.mark.parametrize("bits", [1, 4, 32])
@pytest.mark.parametrize("head_bits", [1, 32])
def test_peft_reads_what_we_write(bits, head_bits, tmp_path):
    ours = adapted(BiAdapterConfig("lora", bits, 3, scale=2.5, head_bits=head_bits), num_classes=5)
    export_peft(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(vit(), str(tmp_path)).eval()
    torch.testing.assert_close(theirs(images()), ours(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"modules_to_save": None}])
def test_we_read_what_peft_writes(settings, tmp_path):
    theirs = peft_model(tmp_path, **settings)
    ours = import_peft(vit(), tmp_path).eval()
    torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-4, atol=1e-5)
    assert trainable_parameters(ours)


def test_there_and_back(tmp_path):
    ours = adapted(BiAdapterConfig("lora", 1, 3, scale=2.5))
    export_peft(ours, tmp_path)
    again = import_peft(vit(), tmp_path).eval()
    torch.testing.assert_close(again(images()), ours(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target_modules": ["qkv", "proj"]}, "only LoRA on query and value"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
    ],
)
def test_what_we_cannot_represent(settings, said, tmp_path):
    peft_model(tmp_path, **settings)
    model = vit()
    with pytest.raises(AdapterFileError, match=said):
        import_peft(model, tmp_path)
    assert model.state_dict().keys() == vit().state_dict().keys()


def test_a_changed_key_projection_and_damage(tmp_path):
    peft_model(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    key = "base_model.model.blocks.0.attn.qkv.lora_B.weight"
    for change, said in (
        ({key: tensors[key] + 1}, "key projection"),
        ({key: tensors[key][:5]}, "expected"),
        ({"base_model.model.head.weight": tensors["base_model.model.head.weight"][:, :3]}, "24 features"),
        ({"other": tensors[key].clone()}, "model of peft"),
    ):
        safetensors.torch.save_file({**tensors, **{name: value.contiguous() for name, value in change.items()}}, path)
        with pytest.raises(AdapterFileError, match=said):
            import_peft(vit(), tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AdapterFileError, match="not a safetensors file"):
        import_peft(vit(), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": -1, "lora_alpha": 1}))
    with pytest.raises(AdapterFileError, match="r: expected"):
        import_peft(vit(), tmp_path)


def test_an_adaptformer_is_not_for_peft(tmp_path):
    with pytest.raises(ValueError, match="peft knows LoRA"):
        export_peft(adapted(BiAdapterConfig(dim=2)), tmp_path)
