"""Adapters as files: ours, and the published format; damage of every kind (§3, §11.6)."""

from __future__ import annotations

import json
import random
import time

import pytest
import torch
from bi_adapter_testing.small import adapted, images, vit

from bi_adapter import (
    AdapterFileError,
    BiAdapterConfig,
    PublishedConfig,
    active_adapter,
    adapter_infos,
    bin_content,
    export_bin,
    freeze_adapter,
    from_pretrained,
    load_bin,
    read_config,
    save_pretrained,
    trainable_parameters,
)

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
