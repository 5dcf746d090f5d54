"""The paper's statements about small tables p[v1, v2, T], checked by enumeration, and where they fail (section 8).

A representation is a partition of the values of v1: one label each. All quantities are exact and in nats.

What holds of which tables:

- Theorem 2's bound of the Bayes error by H(T | z), the order of Bayes errors, and I(v1; T) >= I(z; T): always.
- Lemma 1, and with it Theorem 1: only if T depends on the views through v1 alone (`depends_through_v1`). The paper
  does not say so; `exclusive_or` is the counter-example.
- Theorem 1's first equality, I(v1; T) = I(zmin; T) + I(v1; T | v2): only if zmin is a function of v2, too
  (`is_shared`). Where sharing is noisy, as in `noisy_shared`, less is lost: I(v1; T | v2) - I(zmin; T | v2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from infocl.theory import (
    bayes_error,
    co_information,
    error_bound,
    joint_entropy,
    minimal_sufficient,
    mutual_information,
    with_representation,
)

TOLERANCE = 1e-9
_V1, _V2, _T = 0, 1, 2
_Z, _ZV2, _ZT = 0, 2, 3
"""Axes of p[v1, v2, T] and of p[z, v1, v2, T]."""


def partitions(count: int) -> Iterator[list[int]]:
    """All partitions of `count` values, each once: labels in order of first appearance. Their number is Bell's."""

    def extend(labels: list[int], used: int) -> Iterator[list[int]]:
        if len(labels) == count:
            yield labels
            return
        for label in range(used + 1):
            yield from extend([*labels, label], max(used, label + 1))

    yield from extend([], 0)


def is_sufficient(table: np.ndarray, partition: Sequence[int]) -> bool:
    """Whether I(z; v2) = I(v1; v2): z has all that the views share."""
    shared = mutual_information(table, _V1, _V2)
    return bool(abs(mutual_information(with_representation(table, partition), _Z, _ZV2) - shared) <= TOLERANCE)


def is_shared(table: np.ndarray) -> bool:
    """Whether I(zmin; v1 | v2) = 0: the minimal sufficient representation is a function of either view."""
    joint = with_representation(table, minimal_sufficient(table))
    return bool(mutual_information(joint, _Z, 1, given=_ZV2) <= TOLERANCE)


def depends_through_v1(table: np.ndarray) -> bool:
    """Whether I(T; v2 | v1) = 0."""
    return bool(mutual_information(table, _T, _V2, given=_V1) <= TOLERANCE)


def lemma_1(table: np.ndarray, partition: Sequence[int]) -> float:
    """I(z; v2; T) - I(v1; v2; T) of a sufficient z, 0 according to Lemma 1."""
    return co_information(with_representation(table, partition), _Z, _ZV2, _ZT) - co_information(table, _V1, _V2, _T)


def lemma_2(table: np.ndarray, partition: Sequence[int]) -> float:
    """H(T | z) - [H(T) - I(z; T | v2) - I(z; v2; T)], 0 for every representation."""
    z = with_representation(table, partition)
    known = mutual_information(z, _Z, _ZT, given=_ZV2) + co_information(z, _Z, _ZV2, _ZT)
    return conditional_entropy(z) - (joint_entropy(table, [_T]) - known)


def conditional_entropy(joint: np.ndarray) -> float:
    """H(T | z) of a table p[z, v1, v2, T]."""
    return joint_entropy(joint, [_Z, _ZT]) - joint_entropy(joint, [_Z])


class Theorem1(NamedTuple):
    """Both sides of each relation of Theorem 1, for a sufficient representation.

    Attributes:
        v1: I(v1; T).
        minimal_plus_private: I(zmin; T) + I(v1; T | v2), equal to `v1` according to the theorem.
        sufficient: I(zsuf; T).
        minimal_plus_gain: I(zmin; T) + I(zsuf; T | v2), equal to `sufficient` according to the theorem.
        minimal: I(zmin; T), the least of all.
        loss: I(v1; T) - I(zmin; T), what is lost by keeping only what is shared.
        corrected_loss: I(v1; T | v2) - I(zmin; T | v2), equal to `loss` wherever T depends on the views through v1.
    """

    v1: float
    minimal_plus_private: float
    sufficient: float
    minimal_plus_gain: float
    minimal: float
    loss: float
    corrected_loss: float


