"""The best path and the n best paths of a chain (Section 4.7)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nat_crf.chain import Chain
from nat_crf.recursion import low_rank_sum
from nat_crf.transitions import rows


class Paths(NamedTuple):
    """Paths through the candidate lists.

    Attributes:
        slots: `[batch, n, time]` int64, index into the candidate list at each position; 0 behind a chain's end.
        step_scores: `[batch, n, time]`, what each position adds to the path's score, e_i + t_i; 0 behind a chain's end.
        scores: `[batch, n]`, their sums; -inf for paths beyond the number that exist.
    """

    slots: Tensor
    step_scores: Tensor
    scores: Tensor


@torch.no_grad()
def best_path(chain: Chain, *, published_steps: bool = False) -> Paths:
    """Viterbi: the path with the largest score, n = 1; among equals, the first candidate going back from the end.

    The recursion keeps the messages alone; going back, the best predecessor is found again from k scores a step.

    Args:
        chain: the scores.
        published_steps: step scores of the published code. It reads the running score of position i at the slot taken
            at i + 1: what a step gains there is charged to the next one. Their sum is the same.
    """
    emissions, transitions, lengths = chain
    batch, time, k = emissions.shape
    edge_sum, block = low_rank_sum(transitions), emissions.new_empty(batch, k, k)
    current, messages = emissions[:, 0], [emissions[:, 0]]
    for step in range(1, time):
        following = edge_sum(step - 1, current, block).amax(dim=1) + emissions[:, step]
        # Large scores would lose digits from step to step
        following = following - following.amax(dim=1, keepdim=True)
        current = torch.where((step < lengths)[:, None], following, current)
        messages.append(current)
    slot = current.argmax(dim=1)
    slots = [slot]
    for step in range(time - 1, 0, -1):
        label = transitions.labels[:, step].gather(1, slot[:, None])
        scores = transitions.left_factor(step - 1) @ rows(transitions.second, label).mT
        scores = messages[step - 1] + scores[:, :, 0]
        slot = torch.where(step < lengths, scores.argmax(dim=1), slot)
        slots.append(slot)
    paths = scored(chain, torch.stack(slots[::-1], dim=1)[:, None])
    if not published_steps:
        return paths
    # [batch, time - 1]: how much the running scores so read are too large
    own, following = paths.slots[:, 0, :-1], paths.slots[:, 0, 1:]
    every_message = torch.stack(messages[:-1], dim=1) if time > 1 else emissions[:, :0]
    ahead = every_message.gather(2, following[..., None]) - every_message.gather(2, own[..., None])
    ahead = torch.where(torch.arange(1, time, device=lengths.device) < lengths[:, None], ahead[..., 0], 0)[:, None]
    steps = paths.step_scores + nn.functional.pad(ahead, (0, 1)) - nn.functional.pad(ahead, (1, 0))
    return paths._replace(step_scores=steps)


@torch.no_grad()
def best_paths(chain: Chain, count: int) -> Paths:
    """The `count` best paths, the best first, all different.

    Each label keeps its `count` best histories. Chains with fewer paths repeat one with score -inf.
    """
    emissions, transitions, lengths = chain
    batch, time, k = emissions.shape
    # [batch, k, count] of histories that end in each label
    current = emissions.new_full((batch, k, count), -torch.inf)
    current[:, :, 0] = emissions[:, 0]
    unmoved = torch.arange(k * count, device=emissions.device).view(k, count)
    pointers = []
    for step in range(1, time):
        left, right = transitions.factors(step - 1)
        # [batch, v, u * count]
        reached = ((right @ left.mT)[..., None] + current[:, None]).flatten(2)
        found = reached.topk(count, dim=2)
        following = found.values + emissions[:, step, :, None]
        active = (step < lengths)[:, None, None]
        current = torch.where(active, following - following.amax(dim=(1, 2), keepdim=True), current)
        pointers.append(torch.where(active, found.indices, unmoved))
    found = current.flatten(1).topk(count, dim=1)
    state, missing = found.indices, found.values.isneginf()
    slots = [state // count]
    for pointer in reversed(pointers):
        state = pointer.flatten(1).gather(1, state)
        slots.append(state // count)
    paths = scored(chain, torch.stack(slots[::-1], dim=2))
    scores = paths.scores.masked_fill(missing, -torch.inf)
    # Sums of the recursion and of the path differ by rounding
    order = scores.sort(dim=1, descending=True, stable=True).indices
    slots, steps = (part.take_along_dim(order[:, :, None], dim=1) for part in paths[:2])
    return Paths(slots, steps, scores.gather(1, order))


def scored(chain: Chain, slots: Tensor) -> Paths:
    """Paths with the scores of `slots [batch, n, time]`, exact sums of emissions and transitions on the way."""
    emissions, transitions, lengths = chain
    real = (torch.arange(slots.shape[2], device=lengths.device) < lengths[:, None])[:, None]
    slots = torch.where(real, slots, 0)
    # [batch, time, n]
    at = slots.mT
    left, right = transitions._replace(labels=transitions.labels.gather(2, at)).all_factors()
    steps = emissions.gather(2, at)
    steps = torch.cat([steps[:, :1], steps[:, 1:] + (left * right).sum(dim=3)], dim=1).mT
    steps = torch.where(real, steps, 0)
    return Paths(slots, steps, steps.sum(dim=2))
