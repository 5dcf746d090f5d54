"""Naive implementations to compare with: as the equations stand, no algebra, no speed."""

from itertools import product

import torch
from torch import Tensor

from fslstm.modules import Head


def episodes(
    batch: int, way: int, shot: int, n_query: int, dim: int, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """query `[B, way * n_query, d]`, support `[B, way * shot, d]`, labels: clusters, rows in shuffled order."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(batch, way, dim, generator=generator, dtype=dtype)
    labels = torch.stack([torch.randperm(way * shot, generator=generator) % way for _ in range(batch)])
    support = centers.gather(1, labels[..., None].expand(-1, -1, dim))
    support = support + torch.randn(support.shape, generator=generator, dtype=dtype)
    query = centers.repeat_interleave(n_query, dim=1)
    query = query + torch.randn(query.shape, generator=generator, dtype=dtype)
    return query, support, labels


def block_system(
    query: Tensor, support: Tensor, labels: Tensor, code: Tensor, ridge: float = 0.1
) -> tuple[Tensor, Tensor, Tensor]:
    """LS-SVM by the optimality systems of section 4.1, one block a column of the code, one dense LU for all.

    Returns logits `[B, m, way]`, t alpha `[B, n, L]` and biases `[B, L]`.
    """
    batch, n, _ = support.shape
    n_problems = code.shape[1]
    # [B, L, n]
    targets = code[labels].mT
    copies = support[:, None].expand(-1, n_problems, -1, -1) * targets[..., None]
    kernel = copies @ copies.mT + ridge * torch.eye(n, dtype=support.dtype)
    system = support.new_zeros(batch, n_problems * (n + 1), n_problems * (n + 1))
    right = support.new_zeros(batch, n_problems * (n + 1))
    for problem in range(n_problems):
        start = problem * (n + 1)
        inner = slice(start + 1, start + n + 1)
        system[:, start, start] = -2
        system[:, start, inner] = targets[:, problem]
        system[:, inner, start] = targets[:, problem]
        system[:, inner, inner] = kernel[:, problem]
        right[:, inner] = 1
    solution = torch.linalg.solve(system, right).unflatten(1, (n_problems, n + 1))
    biases = solution[..., 0]
    signed = solution[..., 1:] * targets
    outputs = query @ support.mT @ signed.mT + biases[:, None]
    return outputs @ code.mT, signed.mT, biases


def block_lssvm(query: Tensor, support: Tensor, labels: Tensor, n_way: int, ridge: float = 0.1) -> Tensor:
    """One-vs-all logits of `block_system`."""
    return block_system(query, support, labels, 2 * torch.eye(n_way, dtype=support.dtype) - 1, ridge)[0]


def pseudo_support_explicit(
    head: Head, query: Tensor, support: Tensor, labels: Tensor, n_way: int, rounds: int, *, skip_empty: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Section 6 for one episode (batch of 1), rows really appended: logits, support rows and labels at the end."""
    for _ in range(rounds):
        pseudo = head(query, support, labels, n_way).argmax(dim=-1)[0]
        for label in range(n_way):
            chosen = query[0, pseudo == label]
            if skip_empty and not len(chosen):
                continue
            row = chosen.sum(dim=0) / (len(chosen) + 1e-5)
            support = torch.cat([support, row[None, None]], dim=1)
            labels = torch.cat([labels, torch.tensor([[label]])], dim=1)
    return head(query, support, labels, n_way), support, labels


def crammer_singer_by_enumeration(gram: Tensor, labels: Tensor, n_way: int, C: float) -> Tensor:
    """alpha `[n, way]` of one tiny problem: every set of active bounds, the feasible stationary point of least cost."""
    n = len(gram)
    hessian = torch.kron(gram + torch.eye(n, dtype=gram.dtype), torch.eye(n_way, dtype=gram.dtype))
    linear = torch.nn.functional.one_hot(labels, n_way).to(gram.dtype).reshape(-1)
    upper = C * linear
    row_sums = torch.kron(torch.eye(n, dtype=gram.dtype), torch.ones(1, n_way, dtype=gram.dtype))
    best, best_cost = torch.zeros_like(linear), torch.inf
    for active in product([False, True], repeat=n * n_way):
        bound = torch.eye(n * n_way, dtype=gram.dtype)[torch.tensor(active)]
        constraints = torch.cat([row_sums, bound])
        zeros = gram.new_zeros(len(constraints), len(constraints))
        system = torch.cat([torch.cat([hessian, constraints.mT], 1), torch.cat([constraints, zeros], 1)])
        right = torch.cat([linear, gram.new_zeros(n), bound @ upper])
        alpha = (torch.linalg.pinv(system) @ right)[: n * n_way]
        feasible = (alpha <= upper + 1e-9).all() and (row_sums @ alpha).abs().max() < 1e-9
        cost = float(alpha @ hessian @ alpha / 2 - linear @ alpha)
        if feasible and cost < best_cost - 1e-12:
            best, best_cost = alpha, cost
    return best.reshape(n, n_way)
