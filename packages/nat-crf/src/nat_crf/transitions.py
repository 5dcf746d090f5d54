"""Low-rank transition scores, static and dynamic (Sections 4.2 and 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

_DYNAMIC_SCALE = 0.1


class Transitions(NamedTuple):
    """Transition scores between the candidates of adjacent positions, as factors.

        t_i(u, v) = E1[u]^T M_dyn^i E2[v],  static: M_dyn = I

    Neither E1 E2^T is ever formed, nor, position by position, more than one block of it.

    Attributes:
        labels: candidates `[batch, time, k]`.
        first, second: E1 and E2 `[vocab, rank]`.
        dynamic: M_dyn `[batch, time - 1, rank, rank]`, or None for static transitions.
    """

    labels: Tensor
    first: Tensor
    second: Tensor
    dynamic: Tensor | None = None

    def factors(self, step: int) -> tuple[Tensor, Tensor]:
        """E1[A] M_dyn and E2[B] `[batch, k, rank]` of the edge from position `step` to the next."""
        return self.left_factor(step), rows(self.second, self.labels[:, step + 1])

    def left_factor(self, step: int) -> Tensor:
        """E1[A] M_dyn `[batch, k, rank]` alone."""
        left = rows(self.first, self.labels[:, step])
        return left if self.dynamic is None else left @ self.dynamic[:, step]

    def all_factors(self) -> tuple[Tensor, Tensor]:
        """E1[A] M_dyn and E2[B] `[batch, time - 1, k, rank]` of all edges, differentiable."""
        left = rows(self.first, self.labels[:, :-1])
        if self.dynamic is not None:
            left = left @ self.dynamic
        return left, rows(self.second, self.labels[:, 1:])


def rows(matrix: Tensor, indices: Tensor) -> Tensor:
    """`matrix[indices]`, `[*indices.shape, rank]`, by the kernel with the faster or the reproducible gradient."""
    if matrix.device.type == "cpu":
        # About twice as fast as that of an embedding
        return matrix.index_select(0, indices.flatten()).view(*indices.shape, matrix.shape[1])
    return embedding(indices, matrix)


class DynamicTransition(nn.Sequential):
    """M_dyn^i = f([h_{i-1}; h_i]), a two-layer feed-forward network from two adjacent decoder states to r x r.

    The second layer starts at a tenth of its usual size with bias vec(I), so that training starts at about the static
    model.

    Args:
        state_dim: d, size of a decoder state.
        rank: r.
        hidden_dim: width of the hidden layer; `state_dim` by default.
    """

    def __init__(self, state_dim: int, rank: int, hidden_dim: int | None = None) -> None:
        hidden = state_dim if hidden_dim is None else hidden_dim
        output = nn.Linear(hidden, rank * rank)
        super().__init__(nn.Linear(2 * state_dim, hidden), nn.ReLU(), output)
        self.rank = rank
        with torch.no_grad():
            output.weight.mul_(_DYNAMIC_SCALE)
            output.bias.copy_(torch.eye(rank).flatten())

    def forward(self, input: Tensor) -> Tensor:
        """M_dyn `[batch, time - 1, rank, rank]` from decoder states `[batch, time, state_dim]`."""
        pairs = torch.cat([input[:, :-1], input[:, 1:]], dim=-1)
        return super().forward(pairs).unflatten(-1, (self.rank, self.rank))
