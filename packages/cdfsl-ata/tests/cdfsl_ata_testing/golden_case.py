"""What the checks of golden vectors share: a case's arrays, and networks loaded from their recipes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdfsl_ata.encoders import ResidualBlock
from cdfsl_ata.gnn import Gnn
from cdfsl_ata.learners import Learner, MatchingNet, ProtoNet, RelationNet
from cdfsl_ata_testing.golden_file import GoldenError, require

RTOL = 1e-7
ASCENT_RTOL = 1e-6


class Case:
    """Arrays of one case, every one of which has to be looked at."""

    def __init__(self, name: str, arrays: dict[str, np.ndarray], rtol: float = RTOL) -> None:
        self.name, self.arrays, self.taken, self.rtol = name, arrays, set[str](), rtol

    def raw(self, key: str) -> np.ndarray:
        require(key in self.arrays, f"{self.name}: documented array {key!r} is missing")
        self.taken.add(key)
        return self.arrays[key]

    def tensor(self, key: str) -> Tensor:
        value = self.raw(key)
        require(value.dtype == np.float64, f"{self.name}/{key}: dtype {value.dtype}")
        require(bool(np.isfinite(value).all()), f"{self.name}/{key}: not finite")
        return torch.from_numpy(value.copy())

    def text(self, key: str) -> str:
        return str(self.raw(key))

    def numbers(self, key: str) -> list[Any]:
        return self.raw(key).tolist()

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): self.tensor(key) for key in self.arrays if key.startswith(prefix)}

    def close(self, key: str, ours: Tensor, *, atol: float = 1e-9) -> None:
        theirs = self.tensor(key)
        require(theirs.shape == ours.shape, f"{self.name}/{key}: shape {list(theirs.shape)}, ours {list(ours.shape)}")
        excess = (theirs - ours.detach()).abs() - atol - self.rtol * theirs.abs()
        require(theirs.numel() == 0 or float(excess.max()) <= 0, f"{self.name}/{key}: over by {excess.max():.3g}")

    def finish(self) -> None:
        extra = sorted(set(self.arrays) - self.taken)
        require(not extra, f"{self.name}: undocumented arrays {extra[:5]}")


def recipe(case: Case, prefix: str = "") -> dict[str, Tensor]:
    """Weights that are told by seeds."""
    names, shapes = case.numbers(f"{prefix}rec_names"), case.numbers(f"{prefix}rec_shapes")
    seeds, scales = case.numbers(f"{prefix}rec_seeds"), case.numbers(f"{prefix}rec_scale")
    offsets, absolute = case.numbers(f"{prefix}rec_offset"), case.numbers(f"{prefix}rec_abs")
    state = {}
    for name, shape, seed, scale, offset, magnitude in zip(
        names, shapes, seeds, scales, offsets, absolute, strict=True
    ):
        z = np.random.RandomState(seed).standard_normal([int(size) for size in shape.split(",")])
        state[name] = torch.from_numpy((np.abs(z) if magnitude else z) * scale + offset)
    return state


def recipe_input(case: Case, *shape: int) -> Tensor:
    values = np.random.RandomState(int(case.raw("x_seed"))).standard_normal(shape) * float(case.raw("x_scale"))
    return torch.from_numpy(np.abs(values) if int(case.raw("x_abs")) else values)


def load(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """All weights and statistics from `state`, in float64."""
    model = model.double()
    missing, unknown = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith(("num_batches_tracked", "gamma", "beta"))]
    require(not missing and not unknown, f"missing {missing[:3]}, unknown {unknown[:3]}")
    return model


def small_encoder(channels: int, *, pooled: bool) -> nn.Module:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
            block = ResidualBlock(channels, channels + 1, 2)
            self.trunk = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), block)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.trunk(x)
            return maps.mean(dim=(2, 3)) if pooled else maps

    return Encoder()


def small_learner(head: str, way: int, shots: int, channels: int, size: int) -> Learner:
    encoder = small_encoder(channels, pooled=head != "relation")
    if head == "proto":
        return ProtoNet(encoder, shots)
    if head == "relation":
        return RelationNet(encoder, shots, channels + 1, (size + 1) // 2)
    if head == "gnn":
        return Gnn(encoder, shots, way, channels + 1, 4, 6)
    if head == "matching":
        return MatchingNet(encoder, shots, channels + 1)
    raise GoldenError(f"head {head!r} is not documented")


def gradients(case: Case, model: nn.Module, prefix: str = "g/") -> None:
    """All parameters' gradients; none may be untold."""
    told = {key.removeprefix(prefix) for key in case.arrays if key.startswith(prefix)}
    own = {name: value for name, value in model.named_parameters() if value.grad is not None}
    require(told == set(own), f"{case.name}: gradients {sorted(told ^ set(own))[:3]}")
    for name, parameter in own.items():
        assert parameter.grad is not None
        case.close(prefix + name, parameter.grad)


def check_head(case: Case, learner: Learner, scores_key: str = "scores") -> Tensor:
    x = case.tensor("x").requires_grad_()
    learner.train()
    scores = learner.scores(x)
    loss = learner.loss(scores)
    loss.backward()
    assert x.grad is not None
    case.close(scores_key, scores)
    case.close("loss", loss)
    case.close("grad_x", x.grad)
    if any(key.startswith("g/") for key in case.arrays):
        gradients(case, learner)
    return x.detach()
