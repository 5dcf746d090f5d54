"""The CRF over every label sequence, one by one, and the recursion as a plain loop that autograd differentiates."""

import itertools

import torch
from torch import Tensor


def transition_matrix(left: Tensor, right: Tensor, dynamic: Tensor | None) -> Tensor:
    """t(u, v) `[vocab, vocab]` from E1, E2 and M_dyn `[rank, rank]` or None."""
    return left @ (right.T if dynamic is None else dynamic @ right.T)


def sequence_scores(emissions: Tensor, transitions: Tensor) -> tuple[Tensor, Tensor]:
    """All sequences `[V ** T, T]` and their scores, of emissions `[T, V]` and transitions `[T - 1, V, V]`."""
    time, vocab = emissions.shape
    sequences = torch.tensor(list(itertools.product(range(vocab), repeat=time)))
    scores = emissions[torch.arange(time), sequences].sum(dim=1)
    steps = torch.arange(time - 1)
    return sequences, scores + transitions[steps, sequences[:, :-1], sequences[:, 1:]].sum(dim=1)


def loop_log_partition(emissions: Tensor, blocks: Tensor, lengths: Tensor) -> Tensor:
    """log Z `[batch]` from `[batch, T, k]` and `[batch, T - 1, k, k]`, step by step; autograd does the rest."""
    current = emissions[:, 0]
    for step in range(1, emissions.shape[1]):
        following = torch.logsumexp(current[:, :, None] + blocks[:, step - 1], dim=1) + emissions[:, step]
        current = torch.where((step < lengths)[:, None], following, current)
    return torch.logsumexp(current, dim=1)
