"""How flat the minima are: noise on the tuned weights, and the loss over a plane around them.

The published code has neither; the definitions are ours. Quantising weights to b bits after training is noise of
relative strength sqrt(E(z - Q(z))^2), 0.615, 0.359 and 0.109 at 1, 2 and 4 bits, if its correlation with the weights is
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from bi_adapter.layers import QuantLinear

Model = TypeVar("Model", bound=nn.Module)

PTQ_STRENGTH: Mapping[int, float] = {1: 0.378607**0.5, 2: 0.129045**0.5, 4: 0.011806**0.5}
"""Bits -> relative strength of the error of the quantiser for normal weights."""


def noisy(weight: Tensor, strength: float, generator: torch.Generator, start: Tensor | None = None) -> Tensor:
    """W + lambda std(W) N(0, 1), of the shape of W.

    Args:
        weight: any shape, two entries or more.
        strength: lambda, relative to the spread of the weights.
        generator: on the CPU.
        start: what the weights were before tuning: the noise is then relative to the spread of W - W_0.
    """
    spread = (weight if start is None else weight - start).std()
    return weight + strength * spread * torch.randn(weight.shape, generator=generator).to(weight)


def random_direction(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction of the norm of W, of the shape of W."""
    direction = torch.randn(weight.shape, generator=generator).to(weight)
    return direction * (weight.norm() / direction.norm())


def tuned_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained matrices of the transformer blocks, by name: those of the adapters, or the blocks' own.

    Raises:
        ValueError: there are none.
    """
    found = {
        name: value
        for name, value in model.named_parameters()
        if value.requires_grad and value.ndim == 2 and "blocks" in name.split(".")
    }
    if not found:
        raise ValueError("model: expected trained matrices in its blocks, found none")
    return found


@torch.no_grad()
def dequantise(model: Model) -> Model:
    """Put the effective weights in the place of the latents, as plain floats, so that noise acts on what is used."""
    for module in model.modules():
        if isinstance(module, QuantLinear) and module.bits < 16:
            training = module.training
            module.eval()
            module.weight.copy_(module.effective_weight())
            module.train(training)
            module.bits, module.step = 32, None
    return model


@contextmanager
def replaced(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Other values in some parameters inside the block; what was there comes back after it."""
    before = {name: parameters[name].detach().clone() for name in values}
    try:
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)


def mean_under_noise(
    measure: Callable[[], Tensor],
    parameters: Mapping[str, nn.Parameter],
    strength: float,
    *,
    draws: int,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Mean of a measurement over several draws of noise, float64, of the measurement's shape.

    Args:
        measure: such as the hits [n] of the model that the parameters belong to.
        parameters: what the noise is put on, one matrix at a time.
        strength: see `noisy`; with 0 one draw is enough and done.
        draws: how many; draw i depends on (seed, i) and the order of names only.
        seed: see there.
        start: the parameters before tuning, for noise on the update.

    Raises:
        ValueError: `strength` below 0 or no draws.
    """
    if strength < 0 or draws < 1:
        raise ValueError(f"expected strength >= 0 and draws >= 1, got {strength} and {draws}")
    found = []
    for draw in range(draws if strength else 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + draw)
        values = {
            name: noisy(value.detach(), strength, generator, None if start is None else start[name].to(value))
            for name, value in sorted(parameters.items())
        }
        with replaced(parameters, values if strength else {}):
            found.append(measure().double())
    return torch.stack(found).mean(0)


def loss_surface(
    loss: Callable[[], float], parameters: Mapping[str, nn.Parameter], coordinates: Sequence[float], *, seed: int
) -> Tensor:
    """The loss at W + a D1 + b D2 for all a and b in `coordinates`, float64 [a, b].

    Args:
        loss: of the model that the parameters belong to.
        parameters: W; each matrix has its own two directions, random, of its own norm.
        coordinates: such as 21 from -1 to 1.
        seed: of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    planes = {
        name: (value.detach().clone(), *(random_direction(value.detach(), generator) for _ in range(2)))
        for name, value in sorted(parameters.items())
    }
    surface = torch.empty(len(coordinates), len(coordinates), dtype=torch.float64)
    for i, a in enumerate(coordinates):
        for j, b in enumerate(coordinates):
            values = {name: value + a * one + b * other for name, (value, one, other) in planes.items()}
            with replaced(parameters, values):
                surface[i, j] = loss()
    return surface
