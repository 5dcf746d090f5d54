"""Modules that look at an episode's unlabelled queries: inverse attention (section 5), pseudo support (section 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fslstm.heads import class_average, zero_padded
from fslstm.modules import Head
from fslstm.validation import check_episode, class_membership, in_full_precision

_COUNT_OFFSET = 1e-5


class InverseAttention(nn.Module):
    """Inverse Attention Module: moves each support row by attention of its class over the queries (section 5).

        a = softmax_over_queries(Qm(S) Km(Q)^T / sqrt(d)),   abar_c = mean of a over the rows of class c
        S'_i = LayerNorm(S_i + Dropout(Fc(abar_{y_i} Vm(Q))))

    Parameters have the names of the published checkpoints, so that those load as they are.

    Args:
        dim: feature size d.
        reduction: the hidden size of the four perceptrons is d // reduction.
        dropout: probability of the offset's dropout, drawn per row.
    """

    def __init__(self, dim: int, reduction: int, dropout: float = 0.5) -> None:
        super().__init__()
        if not 1 <= reduction <= dim:
            raise ValueError(f"reduction: expected 1..dim={dim}, got {reduction}")
        self.Q, self.K, self.V, self.fc = (_perceptron(dim, dim // reduction) for _ in range(4))
        self.layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None = None) -> Tensor:
        """Adjusted support `[B, n, d]` from `query [B, m, d]`, `support [B, n, d]`, `labels [B, n]`, `mask [B, n]`."""
        check_episode(query, support, labels, n_way, mask, validate=False)
        support = zero_padded(support, mask)
        # [B, way, m]
        average = class_average(labels, n_way, support.dtype, mask).mT @ self.attention(query, support)
        # [B, way, d]; one vector a class, expanded to rows before the dropout
        offset = self.fc(average @ self.V(query))
        rows = class_membership(labels, n_way, mask, support.dtype) @ offset
        return self.layer_norm(support + self.dropout(rows))

    def attention(self, query: Tensor, support: Tensor) -> Tensor:
        """Weights a `[B, n, m]` of the queries for each support row, before averaging over classes."""
        scores = self.Q(support) @ self.K(query).mT
        return torch.softmax(scores / support.shape[-1] ** 0.5, dim=-1)


def _perceptron(dim: int, hidden: int) -> nn.Sequential:
    """Linear -> ReLU -> Linear with Xavier-normal weights; biases keep the framework's default."""
    first, second = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
    nn.init.xavier_normal_(first.weight)
    nn.init.xavier_normal_(second.weight)
    return nn.Sequential(first, nn.ReLU(), second)


@dataclass(frozen=True)
class PseudoSupport:
    """What `pseudo_support` found.

    Attributes:
        logits: `[B, m, way]` with the final support set.
        round_logits: `[B, rounds, m, way]`, those the rounds' pseudo labels came from.
        weights: `[B, rounds, way, m]`, with which pseudo rows average the queries.
        support_labels: `[B, n + rows]` of the final support set.
        query: `[B, m, d]` as given.
    """

    logits: Tensor
    round_logits: Tensor
    weights: Tensor
    support_labels: Tensor
    query: Tensor

    @property
    def pseudo_labels(self) -> Tensor:
        """`[B, rounds, m]` int64."""
        return self.round_logits.argmax(dim=-1)

    @property
    def pseudo_prototypes(self) -> Tensor:
        """`[B, rounds, way, d]`: the rows appended in each round, R = W Q."""
        return self.weights @ self.query[:, None]


@torch.no_grad()
@in_full_precision
def pseudo_support(
    head: Head,
    query: Tensor,
    support: Tensor,
    labels: Tensor,
    n_way: int,
    *,
    mask: Tensor | None = None,
    rounds: int = 10,
    empty: str = "zero",
    threshold: float | None = None,
    soft: bool = False,
    accumulate: bool = True,
) -> PseudoSupport:
    """Pseudo Support Module (section 6) on kernel matrices: the loop's cost does not depend on the feature size.

    Each round labels the queries with the head, appends one row a class, the mean of the queries given that label,
    and refits. Batched over episodes; the loop does not wait for the device. No gradient.

    Args:
        head: a head with the linear kernel, such as `LSSVM()`, or a `ScaledHead`.
        query, support, labels, n_way, mask: as for the head.
        rounds: T; 0 is the inductive head.
        empty: what a class without queries contributes: `"zero"`, a zero row as published, or `"skip"`, no row.
        threshold: use only queries whose largest softmax probability reaches it; None uses all.
        soft: average with the softmax probabilities instead of hard labels.
        accumulate: keep earlier rounds' rows, as published, or replace them.

    Raises:
        ValueError: for a head without linear kernel, negative rounds, or an unknown `empty`.
    """
    _check_arguments(head, rounds, empty)
    check_episode(query, support, labels, n_way, mask, validate=head.validate)
    support = zero_padded(support, mask)
    inner = query @ query.mT
    room = _Room.of(query, support, labels, mask, n_way, rounds if accumulate else min(rounds, 1), empty == "skip")
    fitted = room.fitted(head, n_way, inner.diagonal(dim1=1, dim2=2), query.shape[-1])
    first = size = labels.shape[1]
    logits = fitted(size)
    round_logits, weights = [], []
    for _ in range(rounds):
        average, count = _averaging_weights(logits, threshold, soft)
        round_logits.append(logits)
        weights.append(average)
        used = count > 0 if empty == "skip" else None
        size = room.append(size if accumulate else first, average, inner, used)
        logits = fitted(size)
    batch, n_query = query.shape[:2]
    return PseudoSupport(
        logits,
        torch.stack(round_logits, 1) if rounds else logits.new_zeros(batch, 0, n_query, n_way),
        torch.stack(weights, 1) if rounds else logits.new_zeros(batch, 0, n_way, n_query),
        room.labels[:, :size],
        query,
    )


