from __future__ import annotations

import contextlib
import os
import random
import time
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from sextet import checkpoint, cuda


class Pair(NamedTuple):
    images: torch.Tensor
    labels: torch.Tensor


def draw():
    return random.random(), float(np.random.rand()), torch.rand(3).tolist()


def test_worked_example():
    device = cuda.select_device("cpu")
    with cuda.meter(device) as usage:
        torch.ones(1000).sum()
    assert usage.wall_s > 0
    assert usage.peak_bytes > 1_000_000


def test_seeding_repeats_every_generator():
    cuda.seed_everything(3)
    first = draw()
    assert draw() != first
    cuda.seed_everything(3)
    assert draw() == first


def test_generators_continue_through_a_checkpoint(tmp_path):
    cuda.seed_everything(3)
    draw()
    random.gauss(0, 1)
    np.random.randn()
    checkpoint.save(tmp_path, {"rng": cuda.rng_state()}, step=1)
    expected = draw(), random.gauss(0, 1), np.random.randn()
    cuda.seed_everything(4)
    loaded = checkpoint.load_latest(tmp_path)
    assert loaded is not None
    cuda.restore_rng_state(loaded[1]["rng"])
    assert (draw(), random.gauss(0, 1), np.random.randn()) == expected


def test_a_float32_island_stays_out_of_autocast():
    device, matrix = torch.device("cpu"), torch.randn(4, 4)
    with cuda.autocast(device, "bf16"):
        assert (matrix @ matrix).dtype == torch.bfloat16
        with cuda.float32_island(device):
            assert (matrix @ matrix).dtype == torch.float32
    for precision in ("fp32", "tf32"):
        with cuda.autocast(device, precision):
            assert (matrix @ matrix).dtype == torch.float32


def test_float16_on_a_cpu():
    with cuda.autocast(torch.device("cpu"), "fp16"):
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == torch.float16


def test_switches_are_put_back_even_after_an_error():
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="inside"), cuda.tf32(True), cuda.deterministic():
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("inside")
    assert (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()) == before
    with cuda.tf32(True), cuda.tf32(False):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    with cuda.deterministic(enabled=False):
        assert torch.are_deterministic_algorithms_enabled() == before[1]


@pytest.mark.parametrize("workspace", [None, ":16:8"])
@pytest.mark.parametrize("warn_only", [False, True])
def test_deterministic_restores_its_mode_and_the_workspace(monkeypatch, warn_only, workspace):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(warn_only, warn_only=warn_only)
    try:
        with cuda.deterministic():
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert not torch.backends.cudnn.benchmark
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (workspace or ":4096:8")
        assert torch.are_deterministic_algorithms_enabled() == warn_only
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.backends.cudnn.benchmark
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == workspace


def test_batches_keep_their_structure():
    batch = {
        "pair": Pair(torch.zeros(2), torch.ones(2)), "list": [torch.zeros(1), "name", None], "size": torch.Size([1, 2]),
        "tuple": (1, torch.ones(1)), "nested": {"deep": [(torch.arange(2),)]},
    }  # fmt: skip
    moved = next(iter(cuda.prefetch([batch], torch.device("cpu"))))
    assert list(moved) == list(batch)
    assert isinstance(moved["pair"], Pair)
    assert torch.equal(moved["pair"].labels, torch.ones(2))
    assert moved["list"][1:] == ["name", None]
    assert moved["tuple"][0] == 1
    assert moved["size"] == torch.Size([1, 2])
    assert torch.equal(moved["nested"]["deep"][0][0], torch.arange(2))
    on_meta = cuda.to_device(batch, torch.device("meta"))
    tensors = on_meta["pair"].images, on_meta["list"][0], on_meta["tuple"][1], on_meta["nested"]["deep"][0][0]
    assert all(tensor.is_meta for tensor in tensors)


@pytest.mark.parametrize(("name", "non_blocking"), [("cpu", False), ("cuda", True)])
def test_only_copies_towards_cuda_do_not_block(monkeypatch, name, non_blocking):
    asked = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **options: asked.append(options) or self)
    cuda.to_device([torch.ones(1)], torch.device(name))
    assert asked == [{"non_blocking": non_blocking}]


