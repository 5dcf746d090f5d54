"""The laptop's backbone: shortcuts that change nothing, and its pre-training."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from bi_adapter import BiAdapterConfig, adapter_matrices, attach
from bi_adapter.backbone import Architecture, make_backbone
from bi_adapter.small_vit import (
    AdaptedTail,
    ClassTokenTransformer,
    PretrainingConfig,
    adapter_of,
    class_token_attention,
    first_block,
    grey,
    pretrain,
)
from sextet.errors import Interrupted
from sextet.training import read_log

CPU = torch.device("cpu")
SMALL = Architecture(28, 7, 1, 12, 3, 2)


def backbone(classes=5):
    torch.manual_seed(0)
    model = make_backbone(SMALL)
    model.reset_classifier(classes)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return model.double().eval()


def adapted(**settings):
    model = attach(backbone(), BiAdapterConfig(dim=3, scale=5.0, **settings), num_classes=5)
    with torch.no_grad():
        for matrix in adapter_matrices(model).values():
            matrix.weight.normal_(std=0.3)
    return model.eval()


def images(count=3):
    return torch.randn(count, 1, 28, 28, dtype=torch.float64)


def test_grey_is_between_minus_one_and_one():
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1, 1)
    torch.testing.assert_close(grey(pixels).flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_the_class_token_alone_gives_the_same_logits_and_gradients():
    model, x = backbone(), images()
    wanted = model(x)
    found = ClassTokenTransformer(model)(x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(wanted)
    parameters = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), parameters),
        torch.autograd.grad((wanted * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_attention_of_the_class_token_is_the_first_row_of_attention():
    attention, tokens = backbone().blocks[0].attn, torch.randn(2, 17, 12, dtype=torch.float64)
    torch.testing.assert_close(class_token_attention(attention, tokens), attention(tokens)[:, 0])


@pytest.mark.parametrize("bits", [1, 32])
def test_what_the_first_block_computes_once_is_enough(bits):
    model, x = adapted(bits=bits), images()
    computed = first_block(model, x)
    assert computed.shape == (3, 2, 17, 12)
    wanted = model(x)
    found = AdaptedTail(model)(computed)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    trained = [value for value in model.parameters() if value.requires_grad]
    assert len(trained) == 3 * 2 + 2
    weights = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), trained),
        torch.autograd.grad((wanted * weights).sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_the_first_blocks_part_does_not_depend_on_the_adapter():
    one, x = adapted(), images()
    before = first_block(one, x)
    with torch.no_grad():
        for matrix in adapter_matrices(one).values():
            matrix.weight.mul_(-3)
    assert torch.equal(first_block(one, x), before)
    assert not before.requires_grad
    assert adapter_of(one.blocks[0]) is one.blocks[0].mlp.current


def pictures():
    """Eight classes of noisy pictures, uint8 [160, 28, 28, 1]."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(8).repeat(20)
    patterns = torch.randint(0, 256, (8, 28, 28, 1), generator=generator)
    noise = torch.randint(0, 256, (160, 28, 28, 1), generator=generator)
    return (0.7 * patterns[labels] + 0.3 * noise).to(torch.uint8), labels


CONFIG = PretrainingConfig(images=160, epochs=10, batch_size=32, lr=5e-3)


def fresh():
    torch.manual_seed(1)
    model = make_backbone(SMALL)
    model.reset_classifier(8)
    return model


def test_pretraining_learns(tmp_path):
    model, (pixels, labels) = fresh(), pictures()
    pretrain(model, pixels, labels, CONFIG, tmp_path, device=CPU)
    assert float((model.eval()(grey(pixels)).argmax(1) == labels).double().mean()) > 0.7
    assert len(read_log(tmp_path)) == 10 * (160 // 32)


def test_pretraining_that_was_stopped_ends_the_same(tmp_path, monkeypatch):
    pixels, labels = pictures()
    whole, stopped = fresh(), fresh()
    pretrain(whole, pixels, labels, CONFIG, tmp_path / "whole", device=CPU)
    count, forward = iter(range(1000)), stopped.forward

    def interrupted(x):
        if next(count) == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(x)

    monkeypatch.setattr(stopped, "forward", interrupted)
    with pytest.raises(Interrupted):
        pretrain(stopped, pixels, labels, CONFIG, tmp_path / "stopped", device=CPU)
    again = fresh()
    pretrain(again, pixels, labels, CONFIG, tmp_path / "stopped", device=CPU)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert read_log(tmp_path / "stopped") == read_log(tmp_path / "whole")
