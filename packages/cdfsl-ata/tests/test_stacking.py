"""Stacked fine-tuning is fine-tuning one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cdfsl_ata import Gnn, ProtoNet, RelationNet, Tpn
from cdfsl_ata.encoders import ConvBlock
from cdfsl_ata.finetuning import adam, classification_loss, episode_loss, fine_tune_episodes, fine_tune_linear
from cdfsl_ata.learners import MatchingNet
from cdfsl_ata.stacking import fine_tune_stacked

TASKS, STEPS = 3, 4


def encoder(flat: bool = True) -> nn.Sequential:
    return nn.Sequential(ConvBlock(3, 4, pool=True, padding=1), nn.Flatten() if flat else nn.Identity())


def assert_same_state(ones: list[nn.Module], others: list[nn.Module]) -> None:
    for one, other in zip(ones, others, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], msg=lambda text, name=name: f"{name}: {text}")


def test_linear() -> None:
    torch.manual_seed(0)
    models: list[nn.Module] = [nn.Sequential(encoder(), nn.Linear(64, 3)).double() for _ in range(TASKS)]
    images = torch.randn(STEPS, TASKS, 6, 3, 8, 8, dtype=torch.float64)
    labels = torch.randint(3, (STEPS, TASKS, 6))
    stacked = copy.deepcopy(models)
    losses = fine_tune_stacked(stacked, classification_loss, zip(images, labels, strict=True))
    assert losses.shape == (STEPS, TASKS)
    for task, model in enumerate(models):
        own = fine_tune_linear(model, list(zip(images[:, task], labels[:, task], strict=True)))
        torch.testing.assert_close(losses[:, task], torch.stack(own))
    assert_same_state(models, stacked)


@pytest.mark.parametrize("kind", ["proto", "matching", "relation", "gnn", "tpn"])
def test_episodes(kind: str) -> None:
    torch.manual_seed(0)
    make = {
        "proto": lambda: ProtoNet(encoder(), 2),
        "matching": lambda: MatchingNet(encoder(), 2, 64),
        "relation": lambda: RelationNet(encoder(flat=False), 2, 4, 4),
        "gnn": lambda: Gnn(encoder(), 2, 4, 64, 6, 4),
        "tpn": lambda: Tpn(encoder(flat=False), 2, 4, 4),
    }[kind]
    models: list[nn.Module] = [make().double() for _ in range(TASKS)]
    episodes = torch.randn(STEPS, TASKS, 4, 2 + 3, 3, 8, 8, dtype=torch.float64)
    stacked = copy.deepcopy(models)
    losses = fine_tune_stacked(stacked, episode_loss, ((part,) for part in episodes), adam)
    for task, model in enumerate(models):
        own = fine_tune_episodes(model, list(episodes[:, task]))  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(losses[:, task], torch.stack(own))
    assert_same_state(models, stacked)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="models: expected at least one"):
        fine_tune_stacked([], classification_loss, [])
    with pytest.raises(ValueError, match=r"expected tensors of 2 tasks, got \[3, 3\]"):
        models = [nn.Sequential(encoder(), nn.Linear(64, 3)) for _ in range(2)]
        fine_tune_stacked(models, classification_loss, [(torch.zeros(3, 2, 3, 8, 8), torch.zeros(3, 2))])
