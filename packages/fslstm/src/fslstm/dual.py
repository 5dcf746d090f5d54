"""Base learners as one regularised kernel system with a rank-`way` backward pass.

LS-SVM, ridge regression and the Crammer-Singer SVM all give

    logits = (Kq + bias 1 1^T) beta decode,      beta = solve(K + bias J + ridge I)

with `K = S S^T`, `Kq = Q S^T` (section 4.2). They differ in `ridge`, `bias` and in what "solve" means. The backward
pass (section 4.3) needs one more solve with the factors of the forward pass; nothing is unrolled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sextet.cuda import float32_island

Coefficient = float | Tensor
Adjoint = Callable[[Tensor], Tensor]
Solver = Callable[[Tensor], tuple[Tensor, Adjoint]]
"""system `[B, n, n]` -> beta `[B, n, L]` and its adjoint, a map from d loss / d beta to Lam, both `[B, n, L]`, such
that d loss / d system = -Lam beta^T."""


@dataclass(frozen=True)
class DualProblem:
    """A head with its labels: everything but the features.

    Attributes:
        ridge: added to the kernel's diagonal: a number, or a tensor with one value or with one value an episode.
        bias: coefficient of the all-ones matrix, same forms as `ridge`.
        solver: what turns the regularised kernel matrix into coefficients, and back in the backward pass.
        decode: `[L, way]`, from the L binary outputs to logits; None where they are the logits already.
        targets: `[B, n, way]` where the solver is one linear system with these right-hand sides (the primal form
            is then available), else None.
    """

    ridge: Coefficient
    bias: Coefficient
    solver: Solver
    decode: Tensor | None = None
    targets: Tensor | None = None


def per_episode(value: Coefficient, batch: int, dtype: torch.dtype) -> Coefficient:
    """Shape a coefficient so that it broadcasts over `[B, n, n]`: a tensor becomes `[B, 1, 1]`, a number stays."""
    if not isinstance(value, Tensor):
        return value
    if value.numel() not in (1, batch):
        raise ValueError(f"ridge/bias: expected one value or one an episode ({batch}), got {list(value.shape)}")
    return value.to(dtype).reshape(-1, 1, 1).expand(batch, 1, 1)


def regularised(gram: Tensor, ridge: Coefficient, bias: Coefficient) -> Tensor:
    """A = K + bias J + ridge I, `[B, n, n]` (section 4.2), for coefficients shaped by `per_episode`."""
    system = gram + bias
    system.diagonal(dim1=-2, dim2=-1).add_(ridge[..., 0] if isinstance(ridge, Tensor) else ridge)
    return system


def logits_from_features(query: Tensor, support: Tensor, problem: DualProblem) -> Tensor:
    """Logits `[B, m, way]` of queries `[B, m, d]` for the linear kernel; gradients by section 4.3."""
    if problem.targets is not None and support.shape[1] > support.shape[2]:
        weight, offset = _primal_weights(support, problem, problem.targets)
        return query @ weight.mT + offset
    ridge, bias = _coefficients_of(problem, support)
    outputs: Tensor = _FeatureMachine.apply(query, support, ridge, bias, problem.solver)
    return outputs if problem.decode is None else outputs @ problem.decode


def logits_from_gram(gram: Tensor, cross: Tensor, problem: DualProblem) -> Tensor:
    """Logits `[B, m, way]` from any kernel's support matrix `[B, n, n]` and query rows `[B, m, n]`."""
    coefficients, offset = dual_coefficients(gram, problem)
    return cross @ coefficients + offset


def dual_coefficients(gram: Tensor, problem: DualProblem) -> tuple[Tensor, Tensor]:
    """Coefficients `[B, n, way]` and offset `[B, 1, way]` with logits = Kq coefficients + offset."""
    ridge, bias = _coefficients_of(problem, gram)
    beta: Tensor = _Coefficients.apply(regularised(gram, ridge, bias), problem.solver)
    if problem.decode is not None:
        beta = beta @ problem.decode
    return beta, bias * beta.sum(dim=1, keepdim=True)


def first_rows_logits(problem: DualProblem, targets: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """`logits_from_gram` of one linear system on the first n of the N rows it was posed for; no gradient is saved.

    Args:
        problem: a problem without mask whose solver is `linear_system(targets)`.
        targets: its right-hand sides `[B, N, way]`.
        gram, cross: `[B, n, n]` and `[B, m, n]`.
    """
    ridge, bias = _coefficients_of(problem, gram)
    factor = cholesky(regularised(gram, ridge, bias))
    beta = torch.cholesky_solve(targets[:, : gram.shape[1]], factor)
    return torch.baddbmm(bias * beta.sum(dim=1, keepdim=True), cross, beta)


def linear_weights(support: Tensor, problem: DualProblem) -> tuple[Tensor, Tensor]:
    """The fitted head as a linear layer, logits = Q weight^T + offset: weight `[B, way, d]`, offset `[B, 1, way]`."""
    if problem.targets is not None and support.shape[1] > support.shape[2]:
        return _primal_weights(support, problem, problem.targets)
    coefficients, offset = dual_coefficients(support @ support.mT, problem)
    return coefficients.mT @ support, offset


def linear_system(targets: Tensor, active: Tensor | None = None) -> Solver:
    """Solver of A beta = targets, one Cholesky factorisation for both passes.

    Args:
        targets: `[B, n, L]`.
        active: rows that take part, the others get beta = 0: None for all, `[B, 1, n]` bool for one subset in all
            problems, `[B, L, n]` bool for one subset (and one factorisation) a binary problem.
    """
    groups = 1 if active is None else active.shape[1]

    def solver(system: Tensor) -> tuple[Tensor, Adjoint]:
        factor = cholesky(system[:, None] if active is None else restricted(system[:, None], active))

        def solve(right: Tensor) -> Tensor:
            # [B, groups, n, L / groups]
            grouped = right.unflatten(-1, (groups, -1)).transpose(1, 2)
            if active is not None:
                grouped = grouped * active[..., None]
            return torch.cholesky_solve(grouped, factor).transpose(1, 2).flatten(2)

        return solve(targets), solve

    return solver


def restricted(system: Tensor, active: Tensor) -> Tensor:
    """`system` `[..., n, n]` on the rows and columns where `active` `[..., n]`, the identity elsewhere."""
    identity = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device)
    return torch.where(active[..., :, None] & active[..., None, :], system, identity)


