"""What the heads of fslstm are compared with, as plain functions: the same results by the usual ways.

All take query `[B, m, d]`, support `[B, n, d]`, labels `[B, n]` and the number of classes, and return logits
`[B, m, way]`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def block_system_ls_svm(query: Tensor, support: Tensor, labels: Tensor, n_way: int, ridge: float = 0.1) -> Tensor:
    """LS-SVM as the reference implementation solves it: L = way binary problems with a copy of the features each, their
    optimality systems in one block-diagonal dense matrix of order L (n + 1), LU, autograd.

        [ -2     t_l^T           ] [ b_l     ]   [ 0 ]
        [ t_l    T_l K T_l + g I ] [ alpha_l ] = [ 1 ],      logits = M f,  f_l(q) = sum_i t_il alpha_il <x_i, q> + b_l
    """
    batch, n, _ = support.shape
    code = 2 * torch.eye(n_way, dtype=support.dtype, device=support.device) - 1
    # [B, L, n]
    targets = code[labels].mT
    # [B, L, n, d]
    copies = support[:, None] * targets[..., None]
    kernel = copies @ copies.mT + ridge * torch.eye(n, dtype=support.dtype, device=support.device)
    # [B, L, n + 1, n + 1]
    corner = torch.full((batch, n_way, 1, 1), -2.0, dtype=support.dtype, device=support.device)
    top = torch.cat([corner, targets[:, :, None]], dim=3)
    blocks = torch.cat([top, torch.cat([targets[..., None], kernel], dim=3)], dim=2)
    right = torch.cat([torch.zeros_like(targets[..., :1]), torch.ones_like(targets)], dim=2)
    # [B, L (n + 1), L (n + 1)]
    identity = torch.eye(n_way, dtype=support.dtype, device=support.device)
    system = (blocks[:, :, :, None] * identity[:, None, :, None]).reshape(batch, n_way * (n + 1), n_way * (n + 1))
    solution = torch.linalg.solve(system, right.reshape(batch, -1)).reshape(batch, n_way, n + 1)
    # [B, L, n, m], summed over the rows
    products = (solution[..., 1:] * targets)[..., None] * (support @ query.mT)[:, None]
    outputs = products.sum(dim=2) + solution[..., :1]
    return outputs.mT @ code.mT


def cholesky_ls_svm(query: Tensor, support: Tensor, labels: Tensor, n_way: int, ridge: float = 0.1) -> Tensor:
    """LS-SVM by one Cholesky factorisation of K + J / 2 + ridge I, differentiated by autograd."""
    identity = torch.eye(support.shape[1], dtype=support.dtype, device=support.device)
    factor = torch.linalg.cholesky(support @ support.mT + 0.5 + ridge * identity)
    code = 2 * torch.eye(n_way, dtype=support.dtype, device=support.device) - 1
    beta = torch.cholesky_solve(code[labels] @ code.mT, factor)
    return (query @ support.mT + 0.5) @ beta


def inverse_ridge(query: Tensor, support: Tensor, labels: Tensor, n_way: int, ridge: float = 50.0) -> Tensor:
    """Ridge regression by the explicit inverse, as R2D2 does: W = S^T (K + ridge I)^{-1} OH, logits = 2 Q W."""
    identity = torch.eye(support.shape[1], dtype=support.dtype, device=support.device)
    inverse = torch.linalg.inv(support @ support.mT + ridge * identity)
    weight = support.mT @ inverse @ one_hot(labels, n_way).to(support.dtype)
    return 2 * query @ weight


def qpth_svm(query: Tensor, support: Tensor, labels: Tensor, n_way: int, C: float = 0.1, max_iter: int = 15) -> Tensor:
    """Crammer-Singer SVM as MetaOptNet solves it: one quadratic programme of n * way variables an episode, by qpth.

    Raises:
        ImportError: qpth is not installed.
    """
    from qpth.qp import QPFunction

    batch, n, _ = support.shape
    like = {"dtype": support.dtype, "device": support.device}
    gram = support @ support.mT
    # K (x) I + I, [B, n way, n way]
    classes = torch.eye(n_way, **like)
    hessian = (gram[:, :, None, :, None] * classes[None, None, :, None, :]).reshape(batch, n * n_way, n * n_way)
    hessian = hessian + torch.eye(n * n_way, **like)
    own = one_hot(labels, n_way).to(support.dtype).reshape(batch, n * n_way)
    bounds = torch.eye(n * n_way, **like).expand(batch, -1, -1)
    row_sums = torch.kron(torch.eye(n, **like), torch.ones(1, n_way, **like)).expand(batch, -1, -1)
    solve = QPFunction(verbose=False, maxIter=max_iter)
    alpha = solve(hessian, -own, bounds, C * own, row_sums, torch.zeros(batch, n, **like))
    return query @ support.mT @ alpha.reshape(batch, n, n_way)


@torch.no_grad()
def row_appending_psm(query: Tensor, support: Tensor, labels: Tensor, n_way: int, rounds: int = 10) -> Tensor:
    """Pseudo Support Module as published: append the class means of the pseudo-labelled queries, solve anew."""
    batch = support.shape[0]
    appended = torch.arange(n_way, device=labels.device).expand(batch, -1)
    for _ in range(rounds):
        pseudo = block_system_ls_svm(query, support, labels, n_way).argmax(dim=-1)
        membership = one_hot(pseudo, n_way).to(support.dtype)
        rows = membership.mT @ query / (membership.sum(dim=1)[..., None] + 1e-5)
        support, labels = torch.cat([support, rows], dim=1), torch.cat([labels, appended], dim=1)
    return block_system_ls_svm(query, support, labels, n_way)
