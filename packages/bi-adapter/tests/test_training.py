from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bi_adapter.evaluation import BestOnTest, best_scale, hits
from bi_adapter.layers import QuantLinear
from bi_adapter.schedule import learning_rate
from bi_adapter.training import FineTuning, TunedPart, batch_rows, epoch_order, fine_tune
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


def adapted_toy():
    """The same with 1-bit latents in the place of its head's weights."""
    model = Toy()
    model.head = QuantLinear(16, 3, 1)
    model.head.set_latent(torch.randn(3, 16, generator=torch.Generator().manual_seed(2)))
    return model


def made_up():
    """Inputs [37, 5] and labels [37] that follow from them."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(37, 5, generator=generator)
    return inputs, (inputs[:, :3]).argmax(1)


@pytest.fixture
def data():
    return made_up()


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


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from test_training import CONFIG, CPU, Toy, adapted_toy, fine_tune, made_up
inputs, labels = made_up()
steps = iter(range(100))

def draw(rows, generator):
    if next(steps) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return inputs[rows] + 0.1 * torch.randn(inputs[rows].shape, generator=generator)

fine_tune(adapted_toy(), draw, labels, CONFIG, Path(sys.argv[1]), seed=3, device=CPU, save_every=1)
"""


def test_killed_in_the_middle_of_an_epoch_it_continues_to_the_same_weights(tmp_path):
    """Step 9 of 16 is inside of the third epoch: its first step is done again, with the same noise and dropout."""
    inputs, labels = made_up()

    def draw(rows, generator):
        return inputs[rows] + 0.1 * torch.randn(inputs[rows].shape, generator=generator)

    models = []
    for folder in ("whole", "killed"):
        if folder == "killed":
            words = [sys.executable, "-c", KILLED, tmp_path / folder]
            done = subprocess.run(words, cwd=Path(__file__).parent, timeout=200)
            assert done.returncode == -signal.SIGKILL
            assert len(read_log(tmp_path / folder)) == 8
        models.append(adapted_toy())
        fine_tune(models[-1], draw, labels, CONFIG, tmp_path / folder, seed=3, device=CPU, save_every=1)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "whole")


def test_the_order_of_an_epoch():
    orders = [epoch_order(50, epoch, seed).tolist() for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert epoch_order(50, 7, 9).tolist() == epoch_order(50, 7, 9).tolist()


def test_a_step_sees_its_place_in_the_order_of_its_epoch():
    assert torch.equal(batch_rows(10, 4, 9, 1), epoch_order(10, 0, 9)[4:8])
    assert torch.equal(batch_rows(10, 4, 9, 2), epoch_order(10, 1, 9)[:4])


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
