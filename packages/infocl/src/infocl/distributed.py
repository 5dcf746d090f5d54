"""Rows of all processes in one loss, with gradients: what DataParallel did in the published runs."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(rows: Tensor) -> Tensor:
    """[processes * n, ...] rows of every process, in the order of ranks, from [n, ...] of this one.

    Gradients flow back to the process a row came from, summed over all processes' losses; averaged over processes, as
    DistributedDataParallel does, they are those of one process with all rows. Without processes: `rows` itself.

    Raises:
        ValueError: processes hold different numbers of rows.
    """
    if world_size() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    counts = [torch.zeros((), dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    if len({int(count) for count in counts}) != 1:
        raise ValueError(
            f"rows: expected as many in every process, got {[int(count) for count in counts]}; "
            "choose a batch size that the number of processes divides, and drop the last incomplete batch"
        )
    return torch.cat(list(all_gather(rows.contiguous())))
