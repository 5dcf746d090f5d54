"""Random chains, and what a function of them should give, in float64 by the plain loop."""

from collections.abc import Callable

import torch
from torch import Tensor

from nat_crf.chain import Chain
from nat_crf.transitions import Transitions
from nat_crf_testing.brute_force import loop_log_partition

Sizes = tuple[int, int, int, int]


def random_chain(
    sizes: Sizes,
    *,
    scale: float = 1.0,
    dynamic: bool = True,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
) -> Chain:
    """Chains of `sizes` (batch, time, k, rank) and random lengths, whose scores want gradients and are about `scale`.

    Labels repeat within and between lists, so that gradients of the factors add up.
    """
    batch, time, k, rank = sizes
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        values = std * torch.randn(*shape, generator=generator, dtype=torch.float64)
        # Values that float32 holds, so that both dtypes mean the same chain
        return values.float().to(device, dtype).requires_grad_()

    labels = torch.randint(2 * k, (batch, time, k), generator=generator).to(device)
    lengths = torch.randint(1, time + 1, (batch,), generator=generator).to(device)
    lengths[0] = time
    first, second = (normal(2 * k, rank, std=(scale / rank**0.5) ** 0.5) for _ in range(2))
    matrices = normal(batch, time - 1, rank, rank, std=rank**-0.5) if dynamic else None
    return Chain(normal(batch, time, k, std=scale), Transitions(labels, first, second, matrices), lengths)


def leaves(chain: Chain) -> list[Tensor]:
    """Everything that gets a gradient."""
    _, first, second, dynamic = chain.transitions
    return [chain.emissions, first, second] + ([] if dynamic is None else [dynamic])


def with_gradients(function: Callable[[Chain], Tensor], chain: Chain) -> list[Tensor]:
    """Values, and gradients of a weighted sum of them."""
    values = function(chain)
    weights = torch.linspace(0.5, 2.0, len(values), dtype=values.dtype, device=values.device)
    total = (values * weights).sum()
    return [values.detach(), *torch.autograd.grad(total, leaves(chain), materialize_grads=True)]


def plain_log_partition(chain: Chain) -> Tensor:
    """log Z of stored blocks by a loop that autograd differentiates."""
    left, right = chain.transitions.all_factors()
    return loop_log_partition(chain.emissions, left @ right.mT, chain.lengths)


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Largest difference within `tolerance` of the largest entry (at least 1), tensor by tensor."""
    for one, other in zip(found, expected, strict=True):
        if other.numel():
            error = float((one.double().cpu() - other.double().cpu()).abs().max())
            # Written so that NaN fails
            assert error <= tolerance * max(1.0, float(other.abs().max())), f"differs by {error:.2g}"
