"""The cheaper inner loop moves the pixels as the plain one does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cdfsl_ata.augmentation import AdversarialTaskAugmenter
from cdfsl_ata.encoders import FeatureWiseTransform, SmallResNet
from cdfsl_ata.frozen_norms import FrozenNorms, frozen_norms
from cdfsl_ata.learners import Learner, ProtoNet, RelationNet


def learner(kind: str = "proto") -> Learner:
    torch.manual_seed(0)
    if kind == "relation":
        made: Learner = RelationNet(SmallResNet((4, 4, 8), flatten=False), 1, 8, 8)
    else:
        norm = FeatureWiseTransform if kind == "transform" else nn.BatchNorm2d
        made = ProtoNet(SmallResNet((4, 4, 8), last_norm=norm), 1)
    made = made.double().train()
    for _ in range(3):
        made(episode(1))  # running statistics and weights that are not those of the start
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def episode(seed: int = 0) -> Tensor:
    return torch.randn(3, 1 + 2, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["proto", "relation", "transform"])
@pytest.mark.parametrize("regulariser", [None, "euclid"])
def test_the_same_ascent(kind: str, regulariser: str | None) -> None:
    model = learner(kind)
    before = copy.deepcopy(model.state_dict())
    settings = {"steps": 3, "step_size": 0.01, "p_original": 1.0, "normalise": True, "regulariser": regulariser}
    ours, plain = (
        AdversarialTaskAugmenter(loss, **settings)(episode(), measure=True)  # pyright: ignore[reportArgumentType]
        for loss in (FrozenNorms(model), model)
    )
    torch.testing.assert_close(ours.images, plain.images)
    torch.testing.assert_close(ours.losses, plain.losses)
    torch.testing.assert_close(ours.loss_after, plain.loss_after)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


def test_weights_are_read_at_every_call() -> None:
    model = learner().eval()
    frozen, first = FrozenNorms(model), FrozenNorms(model)(episode())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    torch.testing.assert_close(frozen(episode()), model(episode()))
    assert not torch.allclose(frozen(episode()), first)


def test_one_dimension_without_weights_and_half_precision() -> None:
    layer, x = nn.BatchNorm1d(4, affine=False), torch.randn(8, 4)
    layer(3 * x + 1)
    layer.eval()
    expected = layer(x)
    with frozen_norms(layer):
        torch.testing.assert_close(layer(x), expected)
        assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_what_is_not_frozen() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    x = torch.randn(4, 3, 5, 5)
    for layer in (nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False).eval(), Doubled(3).eval()):
        expected = copy.deepcopy(layer)(x)
        with frozen_norms(layer):
            torch.testing.assert_close(layer(x), expected)


def test_restores_after_an_error() -> None:
    layer = nn.BatchNorm2d(3).eval()
    with pytest.raises(RuntimeError, match="no loss today"), frozen_norms(layer):
        raise RuntimeError("no loss today")
    assert "forward" not in vars(layer)
