"""Mixed batches: each image as by its own adapter alone (§11.8)."""

from __future__ import annotations

import pytest
import torch
from bi_adapter_testing.small import vit
from timm import create_model

from bi_adapter import (
    AdapterBank,
    AdapterFileError,
    BiAdapterConfig,
    adapter_matrices,
    add_adapter,
    attach,
    from_pretrained,
    save_pretrained,
)


def shake(model, name, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for matrix in adapter_matrices(model, name).values():
            matrix.set_latent(0.3 * torch.randn_like(matrix.weight) + 0.05)


def bank_of(config, folder, count=5, make=vit):
    """A bank of `count` adapters of 2, 3, ... classes, from files."""
    for number in range(count):
        model = attach(
            make(),
            BiAdapterConfig(
                config.method, config.bits, config.dim, 1.0 + number, head_bits=[1, 32][number % 2],
                per_row=config.per_row,
            ),
            num_classes=2 + number,
        )  # fmt: skip
        shake(model, "default", number)
        save_pretrained(model, folder / str(number))
    bank = AdapterBank(make(), config)
    for number in range(count):
        bank.load(str(number), folder / str(number))
    return bank


def alone(folder, number, images, make=vit):
    return from_pretrained(make(), folder / str(number)).eval()(images)


@pytest.mark.parametrize("method", ["adaptformer", "lora"])
@pytest.mark.parametrize(("bits", "per_row"), [(1, False), (2, True), (8, False), (16, False), (32, False)])
def test_each_image_by_its_own_adapter(method, bits, per_row, tmp_path):
    bank = bank_of(BiAdapterConfig(method, bits, 4, per_row=per_row), tmp_path)
    images, order = torch.randn(9, 3, 16, 16), [3, 0, 0, 4, 1, 2, 3, 3, 1]
    found = bank(images, [str(number) for number in order])
    for position, number in enumerate(order):
        wanted = alone(tmp_path, number, images[position : position + 1])[0]
        assert wanted.shape == (2 + number,)
        torch.testing.assert_close(found[position], wanted, rtol=1e-3, atol=1e-4)
    again = bank(images[:2], ["1", "1"])
    torch.testing.assert_close(torch.stack(again), alone(tmp_path, 1, images[:2]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["adaptformer", "lora"])
def test_windows_of_an_image_belong_to_it(method, tmp_path):
    def make():
        torch.manual_seed(0)
        return create_model(
            "swin_tiny_patch4_window7_224", img_size=56, embed_dim=12, depths=(2, 2), num_heads=(2, 2), num_classes=3
        ).eval()

    bank = bank_of(BiAdapterConfig(method, 1, 4), tmp_path, count=3, make=make)
    images, order = torch.randn(4, 3, 56, 56), [2, 0, 1, 0]
    found = bank(images, [str(number) for number in order])
    for position, number in enumerate(order):
        wanted = alone(tmp_path, number, images[position : position + 1], make)[0]
        torch.testing.assert_close(found[position], wanted, rtol=1e-3, atol=1e-4)


def test_hot_swap_and_removal(tmp_path):
    bank, images = bank_of(BiAdapterConfig(dim=4), tmp_path, count=4), torch.randn(2, 3, 16, 16)
    before = bank(images, ["0", "2"])
    bank.load("2", tmp_path / "3")
    assert [len(logits) for logits in bank(images, ["0", "2"])] == [2, 5]
    bank.remove("0")
    assert bank.names == ("1", "2", "3")
    with pytest.raises(ValueError, match="'0' is not resident"):
        bank(images, ["0", "1"])
    bank.load("0", tmp_path / "0")
    torch.testing.assert_close(bank(images, ["0", "2"])[0], before[0])


def test_hundreds_take_their_packed_size(tmp_path):
    config = BiAdapterConfig(dim=4)
    model = attach(vit(), config, num_classes=2)
    bank = AdapterBank(model, config)
    for number in range(200):
        bank.put(str(number), "default")
    assert bank.resident_bytes == 200 * (4 * (4 * 24 // 8 + 8) + 4)
    images = torch.randn(1, 3, 16, 16).expand(200, -1, -1, -1)
    logits = torch.stack(bank(images, bank.names))
    torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-5)


def test_the_model_keeps_its_own_adapters(tmp_path):
    model = attach(vit(), BiAdapterConfig("lora", dim=2, scale=9.0), num_classes=3, name="own").eval()
    images = torch.randn(2, 3, 16, 16)
    before, plain = model(images), vit()
    config = BiAdapterConfig(dim=4)
    bank = AdapterBank(model, config)
    add_adapter(model, "other", config, num_classes=4)
    bank.put("a", "other")
    found = bank(images, ["a", "a"])
    wanted = attach(plain, config, num_classes=4)
    for name, matrix in adapter_matrices(wanted).items():
        matrix.set_latent(adapter_matrices(model, "other")[name].weight)
    wanted.head.current.load_state_dict(model.head.adapters["other"].state_dict())
    torch.testing.assert_close(torch.stack(found), wanted.eval()(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(images), before)
    bank.close()
    torch.testing.assert_close(model(images), before)


def test_closing_gives_the_backbone_back():
    model = vit()
    AdapterBank(model, BiAdapterConfig(dim=4)).close()
    assert model.state_dict().keys() == vit().state_dict().keys()


def test_bad_input(tmp_path):
    bank, images = bank_of(BiAdapterConfig(dim=4), tmp_path, count=1), torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match="expected 2, one a image, got 1"):
        bank(images, ["0"])
    assert bank(images[:0], []) == []
    save_pretrained(attach(vit(), BiAdapterConfig(dim=5)), tmp_path / "wider")
    with pytest.raises(ValueError, match="dim 5, not 4"):
        bank.load("wider", tmp_path / "wider")
    save_pretrained(attach(vit(), BiAdapterConfig(dim=4, quantiser="sign")), tmp_path / "sign")
    with pytest.raises(ValueError, match="levels 'sign', not 'converged'"):
        bank.load("sign", tmp_path / "sign")
    (tmp_path / "0" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterFileError):
        bank.load("0", tmp_path / "0")
    assert bank.names == ("0",)
    assert len(bank(images, ["0", "0"])) == 2
