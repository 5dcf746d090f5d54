"""The pre-training loop (section 6): rates, masks that depend on a number alone, accumulation, resuming."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch

from lmim import LocalMim
from lmim.config import PretrainingConfig
from lmim.pretraining import ComputeMeter, TapLosses, counter_seed, pretrain, rate_of_step
from sextet.errors import Interrupted
from sextet.training import read_log

CPU = torch.device("cpu")
CONFIG = PretrainingConfig(epochs=3, warmup_epochs=1, batch=8, base_lr=0.03, lr_min=0.0, precision="fp32")


def small():
    torch.manual_seed(0)
    return LocalMim(16, 4, 8, 7, 2, decoder_dim=8, decoder_heads=2, bins=4, channels=1).double()


def images(number, count=8):
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(number)).double()


def trained(folder, config=CONFIG, batch=images, **changes):
    model = small()
    meter = pretrain(model, batch, config, folder, steps_per_epoch=2, seed=5, device=CPU, **changes)
    return model, meter


def assert_same_weights(one, other, **tolerance):
    for (name, value), (_, wanted) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(value, wanted, msg=name, **({"rtol": 0, "atol": 0} | tolerance))


def test_by_hand(tmp_path):
    """Two steps as written in section 6, plainly."""
    config = PretrainingConfig(epochs=1, warmup_epochs=0, batch=8, base_lr=0.03, lr_min=0.01, precision="fp32")
    model, _ = trained(tmp_path, config)
    wanted = small()
    decayed = [value for name, value in wanted.named_parameters() if value.ndim > 1 and not name.endswith(".bias")]
    others = [value for name, value in wanted.named_parameters() if value.ndim == 1 or name.endswith(".bias")]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    peak = 0.03 * 8 / 256
    for step in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 + (peak - 0.01) * 0.5 * (1 + math.cos(math.pi * step / 2))
        torch.manual_seed(counter_seed(5, step))
        optimizer.zero_grad()
        wanted(images(step), 0.75).loss.backward()
        optimizer.step()
    assert_same_weights(model, wanted, rtol=1e-4, atol=1e-6)


def test_the_loss_falls_and_time_is_counted(tmp_path):
    config = PretrainingConfig(epochs=20, warmup_epochs=1, batch=8, base_lr=0.3, precision="fp32")
    _, meter = trained(tmp_path, config, lambda _: images(0))
    log = read_log(tmp_path)
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    assert 0 < meter.hours(2) == 2 * meter.hours()


def test_killed_and_continued_it_ends_with_the_same_weights(tmp_path):
    def interrupted(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return images(number)

    whole, _ = trained(tmp_path / "whole")
    with pytest.raises(Interrupted):
        trained(tmp_path / "parts", batch=interrupted)
    rest, meter = trained(tmp_path / "parts")
    assert_same_weights(rest, whole)
    assert meter.seconds > 0
    assert read_log(tmp_path / "parts") == read_log(tmp_path / "whole")


def test_accumulation_draws_a_mask_for_each_micro_batch(tmp_path):
    """Two micro-batches are the mean of two losses, each under its own mask."""
    config = PretrainingConfig(epochs=1, warmup_epochs=0, batch=16, accumulation=2, base_lr=0.03, precision="fp32")
    model, _ = trained(tmp_path, config)
    wanted = small()
    losses = []
    for number in range(2):
        torch.manual_seed(counter_seed(5, number))
        losses.append(wanted(images(number), 0.75).loss.detach())
    assert read_log(tmp_path)[0]["loss"] == pytest.approx(float(sum(losses)) / 2, rel=1e-5)
    assert float(losses[0]) != pytest.approx(float(losses[1]), rel=1e-3)
    assert model.training


def test_weights_of_the_losses(tmp_path):
    model, _ = trained(tmp_path, loss_weights=(1.0, 0.0, 0.0, 0.0))
    start = small()
    moved = [
        not torch.equal(a, b) for a, b in zip(model.blocks[6].parameters(), start.blocks[6].parameters(), strict=True)
    ]
    assert any(moved)  # by weight decay alone
    assert torch.equal(model.blocks[6].norm1.weight, start.blocks[6].norm1.weight)
    assert not torch.equal(model.blocks[1].norm1.weight, start.blocks[1].norm1.weight)


def test_probes_after_every_epoch_are_logged(tmp_path):
    trained(tmp_path, after_epoch=lambda epoch: {"knn": epoch / 10})
    assert [entry["knn"] for entry in read_log(tmp_path) if "knn" in entry] == [0.1, 0.2, 0.3]


def test_rates():
    config = PretrainingConfig(epochs=100, warmup_epochs=10)
    assert rate_of_step(0, 625, config) == 0
    assert rate_of_step(6250, 625, config) == config.peak_lr == pytest.approx(1.6e-3)
    assert rate_of_step(62_499, 625, config) == pytest.approx(1e-6, rel=1e-3)


def test_any_model_with_losses_trains():
    class Plain(torch.nn.Module):
        def losses(self, batch, ratio):
            return (batch.mean() * ratio).expand(3)

    assert TapLosses(Plain(), 0.5)(torch.ones(2)).tolist() == [0.5] * 3
    meter = ComputeMeter()
    meter.load_state_dict({"seconds": 7200.0})
    assert meter.hours() == 2


@pytest.mark.parametrize("call", [
    lambda: PretrainingConfig(epochs=10, warmup_epochs=10),
    lambda: PretrainingConfig(batch=10, accumulation=3),
    lambda: PretrainingConfig(accumulation=0),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
