"""Adapters as files: ours, and the published format; damage of every kind (§3, §11.6)."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace

import pytest
import torch
from bi_adapter_testing.small import adapted, images, vit
from torch import nn

from bi_adapter import (
    AdapterFileError,
    BiAdapterConfig,
    PublishedConfig,
    UnsupportedBackbone,
    active_adapter,
    adapter_infos,
    adapter_matrices,
    add_adapter,
    bin_content,
    export_bin,
    freeze_adapter,
    from_pretrained,
    load_bin,
    read_config,
    save_pretrained,
    trainable_parameters,
)
from bi_adapter.fingerprint import backbone_fingerprint

CASES = [
    BiAdapterConfig(dim=4),
    BiAdapterConfig("lora", 2, 3, scale=10.0, head_bits=1),
    BiAdapterConfig("adaptformer", 4, 5, per_row=True, head_bits=16),
    BiAdapterConfig("lora", 8, 2, codebook="as-published", quantiser="lloyd-max"),
    BiAdapterConfig("adaptformer", 16, 3),
    BiAdapterConfig("lora", 32, 3, head_bits=2),
    BiAdapterConfig("adaptformer", 2, 3, quantiser="learned-step"),
    BiAdapterConfig("adaptformer", 1, 3, quantiser="sign"),
]


@pytest.mark.parametrize("config", CASES, ids=str)
@pytest.mark.parametrize("dequantised", [True, False])
def test_there_and_back(config, dequantised, tmp_path):
    model = adapted(config, num_classes=3, class_names=["a", "b", "c"])
    save_pretrained(model, tmp_path / "one", preprocessing={"mean": [0.5]})
    loaded = from_pretrained(vit(), tmp_path / "one", name="task", dequantised=dequantised).eval()
    tolerance = 1e-2 if config.head_bits == 16 else 1e-4
    torch.testing.assert_close(loaded(images()), model(images()), rtol=tolerance, atol=tolerance)
    info = adapter_infos(loaded)["task"]
    assert info.class_names == ("a", "b", "c")
    assert info.preprocessing == {"mean": [0.5]}
    save_pretrained(loaded, tmp_path / "two")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with pytest.raises(ValueError, match="stored form"):
        trainable_parameters(loaded)


def test_freezing_changes_no_logit():
    for dequantised in (True, False):
        model = adapted(BiAdapterConfig(dim=4, head_bits=1))
        before = model(images())
        torch.testing.assert_close(freeze_adapter(model, dequantised=dequantised)(images()), before)


def saved(tmp_path, **changes):
    save_pretrained(adapted(BiAdapterConfig(dim=4), **changes), tmp_path)
    return tmp_path


def untouched(model):
    return model.state_dict().keys() == vit().state_dict().keys()


def test_another_backbone_is_refused(tmp_path):
    folder, other = saved(tmp_path), vit(seed=5)
    with pytest.raises(AdapterFileError, match="belongs to VisionTransformer"):
        from_pretrained(other, folder)
    assert untouched(other)
    from_pretrained(other, folder, verify_backbone=False)


def test_a_backbone_of_another_size_is_refused(tmp_path):
    folder = saved(tmp_path)
    with pytest.raises(AdapterFileError, match="expected"):
        from_pretrained(vit(embed_dim=48), folder, verify_backbone=False)


def test_no_place_for_the_classifier(tmp_path):
    folder, bare = saved(tmp_path), vit()
    del bare.head
    with pytest.raises(AdapterFileError, match="no place"):
        from_pretrained(bare, folder)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_damaged_files_leave_only_our_error(file, tmp_path):
    path = saved(tmp_path) / file
    content, rng = path.read_bytes(), random.Random(0)
    for attempt in range(150):
        kind, position = attempt % 5, rng.randrange(len(content))
        if kind == 0:
            spoilt = content[:position]
        elif kind == 1:
            spoilt = content + bytes(rng.randrange(256) for _ in range(9))
        elif kind == 2:
            spoilt = bytes(rng.randrange(256) for _ in range(position))
        elif kind == 3:
            spoilt = content[:position] + bytes([content[position] ^ (1 << rng.randrange(8))]) + content[position + 1 :]
        else:
            spoilt = content[:position] + content[position + rng.randrange(1, 9) :]
        path.write_bytes(spoilt)
        model = vit()
        try:
            from_pretrained(model, tmp_path)
        except AdapterFileError:
            assert untouched(model)
        else:
            assert file == "adapter_config.json", "a damaged weights file was read"
    path.unlink()
    with pytest.raises(AdapterFileError, match="cannot be read"):
        from_pretrained(vit(), tmp_path)


def test_impossible_settings(tmp_path):
    path = saved(tmp_path) / "adapter_config.json"
    said = json.loads(path.read_text())
    for change in (
        {"format": 2},
        {"num_classes": 10**12},
        {"num_classes": True},
        {"class_names": ["a"]},
        {"codebook": "nf4-4"},
        {"adapter": {**said["adapter"], "bits": 3}},
        {"adapter": {**said["adapter"], "dim": 10**9}},
        {"adapter": {**said["adapter"], "surprise": 1}},
        {"backbone": None},
    ):
        path.write_text(json.dumps({**said, **change}))
        with pytest.raises(AdapterFileError):
            from_pretrained(vit(), tmp_path)
    path.write_text("[" * 100_000)
    with pytest.raises(AdapterFileError):
        from_pretrained(vit(), tmp_path)


@pytest.mark.parametrize("preprocessing", [{"mean": torch.ones(3)}, {"std": float("nan")}, {1j: 2}])
def test_notes_that_json_cannot_hold(preprocessing, tmp_path):
    model = adapted(BiAdapterConfig(dim=4))
    with pytest.raises(ValueError, match="preprocessing: expected"):
        save_pretrained(model, tmp_path / "a", preprocessing=preprocessing)
    assert not (tmp_path / "a").exists()
    assert adapter_infos(model)["default"].preprocessing == {}


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("method", ["adaptformer", "lora-bihead"])
def test_constant_weights_are_stored_as_their_mean(bits, method, tmp_path):
    """A standard deviation of zero is a legal one: every weight is the mean."""
    kind, _, bihead = method.partition("-")
    config = BiAdapterConfig(kind, bits, 4, head_bits=1 if bihead else 32, codebook="as-published")
    model = adapted(config)
    for number, matrix in enumerate(adapter_matrices(model).values()):
        matrix.set_latent(torch.full_like(matrix.weight, 0.1 * number))
    save_pretrained(model, tmp_path / "folder")
    path = export_bin(model, tmp_path / "a.bin")
    for loaded in (
        from_pretrained(vit(), tmp_path / "folder"),
        load_bin(vit(), path, read_config(tmp_path / "a.yaml")),
    ):
        for number, matrix in enumerate(adapter_matrices(loaded).values()):
            torch.testing.assert_close(
                matrix.effective_weight(), torch.full_like(matrix.effective_weight(), 0.1 * number)
            )
        torch.testing.assert_close(loaded.eval()(images()), model(images()), rtol=1e-5, atol=1e-5)
        assert bin_content(loaded) == path.read_bytes()


@pytest.mark.parametrize("classes", [1, 5, 7, 600])
@pytest.mark.parametrize("method", ["lora", "lora-bihead"])
def test_a_published_file_of_another_number_of_classes_is_refused(classes, method, tmp_path):
    head_bits = 1 if "bihead" in method else 32
    path = export_bin(adapted(BiAdapterConfig("lora", dim=4, head_bits=head_bits), num_classes=6), tmp_path / "a.bin")
    model = vit()
    with pytest.raises(AdapterFileError, match="bytes"):
        load_bin(model, path, PublishedConfig(method, 4, classes, 1.0))
    assert untouched(model)


@pytest.mark.parametrize(
    "change", [{"num_class": 0}, {"bit": 3}, {"bit": 32}, {"dim": 0}, {"method": "adapter"}, {"scale": float("inf")}]
)
def test_settings_no_published_file_has(change, tmp_path):
    path = export_bin(adapted(BiAdapterConfig(dim=4)), tmp_path / "a.bin")
    model = vit()
    with pytest.raises(AdapterFileError):
        load_bin(model, path, replace(PublishedConfig("adaptformer", 4, 5, 1.0), **change))
    assert untouched(model)


def test_a_published_file_for_another_backbone_is_refused(tmp_path):
    path = export_bin(adapted(BiAdapterConfig(dim=4)), tmp_path / "a.bin")
    for other in (vit(embed_dim=48), vit(depth=3)):
        with pytest.raises(AdapterFileError, match="needs"):
            load_bin(other, path, read_config(tmp_path / "a.yaml"))


def test_models_of_other_kinds_are_refused(tmp_path):
    folder = saved(tmp_path)
    for model in (torch.nn.Linear(3, 3), torch.nn.TransformerEncoderLayer(8, 2, 16)):
        with pytest.raises(UnsupportedBackbone, match="none that can be used"):
            from_pretrained(model, folder, verify_backbone=False)


def test_saving_and_loading_are_fast(tmp_path):
    """Not a benchmark: hundredths of a second, not seconds."""
    model = adapted(BiAdapterConfig(dim=4))
    started = time.perf_counter()
    save_pretrained(model, tmp_path)
    from_pretrained(vit(), tmp_path)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("method", ["adaptformer", "adaptformer-bihead", "lora", "lora-bihead"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_published_files(method, bits, tmp_path):
    kind, _, bihead = method.partition("-")
    config = BiAdapterConfig(
        kind, bits, 4, scale=10.0, head_bits=1 if bihead else 32, codebook="as-published" if bits == 8 else "converged"
    )
    model = adapted(config, num_classes=6)
    path = export_bin(model, tmp_path / "task.bin", dataset="cifar")
    said = read_config(tmp_path / "task.yaml")
    assert said == PublishedConfig(method, 4, 6, 10.0, bits, "cifar")
    loaded = load_bin(vit(), path, said).eval()
    torch.testing.assert_close(loaded(images()), model(images()), rtol=1e-4, atol=1e-4)
    assert bin_content(loaded) == path.read_bytes()
    assert active_adapter(loaded) == "default"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (BiAdapterConfig(bits=32, dim=4), "published format has one of"),
        (BiAdapterConfig(bits=2, dim=4, quantiser="uniform"), "published levels"),
        (BiAdapterConfig(bits=8, dim=4), "as-published"),
        (BiAdapterConfig(dim=4, per_row=True), "one mean"),
        (BiAdapterConfig(dim=4, head_bits=4), "1 or 32 bits"),
    ],
)
def test_what_the_published_format_cannot_hold(config, said):
    with pytest.raises(ValueError, match=said):
        bin_content(adapted(config))


def test_damaged_published_files(tmp_path):
    path = export_bin(adapted(BiAdapterConfig(dim=4)), tmp_path / "a.bin")
    config, content, rng = read_config(tmp_path / "a.yaml"), path.read_bytes(), random.Random(1)
    spoilt = [content[:position] for position in (0, 1, 7, len(content) - 1)] + [content + b"x", content * 2]
    nan = content[:12] + b"\xff\xff\xff\xff" + content[16:]  # the first mean
    for bad in (*spoilt, nan):
        path.write_bytes(bad)
        model = vit()
        with pytest.raises(AdapterFileError):
            load_bin(model, path, config)
        assert untouched(model)
    for _ in range(100):
        position = rng.randrange(len(content))
        path.write_bytes(content[:position] + bytes([rng.randrange(256)]) + content[position + 1 :])
        try:
            load_bin(vit(), path, config)
        except AdapterFileError:
            continue
    with pytest.raises(AdapterFileError):
        load_bin(vit(), tmp_path / "absent.bin", config)


@pytest.mark.parametrize("text", ["", "method: lora", "bit: one", "a: 1\n", "\xff", "bit: 3\ndim: 1"])
def test_bad_yaml(text, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(AdapterFileError, match=r"expected the keys|expected"):
        read_config(path)


def test_the_fingerprint_takes_no_more_work_with_more_adapters(monkeypatch):
    looked_at = []
    write = nn.Module._save_to_state_dict

    def counted(self, *arguments, **named):
        looked_at.append(self)
        write(self, *arguments, **named)

    monkeypatch.setattr(nn.Module, "_save_to_state_dict", counted)
    model = vit()
    counts, prints = [], []
    for number in range(3):
        add_adapter(model, f"task{number}", BiAdapterConfig(dim=4), num_classes=3)
        looked_at.clear()
        prints.append(backbone_fingerprint(model))
        counts.append(len(looked_at))
    assert counts[0] > 10
    assert len(set(counts)) == len(set(prints)) == 1
