"""The trainer: what a killed run continues to, schedules, every method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from infocl import SimClr, Supervised
from infocl.augmentation import Augmentation, Views
from infocl.training import (
    TrainingConfig,
    batch_rows,
    check_sizes,
    epoch_order,
    learning_rate,
    regulariser_weight,
    train,
)
from sextet.errors import NonFiniteLoss
from sextet.training import read_log

CPU = torch.device("cpu")


class Encoder(nn.Module):
    """Two stages of pooled convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        one = self.norm(self.one(x)).relu()
        return [one.mean(dim=(2, 3)), one.mean(dim=(2, 3)), self.other(one).mean(dim=(2, 3))]


def source(count=2, labels=None):
    images = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Views(images, Augmentation(size=8), seed=3, count=count, labels=labels)


def trained(folder, **kwargs):
    torch.manual_seed(0)
    model = SimClr(Encoder(), 6, kwargs.pop("regulariser", "lbe"), out=4)
    values = {"epochs": 3, "batch_size": 8, "lr": 1e-2, "save_every": 3, **kwargs}
    on_epoch = values.pop("on_epoch", None)
    train(model, source(), TrainingConfig(**values), folder, seed=1, device=CPU, on_epoch=on_epoch)
    return model


def test_a_run_that_is_stopped_continues_to_the_same_weights(tmp_path):
    whole = trained(tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(_, epoch):
        if epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        trained(tmp_path / "parts", on_epoch=stop)
    continued = trained(tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name]), name
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")


def test_the_log_has_what_the_regulariser_measured(tmp_path):
    trained(tmp_path)
    entry = read_log(tmp_path)[-1]
    assert {"loss", "base", "regulariser", "weight", "information_2", "norm", "participation_ratio"} <= entry.keys()
    assert entry["loss"] == pytest.approx(entry["base"] + entry["regulariser"], rel=1e-5)


def test_epochs_visit_everything_once_in_another_order():
    first, second = (epoch_order(50, 7, epoch) for epoch in (0, 1))
    assert sorted(first.tolist()) == list(range(50))
    assert not torch.equal(first, second)
    assert torch.equal(first, epoch_order(50, 7, 0))


def test_a_step_sees_its_place_in_the_order_of_its_epoch():
    assert torch.equal(batch_rows(10, 4, 7, 1), epoch_order(10, 7, 0)[4:8])
    assert torch.equal(batch_rows(10, 4, 7, 2), epoch_order(10, 7, 1)[:4])


def test_schedules():
    config = TrainingConfig(epochs=4, lr=2.0, schedule="cosine", weight=0.5, weight_warmup=2)
    assert [learning_rate(config, epoch) for epoch in range(4)] == pytest.approx([2.0, 1.70711, 1.0, 0.29289], rel=1e-4)
    assert [regulariser_weight(config, epoch) for epoch in (0, 1, 1.5, 2, 3)] == [0, 0.25, 0.375, 0.5, 0.5]


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lars", "published-lars"])
def test_supervised_training_with_every_optimiser(tmp_path, optimizer):
    torch.manual_seed(0)
    model = Supervised(Encoder(), 6, 2, "lbe", 0.1)
    before = model.encoder.one.weight.detach().clone()
    config = TrainingConfig(epochs=1, batch_size=10, optimizer=optimizer, precision="bf16")
    train(model, source(1, torch.arange(20) % 2), config, tmp_path, seed=1, device=CPU)
    assert not torch.equal(before, model.encoder.one.weight)
    with pytest.raises(ValueError, match="labels"):
        train(model, source(1), config, tmp_path / "again", seed=1, device=CPU)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises((NonFiniteLoss, ValueError), match=r"nan|inf|finite"):
        trained(tmp_path, lr=1e30, optimizer="sgd", regulariser="none")


@pytest.mark.parametrize("call", [
    lambda: TrainingConfig(optimizer="adamw"),
    lambda: TrainingConfig(batch_size=1),
    lambda: TrainingConfig(schedule="linear"),
    lambda: TrainingConfig(weight_warmup=-1),
    lambda: check_sizes(10, 20, 1),
    lambda: check_sizes(100, 20, 3),
    lambda: check_sizes(100, 4, 4),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