@dataclass(frozen=True)
class _Room:
    """Inner products of a support set that grows: room for N rows, filled in place, so that no round copies the last.

    Attributes:
        gram: `[B, N, N]` between support rows.
        cross: `[B, m, N]` between queries and support rows.
        labels: `[B, N]`.
        mask: `[B, N]`, or None where every row takes part.
    """

    gram: Tensor
    cross: Tensor
    labels: Tensor
    mask: Tensor | None

    @classmethod
    def of(
        cls, query: Tensor, support: Tensor, labels: Tensor, mask: Tensor | None, n_way: int, rounds: int, skip: bool
    ) -> _Room:
        """The support set `[B, n, d]` itself, with room for one row a class in each round."""
        batch, n = labels.shape
        more = n_way * rounds
        gram = support.new_empty(batch, n + more, n + more)
        cross = support.new_empty(batch, query.shape[1], n + more)
        torch.bmm(support, support.mT, out=gram[:, :n, :n])
        torch.bmm(query, support.mT, out=cross[:, :, :n])
        classes = torch.arange(n_way, device=labels.device, dtype=labels.dtype).repeat(rounds).expand(batch, more)
        if mask is not None or skip:
            mask = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
            mask = torch.cat([mask, mask.new_ones(batch, more)], 1)
        return cls(gram, cross, torch.cat([labels, classes], 1), mask)

    def append(self, size: int, average: Tensor, inner: Tensor, used: Tensor | None) -> int:
        """Put the rows R = W Q behind the first `size` rows and return how many there are then.

        Their inner products are W times those of the queries. `used [B, way]` says which take part; None for all.
        """
        end = size + average.shape[1]
        torch.bmm(inner, average.mT, out=self.cross[:, :, size:end])
        # [B, way, end]: with the old rows and among themselves
        rows = torch.bmm(average, self.cross[:, :, :end], out=self.gram[:, size:end, :end])
        self.gram[:, :size, size:end] = rows[:, :, :size].mT
        if self.mask is not None and used is not None:
            self.mask[:, size:end] = used
        return end

    def fitted(self, head: Head, n_way: int, query_norms: Tensor, dim: int) -> Callable[[int], Tensor]:
        """A function size -> logits `[B, m, way]` of the head fitted to the first `size` rows."""
        if self.mask is None:
            logits = head.on_first_rows(self.labels, n_way, query_norms=query_norms, dim=dim)
            return lambda size: logits(self.gram[:, :size, :size], self.cross[:, :, :size])
        mask = self.mask
        return lambda size: head.kernel_logits(
            self.gram[:, :size, :size],
            self.cross[:, :, :size],
            self.labels[:, :size],
            n_way,
            mask[:, :size],
            query_norms=query_norms,
            dim=dim,
        )


def _averaging_weights(logits: Tensor, threshold: float | None, soft: bool) -> tuple[Tensor, Tensor]:
    """W `[B, way, m]` that averages the queries of each pseudo class, and the number of those queries `[B, way]`."""
    if soft:
        belongs = logits.softmax(dim=-1)
    else:
        belongs = class_membership(logits.argmax(dim=-1), logits.shape[-1], None, logits.dtype)
    if threshold is not None:
        belongs = belongs * (logits.softmax(dim=-1).amax(dim=-1, keepdim=True) >= threshold)
    count = belongs.sum(dim=1)
    return belongs.mT / (count[..., None] + _COUNT_OFFSET), count


def _check_arguments(head: Head, rounds: int, empty: str) -> None:
    if not isinstance(head, Head) or head.kernel != "linear":
        kernel = getattr(head, "kernel", type(head).__name__)
        raise ValueError(f"head: expected a head module with the linear kernel, such as LSSVM(), got {kernel!r}")
    if rounds < 0:
        raise ValueError(f"rounds: expected 0 or more, got {rounds}")
    if empty not in ("zero", "skip"):
        raise ValueError(f"empty: expected 'zero' or 'skip', got {empty!r}")


def classifier(
    head: Head, attention: nn.Module | None = None, rounds: int = 0
) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    """A head behind the Inverse Attention Module (if any), within `rounds` of the Pseudo Support Module (section 3).

    Without rounds gradients pass; with them there are none, and the head needs the linear kernel.
    """

    def logits(query: Tensor, support: Tensor, support_labels: Tensor, n_way: int) -> Tensor:
        if attention is not None:
            support = attention(query, support, support_labels, n_way)
        if rounds:
            return pseudo_support(head, query, support, support_labels, n_way, rounds=rounds).logits
        return head(query, support, support_labels, n_way)

    return logits
