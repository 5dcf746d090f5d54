"""A batch of linear chains over candidate lists: partition function, marginals, entropy."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from nat_crf.recursion import LowRankChain, Messages, backward_marginals, forward_messages, low_rank_sum, worth_keeping
from nat_crf.scan import ScannedChain
from nat_crf.transitions import Transitions

Method = Literal["auto", "loop", "scan", "triton"]
# Lists for which k^3 work is worth fewer launches, and tiles that fit into the shared memory of any recent GPU
_LARGEST_SCANNED = 128
_LARGEST_TILE = 64


class Chain(NamedTuple):
    """Scores of a batch of right-padded chains.

    Attributes:
        emissions: e `[batch, time, k]`.
        transitions: t between the candidates of adjacent positions.
        lengths: `[batch]`, at least 1; what stands behind a chain's end must be finite and changes nothing.
    """

    emissions: Tensor
    transitions: Transitions
    lengths: Tensor


def log_partition(chain: Chain, method: Method = "auto") -> Tensor:
    """log Z `[batch]` over the candidates (Section 4.5), differentiable once in all scores.

    Args:
        chain: the scores.
        method: `"loop"`, position by position; `"scan"`, a tree of matrix products, fewer and larger launches for
            devices; `"triton"`, one fused kernel a direction, float32 on CUDA; `"auto"`, by device, dtype and k.

    Raises:
        ValueError: an unknown method, or one that cannot run here.
    """
    chosen = resolve_method(chain, method)
    if chosen == "loop" and not torch.is_grad_enabled():
        return forward_messages(chain.emissions, low_rank_sum(chain.transitions), chain.lengths, keep=False)[0]
    if chosen == "loop":
        return LowRankChain.apply(chain.emissions, chain.lengths, *chain.transitions)
    factors = chain.transitions.all_factors()
    if chosen == "scan":
        return ScannedChain.apply(chain.emissions, *factors, chain.lengths)
    from nat_crf.triton_chain import TritonChain

    return TritonChain.apply(chain.emissions, *factors, chain.lengths)


def resolve_method(chain: Chain, method: Method) -> Method:
    """What `"auto"` stands for: the loop on a CPU; on devices the kernel where it can run, else the scan for short
    lists of candidates and the loop for long ones.
    """
    if method not in get_args(Method):
        raise ValueError(f"method: expected one of {', '.join(get_args(Method))}, got {method!r}")
    k, dtype, device = chain.emissions.shape[-1], chain.emissions.dtype, chain.emissions.device.type
    small = max(k, chain.transitions.first.shape[1]) <= _LARGEST_TILE
    has_kernel = small and dtype == torch.float32 and (device == "cuda" or _interpreted()) and _has_triton()
    if method == "triton" and not has_kernel:
        raise ValueError(
            f"method: 'triton' needs the triton library, a CUDA device, float32, k and rank <= {_LARGEST_TILE}; "
            f"got {dtype} and k = {k} on {device}; use 'auto'"
        )
    if method != "auto":
        return method
    if device == "cpu":
        return "loop"
    if has_kernel:
        return "triton"
    return "scan" if k <= _LARGEST_SCANNED else "loop"


def _interpreted() -> bool:
    """Whether Triton runs its kernels in Python, then on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@torch.no_grad()
def messages_of(chain: Chain) -> Messages:
    """The forward pass by the loop. No gradient."""
    keep = worth_keeping(*chain.emissions.shape)
    return forward_messages(chain.emissions, low_rank_sum(chain.transitions), chain.lengths, keep=keep)


@torch.no_grad()
def node_marginals(chain: Chain) -> Tensor:
    """P(y_i = v | x) `[batch, time, k]`; zero behind a chain's end. No gradient."""
    edge_sum = low_rank_sum(chain.transitions)
    messages = messages_of(chain)
    ones = torch.ones_like(messages.log_partition)
    return backward_marginals(messages, edge_sum, chain.lengths, ones).transpose(0, 1).contiguous()


@torch.no_grad()
def edge_marginals(chain: Chain) -> Tensor:
    """P(y_{i-1} = u, y_i = v | x) `[batch, time - 1, k, k]`; zero behind a chain's end. No gradient."""
    batch, time, k = chain.emissions.shape
    result = chain.emissions.new_empty(batch, time - 1, k, k)

    def visit(step: int, weights: Tensor, scaled: Tensor) -> None:
        torch.mul(weights, scaled[:, None], out=result[:, step])

    messages = messages_of(chain)
    ones = torch.ones_like(messages.log_partition)
    backward_marginals(messages, low_rank_sum(chain.transitions), chain.lengths, ones, visit)
    return result


@torch.no_grad()
def entropy(chain: Chain) -> Tensor:
    """Entropy `[batch]` of the sequence distribution, in nats. No gradient.

    H(y) = H(y_n) + sum_i H(y_{i-1} | y_i), a sum of non-negative terms.
    """
    messages = messages_of(chain)
    total = _entropy(messages.alphas[-1].softmax(dim=1), dim=1)

    def visit(_step: int, weights: Tensor, scaled: Tensor) -> None:
        sums = weights.sum(dim=1)
        total.add_((_entropy(weights / sums[:, None], dim=1) * scaled * sums).sum(dim=1))

    ones = torch.ones_like(messages.log_partition)
    backward_marginals(messages, low_rank_sum(chain.transitions), chain.lengths, ones, visit)
    return total


def _entropy(probabilities: Tensor, dim: int) -> Tensor:
    return torch.special.entr(probabilities).sum(dim=dim)
