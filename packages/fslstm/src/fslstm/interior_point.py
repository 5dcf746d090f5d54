"""Primal-dual interior point for the Crammer-Singer dual, batched over episodes (section 4.5).

    minimise 1/2 tr(alpha^T H alpha) - sum_i alpha_{i,y_i}   s.t.  alpha_im <= C [m = y_i],   sum_m alpha_im = 0

with H = K + I. With slacks s = C OH - alpha and multipliers z >= 0 (bounds) and nu (row sums) the optimality system is

    H alpha - OH + z + nu 1^T = 0,    s z = 0,    alpha 1 = 0.

Given D_m = diag(z_m / s_m), a Newton step decouples over the classes m up to nu: N factorisations of H + D_m and one of
the Schur complement sum_m (H + D_m)^{-1}, all of order n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fslstm.dual import Adjoint, Solver, restricted

_STEP_TO_BOUNDARY = 0.995
_START_GAP = 0.3
_SMALLEST = 1e-8


@dataclass(frozen=True)
class SVMSolution:
    """alpha, slack s and multiplier z of the bounds, each `[B, n, way]`; row-sum multiplier nu `[B, n]`."""

    alpha: Tensor
    slack: Tensor
    multiplier: Tensor
    row_multiplier: Tensor


def crammer_singer(one_hot: Tensor, C: float, max_iter: int, active: Tensor | None = None) -> Solver:
    """Solver of the Crammer-Singer dual for H: coefficients alpha `[B, n, way]`.

    Args:
        one_hot: labels `[B, n, way]`, zero in padded rows.
        C: upper bound of the coefficient of a row's own class.
        max_iter: Newton steps; episodes that have converged stand still.
        active: `[B, n]` bool, True for real rows; the others get alpha = 0.
    """

    def solver(system: Tensor) -> tuple[Tensor, Adjoint]:
        hessian = system if active is None else restricted(system, active)
        solution = solve_crammer_singer(hessian, one_hot, C, max_iter, active)
        return solution.alpha, adjoint_of(hessian, solution, active)

    return solver


def solve_crammer_singer(
    hessian: Tensor, one_hot: Tensor, C: float, max_iter: int, active: Tensor | None = None
) -> SVMSolution:
    """Mehrotra's predictor-corrector; never waits for the device.

    Args:
        hessian: H = K + I `[B, n, n]`, positive definite; padded rows are rows of the identity.
        one_hot, C, max_iter, active: as in `crammer_singer`.
    """
    # Class-first layout [B, way, n] inside: one Hessian product for all classes is a plain matrix product
    target = one_hot.mT
    upper = C * target if active is None else torch.where(active[:, None], C * target, 1.0)
    # [B, 1, 1]: mean squared length of a row
    length = hessian.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    # Coefficients are about 1 / length where rows are independent and about 1 where they are not: start in between
    state = _interior_point(hessian, target, upper, length.rsqrt().clamp_max(C))
    tolerance = _gap_tolerance(hessian.dtype) * (1 / length).clamp_max(C)
    for _ in range(max_iter):
        running = _gap(state) > tolerance
        # Looking is free on the CPU only
        if hessian.device.type == "cpu" and not bool(running.any()):
            break
        state = _newton_step(hessian, target, state, running)
    alpha, slack, multiplier, nu = state
    return SVMSolution(alpha.mT, slack.mT, multiplier.mT, nu)


def adjoint_of(hessian: Tensor, solution: SVMSolution, active: Tensor | None = None) -> Adjoint:
    """Implicit derivative of alpha at the solution: one more factorisation, made when the backward pass asks for it.

    Returns the map from d loss / d alpha to Lam, both `[B, n, way]`, with (H + D_m) Lam_m + kappa 1 = the right-hand
    side's column m and Lam 1 = 0, so that d loss / d H = -Lam alpha^T.
    """
    ratio = (solution.multiplier.clamp_min(_SMALLEST) / solution.slack.clamp_min(_SMALLEST)).mT

    def adjoint(right: Tensor) -> Tensor:
        inverse, schur = _factorise(hessian, ratio)
        wanted = right.mT if active is None else right.mT * active[:, None]
        lam, _ = _solve(inverse, schur, wanted, torch.zeros_like(wanted[:, 0]))
        return lam.mT

    return adjoint


_State = tuple[Tensor, Tensor, Tensor, Tensor]


def _interior_point(hessian: Tensor, target: Tensor, upper: Tensor, size: Tensor) -> _State:
    """alpha, s, z `[B, way, n]` and nu `[B, n]` with s, z > 0, zero row sums and one product s z for all entries."""
    # Half the size for the own class, spread evenly over the classes with a minus sign
    alpha = size / 2 * (target - target.sum(dim=1, keepdim=True) / target.shape[1])
    slack = upper - alpha
    multiplier = _START_GAP * size / slack
    return alpha, slack, multiplier, (target - alpha @ hessian - multiplier).mean(dim=1)


def _gap_tolerance(dtype: torch.dtype) -> float:
    return 1e-15 if dtype == torch.float64 else 1e-10


def _gap(state: _State) -> Tensor:
    """Mean complementarity s z, `[B, 1, 1]`."""
    return (state[1] * state[2]).mean(dim=(1, 2), keepdim=True)


def _newton_step(hessian: Tensor, target: Tensor, state: _State, running: Tensor) -> _State:
    alpha, slack, multiplier, nu = state
    inverse, schur = _factorise(hessian, multiplier / slack)
    dual_residual = alpha @ hessian - target + multiplier + nu[:, None]
    row_sums = alpha.sum(dim=1)

    def direction(complementarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d_alpha, d_nu = _solve(inverse, schur, complementarity / slack - dual_residual, row_sums)
        return d_alpha, (multiplier * d_alpha - complementarity) / slack, d_nu

    product = slack * multiplier
    d_alpha, d_multiplier, _ = direction(product)
    length = _step_length(slack, -d_alpha, multiplier, d_multiplier)
    gap = product.mean(dim=(1, 2), keepdim=True)
    gap_ahead = ((slack - length * d_alpha) * (multiplier + length * d_multiplier)).mean(dim=(1, 2), keepdim=True)
    centring = (gap_ahead / gap) ** 3
    d_alpha, d_multiplier, d_nu = direction(product - d_alpha * d_multiplier - centring * gap)
    length = _STEP_TO_BOUNDARY * _step_length(slack, -d_alpha, multiplier, d_multiplier)
    # A step that rounding has spoilt is not taken: the episode has reached the precision of its dtype
    length = length.where(running & torch.isfinite(length), 0.0)
    return (
        alpha + length * d_alpha,
        slack - length * d_alpha,
        multiplier + length * d_multiplier,
        nu + length[:, 0] * d_nu,
    )


def _factorise(hessian: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """(H + D_m)^{-1} `[B, way, n, n]` and the Cholesky factor of their sum over m `[B, n, n]`."""
    factor, _ = torch.linalg.cholesky_ex(hessian[:, None] + torch.diag_embed(ratio))
    inverse = torch.cholesky_inverse(factor)
    return inverse, torch.linalg.cholesky_ex(inverse.sum(dim=1))[0]


def _solve(inverse: Tensor, schur: Tensor, right: Tensor, row_sums: Tensor) -> tuple[Tensor, Tensor]:
    """x `[B, way, n]` and nu `[B, n]` with (H + D_m) x_m + nu = right_m and sum_m x_m = -row_sums."""
    free = (inverse @ right[..., None])[..., 0]
    nu = torch.cholesky_solve((free.sum(dim=1) + row_sums)[..., None], schur)
    return free - (inverse @ nu[:, None])[..., 0], nu[..., 0]


def _step_length(slack: Tensor, d_slack: Tensor, multiplier: Tensor, d_multiplier: Tensor) -> Tensor:
    """Largest step in (0, 1] that keeps slack and multiplier nonnegative, `[B, 1, 1]`."""
    # max over entries of the relative decrease; a step of 1 / that reaches the boundary
    decrease = torch.maximum(-d_slack / slack, -d_multiplier / multiplier).amax(dim=(1, 2), keepdim=True)
    return 1 / decrease.clamp_min(1.0)
