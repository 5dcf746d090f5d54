"""Networks for images [batch, 3, 4, 4] that train in milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """An encoder with three stages of 4, 6 and 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3 * 16)
        self.stages = nn.ModuleList(nn.Linear(48, width) for width in (4, 6, 8))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.norm(x.flatten(1))
        return [layer(x).tanh() for layer in self.stages]


class TinyDecoder(nn.Module):
    """8 features to an image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 48)

    def forward(self, h: Tensor) -> Tensor:
        return self.fc(h).view(-1, 3, 4, 4)


def views(count: int = 6) -> tuple[Tensor, ...]:
    """Two views of some images, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, count, 3, 4, 4, generator=generator).unbind(0)
