from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bi_adapter.evaluation import BestOnTest, best_scale, hits
from bi_adapter.schedule import learning_rate
from bi_adapter.training import FineTuning, TunedPart, epoch_order, fine_tune
from sextet.training import read_log

CPU = torch.device("cpu")
CONFIG = FineTuning(epochs=4, batch_size=8, lr=0.1, warmup=1)


class Toy(nn.Module):
    """A frozen layer, dropout and a head that learns."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(5, 16).requires_grad_(False)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(F.dropout(self.frozen(x).tanh(), 0.1, self.training))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(37, 5, generator=generator)
    return inputs, (inputs[:, :3]).argmax(1)


def train(data, folder, model=None, **values):
    model = model or Toy()
    inputs, labels = data
    fine_tune(model, lambda rows, _: inputs[rows], labels, CONFIG, folder, seed=3, device=CPU, **values)
    return model


def test_against_a_loop_by_hand(data, tmp_path):
    model = train(data, tmp_path)
    plain = Toy().train()
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(plain.head.parameters(), weight_decay=1e-4)
    losses = []
    for epoch in range(4):
        order = epoch_order(37, epoch, 3)
        for position in range(4):  # 37 images: four batches of eight, five images dropped
            rows = order[position * 8 : position * 8 + 8]
            optimizer.param_groups[0]["lr"] = learning_rate(epoch, 0.1, 4, 1)
            loss = F.cross_entropy(plain(data[0][rows]), data[1][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert [entry["loss"] for entry in read_log(tmp_path)] == losses
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())


def test_it_learns_and_leaves_the_frozen_part_alone(data, tmp_path):
    model = train(data, tmp_path)
    assert torch.equal(model.frozen.weight, Toy().frozen.weight)
    found = hits(model, lambda rows, _: data[0][rows], data[1], batch_size=10, device=CPU)
    assert found.dtype == torch.uint8
    assert found.double().mean() > 0.6
    assert torch.equal(found, (model(data[0]).argmax(1) == data[1]).to(torch.uint8))


class Stop(Exception):
    """An interruption."""


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_that_was_stopped_ends_the_same(data, tmp_path, stop_after):
    def evaluate(model, best):
        def after_epoch(epoch):
            best.offer(hits(model, lambda rows, _: data[0][rows], data[1], device=CPU), epoch)
            if epoch == stopping.get("at"):
                stopping.clear()
                raise Stop

        return after_epoch

    ends = []
    for folder, stopping in (("whole", {}), ("stopped", {"at": stop_after})):
        model, best = Toy(), BestOnTest()
        values = {"state": {"best": best}, "save_every": 1}
        if stopping:
            with pytest.raises(Stop):
                train(data, tmp_path / folder, model, after_epoch=evaluate(model, best), **values)
            assert (tmp_path / folder / "checkpoints").exists() == (stop_after > 1)
            model, best = Toy(), BestOnTest()
            values = {"state": {"best": best}, "save_every": 1}
        train(data, tmp_path / folder, model, after_epoch=evaluate(model, best), **values)
        ends.append((model.state_dict(), best.state_dict(), read_log(tmp_path / folder)))
    for one, other in zip(*ends, strict=True):
        assert str(one) == str(other)


def test_the_order_of_an_epoch():
    orders = [epoch_order(50, epoch, seed).tolist() for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert epoch_order(50, 7, 9).tolist() == epoch_order(50, 7, 9).tolist()


def test_the_best_of_several_evaluations_is_the_first_best():
    best = BestOnTest()
    for epoch, right in ((10, [1, 0, 0]), (20, [1, 1, 0]), (30, [0, 1, 1])):
        best.offer(torch.tensor(right, dtype=torch.uint8), epoch)
    assert (best.epoch, best.hits.tolist()) == (20, [1, 1, 0])
    other = BestOnTest()
    other.load_state_dict(best.state_dict())
    assert other.epoch == 20


def test_the_smallest_of_equally_good_scales():
    assert best_scale({100.0: 0.5, 1.0: 0.7, 10.0: 0.7}) == 1.0
    assert best_scale({1.0: 0.1, 10.0: 0.3}) == 10.0


def test_bad_input(data, tmp_path):
    with pytest.raises(ValueError, match="7 images fill no batch of 8"):
        fine_tune(Toy(), lambda rows, _: rows, torch.zeros(7).long(), CONFIG, tmp_path, seed=0, device=CPU)
    with pytest.raises(ValueError, match="0 <= warmup < epochs"):
        FineTuning(epochs=10)
    with pytest.raises(ValueError, match="batch_size"):
        FineTuning(batch_size=0)
    with pytest.raises(ValueError, match="expected the parameters"):
        TunedPart(Toy()).load_state_dict({})
    with pytest.raises(ValueError, match="at least one"):
        best_scale({})
    assert math.isfinite(float(train(data, tmp_path / "fine").head.weight.detach().sum()))
