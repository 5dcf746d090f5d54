"""Information of jointly Gaussian views, task and representation in closed form, in nats (section 8).

Differential entropies by log-determinants: H(x) = 1/2 ln det(2 pi e C). Representations are z = W v1 + sigma eps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

ALPHA = {"uniform": 1 / 12, "laplace": 1 / (2 * math.e**2), "gaussian": 1 / (2 * math.pi * math.e)}
"""Theorem 3: variance of a distribution of this kind is alpha exp(2 H)."""

RANK_TOLERANCE = 1e-10


def least_squared_error(entropy: float, kind: Literal["uniform", "laplace", "gaussian"] = "gaussian") -> float:
    """alpha exp(2 H(T | z)): the least expected squared error in predicting T (Theorem 3).

    Exact if the error has that distribution whatever z is; a lower bound if its entropy varies with z (Jensen).

    Raises:
        ValueError: another kind.
    """
    if kind not in ALPHA:
        raise ValueError(f"kind: expected one of {', '.join(ALPHA)}, got {kind!r}")
    return ALPHA[kind] * math.exp(2 * entropy)


@dataclass(frozen=True, eq=False)
class JointGaussian:
    """Gaussian variables with zero mean.

    Attributes:
        covariance: of all components [n, n], float64.
        parts: which components belong to a variable, by name.
    """

    covariance: np.ndarray
    parts: Mapping[str, range]

    def __post_init__(self) -> None:
        n = len(self.covariance)
        if self.covariance.shape != (n, n) or not np.allclose(self.covariance, self.covariance.T):
            raise ValueError(f"covariance: expected a symmetric [n, n], got {list(self.covariance.shape)}")
        if sorted(index for part in self.parts.values() for index in part) != list(range(n)):
            raise ValueError(f"parts: expected each of {n} components in one variable, got {dict(self.parts)}")

    def block(self, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
        """Covariances between some variables and others."""
        return self.covariance[np.ix_(self._indices(rows), self._indices(columns))]

    def _indices(self, names: Sequence[str]) -> list[int]:
        if unknown := sorted(set(names) - set(self.parts)):
            raise ValueError(f"variables: expected some of {', '.join(self.parts)}, got {', '.join(unknown)}")
        return [index for name in names for index in self.parts[name]]

    def entropy(self, *names: str, given: Sequence[str] = ()) -> float:
        """H(names | given), differential.

        Raises:
            ValueError: an unknown variable; or some component is a linear function of the others (H is -infinity).
        """
        covariance = self.conditional_covariance(names, given)
        sign, log_det = np.linalg.slogdet(covariance)
        if sign <= 0:
            raise ValueError(f"{', '.join(names)}: expected a regular covariance; add noise to the representation")
        return 0.5 * (len(covariance) * math.log(2 * math.pi * math.e) + float(log_det))

    def conditional_covariance(self, names: Sequence[str], given: Sequence[str] = ()) -> np.ndarray:
        """C_aa - C_ab C_bb^-1 C_ba, the covariance of the error of the best prediction of a from b."""
        covariance = self.block(names, names)
        if not given:
            return covariance
        return covariance - self.block(names, given) @ np.linalg.solve(
            self.block(given, given), self.block(given, names)
        )

    def mutual_information(self, a: str, b: str, given: Sequence[str] = ()) -> float:
        """I(a; b | given)."""
        return self.entropy(a, given=given) - self.entropy(a, given=[b, *given])

    def co_information(self, a: str, b: str, c: str) -> float:
        """I(a; b; c) = I(a; b) - I(a; b | c)."""
        return self.mutual_information(a, b) - self.mutual_information(a, b, given=[c])

    def with_representation(self, weight: np.ndarray, sigma: float = 0.0, name: str = "z") -> JointGaussian:
        """The same with z = W v1 + sigma eps.

        Args:
            weight: W [dim, size of v1]; of full row rank, where there is no noise.
            sigma: standard deviation of the noise.
            name: of the new variable.

        Raises:
            ValueError: W does not fit v1.
        """
        if weight.ndim != 2 or weight.shape[1] != len(self.parts["v1"]):
            raise ValueError(f"weight: expected [dim, {len(self.parts['v1'])}], got {list(weight.shape)}")
        n, dim = len(self.covariance), len(weight)
        cross = weight @ self.covariance[self._indices(["v1"])]
        own = weight @ self.block(["v1"], ["v1"]) @ weight.T + sigma**2 * np.eye(dim)
        covariance = np.block([[self.covariance, cross.T], [cross, own]])
        return JointGaussian(covariance, {**self.parts, name: range(n, n + dim)})

    def minimal_sufficient(self) -> np.ndarray:
        """W of zmin: an orthonormal basis of what v1 tells of v2, the rows of E[v2 | v1]; [rank, size of v1]."""
        prediction = np.linalg.solve(self.block(["v1"], ["v1"]), self.block(["v1"], ["v2"])).T
        _, values, basis = np.linalg.svd(prediction, full_matrices=False)
        return basis[values > RANK_TOLERANCE * max(values.max(), 1e-300)]


def shared_and_private(
    shared: int,
    private: int,
    *,
    noise: tuple[float, float],
    task_shared: Sequence[float],
    task_private: Sequence[float],
    task_noise: float,
) -> JointGaussian:
    """Views v1 = (s, n1) + noise and v2 = (s, n2) + noise, and a task T = a s + b n1 + noise of unit normal s, n1, n2.

    Args:
        shared, private: dimensions of s, and of n1 and n2.
        noise: standard deviations of the independent noise on every component of v1 and of v2. T depends on the views
            through v1 alone if v1 has none; zmin is a function of both views if neither has any.
        task_shared, task_private: a and b.
        task_noise: standard deviation of the noise on T.

    Raises:
        ValueError: a or b of another length.
    """
    if len(task_shared) != shared or len(task_private) != private:
        raise ValueError(
            f"task: expected {shared} and {private} weights, got {len(task_shared)} and {len(task_private)}"
        )
    view = shared + private
    # Components of (v1, v2, T) from sources (s, n1, n2, noise of v1, of v2, of T)
    mixing = np.zeros((2 * view + 1, shared + 2 * private + 2 * view + 1))
    mixing[:shared, :shared] = mixing[view : view + shared, :shared] = np.eye(shared)
    mixing[shared:view, shared : shared + private] = np.eye(private)
    mixing[view + shared : 2 * view, shared + private : shared + 2 * private] = np.eye(private)
    mixing[: 2 * view, shared + 2 * private : -1] = np.diag(np.repeat(noise, view))
    mixing[-1, : shared + private] = [*task_shared, *task_private]
    mixing[-1, -1] = task_noise
    parts = {"v1": range(view), "v2": range(view, 2 * view), "T": range(2 * view, 2 * view + 1)}
    return JointGaussian(mixing @ mixing.T, parts)