def theorem_1(table: np.ndarray, partition: Sequence[int]) -> Theorem1:
    """The quantities of Theorem 1.

    Args:
        table: p[v1, v2, T].
        partition: a sufficient representation of v1.

    Raises:
        ValueError: it is not sufficient.
    """
    if not is_sufficient(table, partition):
        raise ValueError(f"partition: expected a sufficient representation, got {list(partition)}")
    chosen, least = (with_representation(table, labels) for labels in (partition, minimal_sufficient(table)))
    v1, minimal = mutual_information(table, _V1, _T), mutual_information(least, _Z, _ZT)
    private = mutual_information(table, _V1, _T, given=_V2)
    return Theorem1(
        v1=v1,
        minimal_plus_private=minimal + private,
        sufficient=mutual_information(chosen, _Z, _ZT),
        minimal_plus_gain=minimal + mutual_information(chosen, _Z, _ZT, given=_ZV2),
        minimal=minimal,
        loss=v1 - minimal,
        corrected_loss=private - mutual_information(least, _Z, _ZT, given=_ZV2),
    )


class Theorem2(NamedTuple):
    """A Bayes error and its upper bounds, clipped to 0..1 - 1 / |T|.

    Attributes:
        error: the least error in guessing T from z.
        bound: 1 - exp(-H(T | z)); always holds.
        sufficient_bound: 1 - exp(-(H(T) - I(z; T | v2) - I(v1; v2; T))); the same where Lemma 1 holds.
        minimal_bound: 1 - exp(-(H(T) - I(v1; v2; T))), that of zmin where it is shared, and the largest there.
    """

    error: float
    bound: float
    sufficient_bound: float
    minimal_bound: float


def theorem_2(table: np.ndarray, partition: Sequence[int]) -> Theorem2:
    """The Bayes error of a representation and the bounds of Theorem 2."""
    z, classes = with_representation(table, partition), table.shape[_T]
    least = joint_entropy(table, [_T]) - co_information(table, _V1, _V2, _T)
    return Theorem2(
        error=bayes_error(z),
        bound=error_bound(conditional_entropy(z), classes),
        sufficient_bound=error_bound(least - mutual_information(z, _Z, _ZT, given=_ZV2), classes),
        minimal_bound=error_bound(least, classes),
    )


def structured(
    rng: np.random.Generator, shared: int = 3, private: int = 3, other: int = 2, tasks: int = 4
) -> np.ndarray:
    """A random table of the family in which both theorems are exact, p[v1, v2, T].

    v1 = (s, n1), v2 = (s, n2), n1 and n2 independent given s, T ~ p(T | s, n1); zmin = s.

    Args:
        rng: randomness.
        shared, private, other, tasks: numbers of values of s, n1, n2, T.
    """
    s = rng.dirichlet(np.ones(shared))
    n1, n2 = rng.dirichlet(np.ones(private), shared), rng.dirichlet(np.ones(other), shared)
    t = rng.dirichlet(np.ones(tasks), (shared, private))
    # p[s, n1, n2, T], then both views know s
    joint = np.einsum("s,si,sj,sit->sijt", s, n1, n2, t)
    table = np.zeros((shared, private, shared, other, tasks))
    table[np.arange(shared), :, np.arange(shared)] = joint
    return table.reshape(shared * private, shared * other, tasks)


def exclusive_or() -> np.ndarray:
    """The counter-example to Lemma 1: v1 = (s, a), v2 = (s, b), T = a xor b, of three fair independent bits.

    v1 alone tells nothing of T, I(v1; T) = 0, and with v2 everything, I(v1; T | v2) = ln 2. The theorem's first
    equality would need I(zmin; T) = -ln 2.
    """
    table = np.zeros((4, 4, 2))
    for s, a, b in np.ndindex(2, 2, 2):
        table[2 * s + a, 2 * s + b, a ^ b] = 1 / 8
    return table


def noisy_shared(error: float = 0.2, private: float = 0.9) -> np.ndarray:
    """The counter-example to Theorem 1's first equality: what is shared arrives in v2 with errors.

    v1 = (s, n) of two fair bits, v2 = s with probability 1 - `error`; T = s with probability `private` where n = 1, and
    a fair coin where n = 0. zmin = s is not a function of v2, so that v1 adds less to it than to v2.
    """
    table = np.zeros((4, 2, 2))
    for s, n, v2, t in np.ndindex(2, 2, 2, 2):
        known = (private if t == s else 1 - private) if n else 0.5
        table[2 * s + n, v2, t] = 0.25 * (1 - error if v2 == s else error) * known
    return table