def test_a_block_that_fails_is_metered_too():
    with pytest.raises(RuntimeError, match="inside"), cuda.meter(torch.device("cpu")) as usage:
        time.sleep(0.02)
        raise RuntimeError("inside")
    assert 0.02 <= usage.wall_s < 10


def test_generators_of_fewer_devices_are_restored_as_far_as_they_go(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.ones(1), torch.zeros(1)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, index: restored.append((state.item(), index)))
    cuda.restore_rng_state(cuda.rng_state())
    assert restored == [(1.0, 0)]


def test_prefetch_keeps_order():
    batches = [torch.tensor(number) for number in range(5)]
    assert [int(batch) for batch in cuda.prefetch(batches, torch.device("cpu"))] == [0, 1, 2, 3, 4]


def test_prefetch_copies_the_next_batch_on_a_stream_of_its_own(monkeypatch):
    events, side = [], contextlib.nullcontext()
    side.device = torch.device("cuda")
    current = SimpleNamespace(wait_stream=lambda stream: events.append("wait") if stream is side else None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **options: events.append(f"copy {int(self)}") or self)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda self, stream: events.append(f"keep {int(self)}"), raising=False
    )
    batches = ({"x": [torch.tensor(number)], "name": "n", "y": torch.tensor(-number)} for number in (1, 2, 3))
    for batch in cuda.prefetch(batches, torch.device("cuda")):
        events.append(f"use {int(batch['x'][0])}")  # noqa: PERF401 - what is iterated appends as well
    whole = [event for number in (1, 2, 3) for event in ("wait", f"keep {number}", f"keep {-number}", f"use {number}")]
    assert [event for event in events if not event.startswith("copy")] == whole
    for number in (1, 2, 3):
        ahead = [f"copy {value}" for other in range(1, min(number + 1, 3) + 1) for value in (other, -other)]
        assert [event for event in events[: events.index(f"use {number}")] if event.startswith("copy")] == ahead


def test_a_meter_on_cuda_waits_for_the_queue_and_asks_the_allocator(monkeypatch):
    called = []
    for name in ("synchronize", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: called.append(name) or 7)
    with cuda.meter(torch.device("cuda")) as usage:
        called.append("block")
    assert called == ["synchronize", "reset_peak_memory_stats", "block", "synchronize", "max_memory_allocated"]
    assert usage.peak_bytes == 7


def test_auto_takes_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.select_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda.select_device("auto") == torch.device("cuda")


def test_cuda_asked_for_and_absent_says_so(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        cuda.DeviceError, match=r"cuda was asked for, but torch .* finds no usable GPU; check `nvidia-smi`"
    ):
        cuda.select_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(cuda.DeviceError, match="is built without CUDA"):
        cuda.select_device("cuda:0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert cuda.select_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(cuda.DeviceError, match="only 2 CUDA devices are here"):
        cuda.select_device("cuda:2")


def test_bad_input(monkeypatch):
    for name in ("gpu", "", "CPU", "cuda:x", "cuda:-1", "meta", "xla", None):
        with pytest.raises(cuda.DeviceError, match=f"expected auto, cpu, mps, cuda or cuda:<index>, got {name!r}"):
            cuda.select_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(cuda.DeviceError, match="no Metal device"):
        cuda.select_device("mps")
    with pytest.raises(ValueError, match="expected fp32, tf32, bf16 or fp16, got 'fp8'"):
        cuda.autocast(torch.device("cpu"), "fp8")
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="0 <= seed"):
            cuda.seed_everything(seed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    device = cuda.select_device("cuda")
    batches = [{"x": torch.full((1000, 1000), float(number)).pin_memory()} for number in range(5)]
    assert [float(batch["x"].mean()) for batch in cuda.prefetch(batches, device)] == [0, 1, 2, 3, 4]
    with cuda.meter(device) as usage:
        torch.empty(10_000_000, device=device)
    assert usage.peak_bytes >= 40_000_000
    state = cuda.rng_state()
    first = torch.rand(3, device=device)
    cuda.restore_rng_state(state)
    assert torch.equal(first, torch.rand(3, device=device))
    large = torch.arange(50_000_000, device=device)
    assert int(cuda.to_device(large, torch.device("cpu"))[-1]) == 49_999_999