def cholesky(matrix: Tensor) -> Tensor:
    """Lower Cholesky factor `[..., n, n]`.

    Raises ValueError where the matrix is not positive definite; on an accelerator, where looking would wait for the
    device, the factor is NaN instead.
    """
    if matrix.device.type != "cpu":
        factor, info = torch.linalg.cholesky_ex(matrix)
        return factor.where(info[..., None, None] == 0, torch.nan)
    try:
        return torch.linalg.cholesky(matrix)
    except RuntimeError as error:  # torch.linalg.LinAlgError, by its public base
        raise ValueError(
            "ridge: the kernel matrix plus ridge is not positive definite; expected a larger ridge, or finite features"
        ) from error


def _coefficients_of(problem: DualProblem, like: Tensor) -> tuple[Coefficient, Coefficient]:
    batch = like.shape[0]
    return per_episode(problem.ridge, batch, like.dtype), per_episode(problem.bias, batch, like.dtype)


def _primal_weights(support: Tensor, problem: DualProblem, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(Z^T Z + ridge I)^{-1} Z^T targets for Z = [S, sqrt(bias) 1]: d + 1 unknowns, for more rows than dimensions."""
    ridge, bias = _coefficients_of(problem, support)
    root = bias.sqrt() if isinstance(bias, Tensor) else bias**0.5
    # [B, n, d + 1]; padded rows have zero features and zero targets, and must have a zero constant too
    constant = targets.ne(0).any(dim=-1, keepdim=True).to(support.dtype)
    extended = torch.cat([support, root * constant], dim=2)
    factor = cholesky(regularised(extended.mT @ extended, ridge, 0.0))
    # [B, d + 1, way]
    solution = torch.cholesky_solve(extended.mT @ targets, factor)
    return solution[:, :-1].mT, root * solution[:, -1:]


class _Coefficients(Function):
    """system -> beta, with d loss / d system = -Lam beta^T."""

    @staticmethod
    def forward(ctx: Any, system: Tensor, solver: Solver) -> Tensor:
        beta, ctx.adjoint = solver(system)
        ctx.save_for_backward(beta)
        return beta

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the names)
        ctx: Any, grad_beta: Tensor
    ) -> tuple[Tensor, None]:
        (beta,) = ctx.saved_tensors
        with float32_island(grad_beta.device):
            return -(ctx.adjoint(grad_beta) @ beta.mT), None


class _FeatureMachine(Function):
    """Queries and support -> outputs Q W + c with W = S^T beta, c = bias 1^T beta, in O(n d + m d) memory."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, support: Tensor, ridge: Coefficient, bias: Coefficient, solver: Solver
    ) -> Tensor:
        beta, ctx.adjoint = solver(regularised(support @ support.mT, ridge, bias))
        # [B, L, d]: W^T, so that every product runs along d
        weight = beta.mT @ support
        ctx.bias = bias.detach() if isinstance(bias, Tensor) else bias
        ctx.save_for_backward(query, support, beta, weight)
        return query @ weight.mT + bias * beta.sum(dim=1, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the names)
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        query, support, beta, weight = ctx.saved_tensors
        with float32_island(grad.device):
            # [B, L, d] and [B, 1, L]: P^T = D^T Q and 1^T D
            projected, total = grad.mT @ query, grad.sum(dim=1, keepdim=True)
            # [B, n, L]: Lam = A^{-1} (S P + bias 1 1^T D)
            lam = ctx.adjoint(support @ projected.mT + ctx.bias * total)
            grad_query = grad @ weight if ctx.needs_input_grad[0] else None
            grad_support = None
            if ctx.needs_input_grad[1]:
                # beta (P - S^T Lam)^T - Lam W^T as one product of rank 2 L: a single pass over the [B, n, d] output
                right = torch.cat([projected - lam.mT @ support, -weight], dim=1)
                grad_support = torch.cat([beta, lam], dim=2) @ right
            grad_ridge = -(lam * beta).sum(dim=(1, 2), keepdim=True)
            grad_bias = ((total - lam.sum(1, keepdim=True)) * beta.sum(1, keepdim=True)).sum(2, keepdim=True)
        return (
            grad_query,
            grad_support,
            grad_ridge if ctx.needs_input_grad[2] else None,
            grad_bias if ctx.needs_input_grad[3] else None,
            None,
        )
