"""One function in several processes of this machine, a device each, or in this process where one is enough."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch

Job = Callable[..., None]
"""Called with (accelerator or None, device, *arguments); a function of a module, so that processes can find it."""


def launch(job: Job, arguments: tuple[Any, ...], *, device: torch.device, processes: int = 1) -> None:
    """Run `job` and wait for it.

    A signal that stops this process reaches the others: they finish their step, save and leave.

    Args:
        job: see `Job`.
        arguments: can be pickled where there are several processes.
        device: of one process; of several, process r takes the r-th CUDA device, or all the CPU.
        processes: how many.

    Raises:
        ValueError: more processes than CUDA devices.
    """
    if processes == 1:
        job(None, device, *arguments)
        return
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(f"devices: {processes} were asked for, this machine has {torch.cuda.device_count()}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, (job, arguments, device.type, processes, port), nprocs=processes)  # pyright: ignore[reportPrivateImportUsage]


def _process(rank: int, job: Job, arguments: tuple[Any, ...], kind: str, processes: int, port: int) -> None:
    from accelerate import Accelerator

    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    accelerator = Accelerator(cpu=kind == "cpu")
    job(accelerator, accelerator.device, *arguments)
    accelerator.end_training()
