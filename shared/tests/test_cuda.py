from __future__ import annotations

import random
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


def test_switches_are_put_back_even_after_an_error():
    before = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="inside"), cuda.tf32(True), cuda.deterministic():
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("inside")
    assert (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()) == before
    with cuda.deterministic(enabled=False):
        assert torch.are_deterministic_algorithms_enabled() == before[1]


def test_batches_keep_their_structure():
    batch = {"pair": Pair(torch.zeros(2), torch.ones(2)), "list": [torch.zeros(1), "name"], "tuple": (1, torch.ones(1))}
    moved = next(iter(cuda.prefetch([batch], torch.device("cpu"))))
    assert isinstance(moved["pair"], Pair)
    assert torch.equal(moved["pair"].labels, torch.ones(2))
    assert moved["list"][1] == "name"
    assert moved["tuple"][0] == 1


def test_prefetch_keeps_order():
    batches = [torch.tensor(number) for number in range(5)]
    assert [int(batch) for batch in cuda.prefetch(batches, torch.device("cpu"))] == [0, 1, 2, 3, 4]


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
    with pytest.raises(cuda.DeviceError, match="expected auto, cpu, mps, cuda or cuda:<index>, got 'gpu'"):
        cuda.select_device("gpu")
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
