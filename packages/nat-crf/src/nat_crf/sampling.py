"""Forward-filtering backward-sampling: exact draws from the sequence distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from nat_crf.chain import Chain, messages_of
from nat_crf.recursion import low_rank_sum, step_weights


@torch.no_grad()
def sample_slots(chain: Chain, count: int, generator: torch.Generator | None = None) -> Tensor:
    """`count` independent paths of each chain.

    y_n is drawn from softmax(a_n), then y_{i-1} from the backward conditional W_i(., y_i).

    Args:
        chain: the scores.
        count: n, at least 1.
        generator: source of randomness, on the device of the scores.

    Returns:
        `[batch, n, time]` int64 indices into the candidate lists; 0 behind a chain's end.
    """
    messages = messages_of(chain)
    edge_sum = low_rank_sum(chain.transitions)
    batch, time, k = chain.emissions.shape
    slot = torch.multinomial(messages.alphas[-1].exp(), count, replacement=True, generator=generator)
    slots = [slot]
    for step in range(time - 1, 0, -1):
        weights = step_weights(messages, edge_sum, step - 1)
        # [batch, n, k]: the columns of the labels drawn
        columns = weights.mT.take_along_dim(slot[..., None], dim=1)
        drawn = torch.multinomial(columns.reshape(-1, k), 1, generator=generator).view(batch, count)
        slot = torch.where((step < chain.lengths)[:, None], drawn, slot)
        slots.append(slot)
    result = torch.stack(slots[::-1], dim=2)
    return torch.where(torch.arange(time, device=slot.device) < chain.lengths[:, None, None], result, 0)
