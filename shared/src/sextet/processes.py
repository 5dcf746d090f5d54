"""One function in several processes of this machine, a device each, or in this process where one is enough."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from sextet.errors import Interrupted
from sextet.training import SignalGuard

Job = Callable[..., None]
"""Called with (accelerator or None, device, *arguments); a function of a module, so that processes can find it."""

_POLL_S = 0.5


def launch(
    job: Job, arguments: tuple[Any, ...], *, folder: Path, device: torch.device, processes: int = 1
) -> None:  # fmt: skip
    """Run `job` and wait for it.

    A signal that stops this process reaches the others: they finish their step, save and leave.

    Args:
        job: see `Job`.
        arguments: can be pickled where there are several processes.
        folder: where the job keeps its state.
        device: of one process; of several, process r takes the r-th CUDA device, or all the CPU.
        processes: how many.

    Raises:
        ValueError: fewer processes than one, or more than CUDA devices.
        Interrupted: several processes were told to stop, here or each for itself, and have.
        torch.multiprocessing.spawn.ProcessRaisedException: one of several failed; the message holds its traceback.
    """
    if processes < 1 or (device.type == "cuda" and processes > max(1, torch.cuda.device_count())):
        raise ValueError(f"devices: {processes} were asked for, this machine has {torch.cuda.device_count()}")
    if processes == 1:
        job(None, device, *arguments)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    request = job, arguments, device.type, processes, port
    with SignalGuard() as guard:
        group: Any = spawn(_process, request, nprocs=processes, join=False)
        try:
            while not guard.signum and not group.join(timeout=_POLL_S):
                pass
            if guard.signum:
                for process in group.processes:
                    process.terminate()
                while not group.join():
                    pass
        except ProcessExitedException as end:
            if end.exit_code - 128 not in (signal.SIGTERM, signal.SIGINT) and not guard.signum:
                raise
            raise Interrupted(guard.signum or end.exit_code - 128, folder) from None
    if guard.signum:
        raise Interrupted(guard.signum, folder)


def _process(rank: int, job: Job, arguments: tuple[Any, ...], kind: str, processes: int, port: int) -> None:
    from accelerate import Accelerator

    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    accelerator = Accelerator(cpu=kind == "cpu")
    job(accelerator, accelerator.device, *arguments)
    accelerator.end_training()
