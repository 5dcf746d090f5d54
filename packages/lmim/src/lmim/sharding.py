"""Pre-training whose parameters, gradients and optimiser state are divided among processes (FSDP)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from lmim.swin import SwinBlock

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_LOADED = StateDictOptions(full_state_dict=True)


def shard(forward: nn.Module, model: nn.Module, device: torch.device) -> None:
    """Divide a model among all processes, in place: each block of its encoder by itself, the rest as one.

    To be done before the optimiser is made, which must be given the shards.

    Args:
        forward: the module that is called; it holds `model`.
        model: `LocalMim` or `SwinLocalMim`.
        device: of this process.

    Raises:
        ValueError: there is no process group.
    """
    if not dist.is_initialized():
        raise ValueError("sharded: expected several processes to divide the parameters among, there is one")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in getattr(model, "blocks", None) or [part for part in model.modules() if isinstance(part, SwinBlock)]:
        fully_shard(block, mesh=mesh)
    fully_shard(forward, mesh=mesh)


def whole_state(model: nn.Module) -> dict[str, Any]:
    """The state dict of a model, divided or not, in main memory; gathered by all processes, empty in all but the first.

    Of a model that is not divided every process gets it.
    """
    return get_model_state_dict(model, options=_WHOLE)


class WholeState:
    """State of a divided model, or of its optimiser, as one process would save it, for checkpoints.

    Every process has to ask for it, and only the first one is given it; each is to be handed all of it for loading.

    Args:
        model: divided by `shard`.
        optimizer: whose state it is; None for the model's.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Gathered from all processes."""
        if self.optimizer is None:
            return whole_state(self.model)
        return get_optimizer_state_dict(self.model, self.optimizer, options=_WHOLE)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep this process's part of what `state_dict` returned in the first."""
        if self.optimizer is None:
            set_model_state_dict(self.model, state, options=_LOADED)
        else:
            set_optimizer_state_dict(self.model, self.optimizer, state, options=_LOADED)


@contextmanager
def gradients_stay(forward: FSDPModule) -> Iterator[None]:
    """Processes keep the gradients of a block of code to themselves."""
    forward.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        forward.set_requires_gradient_sync(True)
