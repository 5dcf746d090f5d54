"""Pre-training with parameters sharded over processes (FSDP)."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lmim import LocalMim
from lmim.pretraining import TapLosses, counter_seed
from lmim.schedule import parameter_groups


def small():
    torch.manual_seed(0)
    return LocalMim(16, 4, 8, 7, 2, decoder_dim=8, decoder_heads=2, bins=4, channels=1).double()


def images(number):
    return torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(number)).double()


def micro_loss(forward, number):
    torch.manual_seed(counter_seed(5, number))
    return forward(images(number)).sum()


def step(model, loss_of):
    """One step; the optimiser is made first, since a forward pass puts whole tensors in the place of outer shards."""
    optimizer = torch.optim.SGD(parameter_groups(model, 0.05), lr=0.1)
    loss_of().backward()
    optimizer.step()


def sharded_step(rank, port, path):
    """One of two processes: its micro-batch, gradients reduced over both; the first writes the weights."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = small()
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    forward = fully_shard(TapLosses(model, 0.75), mesh=mesh)
    assert all(isinstance(value, DTensor) for value in model.parameters())
    step(model, lambda: micro_loss(forward, rank))
    # In order of names in both processes, since gathering is collective
    whole = {name: value.full_tensor().detach() for name, value in model.named_parameters()}
    if rank == 0:
        torch.save(whole, path)
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_step_of_two_shards_is_one_of_the_whole_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(sharded_step, (port, str(tmp_path / "whole.pt")), nprocs=2)
    found = torch.load(tmp_path / "whole.pt", weights_only=True)
    model, before = small(), small()
    forward = TapLosses(model, 0.75)
    step(model, lambda: (micro_loss(forward, 0) + micro_loss(forward, 1)) / 2)
    assert found.keys() == dict(model.named_parameters()).keys()
    for (name, wanted), start in zip(model.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(
            found[name], wanted.detach(), rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert not wanted.equal(start) or name.endswith("bias"), name
