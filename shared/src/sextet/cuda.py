"""Devices, precision, seeds, timers and memory meters that behave the same on a CPU and on CUDA."""

from __future__ import annotations

import os
import random
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class DeviceError(ValueError):
    """A device was asked for that this machine or this build of torch does not have."""


def select_device(name: str = "auto") -> torch.device:
    """Return the device called `name`, or say why it cannot be had; never fall back silently.

    Args:
        name: `"auto"` (CUDA where there is one, else the CPU), `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.

    Raises:
        DeviceError: unknown name, CUDA absent, or an index beyond the devices present.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"device: expected auto, cpu, mps, cuda or cuda:<index>, got {name!r}") from error
    if device.type not in ("cpu", "mps", "cuda"):
        raise DeviceError(f"device: expected auto, cpu, mps, cuda or cuda:<index>, got {name!r}")
    if device.type == "cuda":
        _check_cuda(name, device.index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device: mps was asked for, but this machine or this torch has no Metal device; use cpu")
    return device


def _check_cuda(name: str, index: int | None) -> None:
    if torch.version.cuda is None:
        raise DeviceError(f"device: {name} was asked for, but this torch ({torch.__version__}) is built without CUDA")
    if not torch.cuda.is_available():
        raise DeviceError(
            f"device: {name} was asked for, but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable "
            "GPU; check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or ask for cpu"
        )
    if index is not None and index >= torch.cuda.device_count():
        raise DeviceError(f"device: {name} was asked for, but only {torch.cuda.device_count()} CUDA devices are here")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Context in which matrix products run at `precision`; nothing changes for fp32, TF32 is allowed for tf32."""
    if precision == "tf32":
        return tf32(True)
    if precision in _AUTOCAST_DTYPES:
        return torch.autocast(device.type, dtype=_AUTOCAST_DTYPES[precision])
    if precision != "fp32":
        raise ValueError(f"precision: expected fp32, tf32, bf16 or fp16, got {precision!r}")
    return nullcontext()


def float32_island(device: torch.device) -> AbstractContextManager[Any]:
    """Context with autocast off, for the few operations (factorisations, log-sum-exp chains) that need full float32.

    Inputs are not converted: call `.float()` on what comes in from half precision. Kinds of device that know no
    autocast get a null context.
    """
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Allow or forbid TensorFloat-32 in matrix products and convolutions inside the block; restores what was there."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def seed_everything(seed: int) -> None:
    """Seed Python, numpy's global generator, torch and every CUDA device.

    Raises:
        ValueError: `seed` outside 0..2**32-1 (numpy's range).
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected 0 <= seed < 2**32, got {seed}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries that we call draw from the global generator
    torch.manual_seed(seed)


@contextmanager
def deterministic(enabled: bool = True) -> Iterator[None]:
    """Make torch choose deterministic kernels inside the block and raise where there is none.

    cuBLAS reads its workspace setting once, at first use: enter this block before the first CUDA call.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warn_only)
        torch.backends.cudnn.benchmark = before[1]
        if workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def rng_state() -> dict[str, Any]:
    """The state of every generator that `seed_everything` seeds, as plain lists, numbers and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the state that libraries draw from
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        for index, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved.cpu(), index)


def synchronize(device: torch.device) -> None:
    """Wait for all work queued on `device`; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Usage:
    """What a metered block used: wall-clock seconds and peak memory in bytes."""

    wall_s: float = 0.0
    peak_bytes: int = 0


@contextmanager
def meter(device: torch.device) -> Iterator[Usage]:
    """Measure wall-clock seconds and peak memory of a block; the result is filled in when the block ends.

    On CUDA the peak is that of torch's allocator on `device` within the block. On a CPU it is the process's resident
    set so far, the most an operating system tells without sampling: an upper bound for the block.
    """
    usage = Usage()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    try:
        yield usage
    finally:
        synchronize(device)
        usage.wall_s = time.perf_counter() - start
        if device.type == "cuda":
            usage.peak_bytes = torch.cuda.max_memory_allocated(device)
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            usage.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def to_device(batch: Any, device: torch.device) -> Any:
    """Copy every tensor in a (nested) tuple, list or dict to `device`, without blocking where memory is pinned."""
    if isinstance(batch, torch.Tensor):
        # towards the CPU it must block: the values would be read before they have arrived
        return batch.to(device, non_blocking=device.type == "cuda")
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


def prefetch(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield `batches` on `device`, copying the next one on a side stream while the present one is computed on.

    On anything but CUDA the batches pass through as they come. Pin the batches' memory for the overlap to be real.
    """
    if device.type != "cuda":
        for batch in batches:
            yield to_device(batch, device)
        return
    stream = torch.cuda.Stream(device)
    pending: list[Any] = []
    for batch in batches:
        with torch.cuda.stream(stream):
            pending.append(to_device(batch, device))
        if len(pending) == 2:
            yield _take(pending, stream)
    while pending:
        yield _take(pending, stream)


def _take(pending: list[Any], stream: torch.cuda.Stream) -> Any:
    """The oldest copied batch, safe to use on the present stream."""
    current = torch.cuda.current_stream(stream.device)
    current.wait_stream(stream)
    batch = pending.pop(0)
    for tensor in _tensors(batch):
        tensor.record_stream(current)
    return batch


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, dict):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _tensors(value)
