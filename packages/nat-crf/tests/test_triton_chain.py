"""The fused kernels: interpreted on a CPU, compiled for GPUs that need not be here, and run where there is one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nat_crf_testing.chains import assert_same, plain_log_partition, random_chain, with_gradients

from nat_crf.chain import log_partition, resolve_method

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
HERE = Path(__file__).parent


def test_interpreted_kernels_equal_the_plain_loop(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    script = HERE / "nat_crf_testing" / "interpreted_kernels.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "interpreted kernels agree", done.stderr


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_kernels_compile(direction: str, architecture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the paper's sizes, into what every GPU has of shared memory; no GPU is needed for that."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nat_crf import triton_chain

    kernel = {"forward": triton_chain._forward_kernel, "backward": triton_chain._backward_kernel}[direction]
    types = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in kernel.arg_names}
    signature = types | {"lengths_ptr": "*i64", "K": "constexpr", "R": "constexpr"}
    source = ASTSource(fn=kernel, signature=signature, constexprs={"K": 64, "R": 32})
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": 4})
    assert compiled.metadata.shared <= 99 * 1024


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("method", ["loop", "scan", "triton"])
@pytest.mark.parametrize("sizes", [(3, 7, 5, 3), (2, 1, 4, 2), (8, 20, 64, 32), (2, 4, 20, 33)])
def test_methods_agree_on_a_device(method: str, sizes: tuple[int, int, int, int]) -> None:
    for scale in (1.0, 10.0):
        expected = with_gradients(plain_log_partition, random_chain(sizes, scale=scale))
        chain = random_chain(sizes, scale=scale, dtype=torch.float32, device="cuda")
        assert_same(with_gradients(lambda chain: log_partition(chain, method), chain), expected, 1e-4)


@pytest.mark.gpu
@on_gpu
def test_kernel_is_chosen_on_a_device() -> None:
    chain = random_chain((8, 20, 64, 32), dtype=torch.float32, device="cuda")
    assert resolve_method(chain, "auto") == "triton"
    assert resolve_method(random_chain((2, 3, 64, 8), device="cuda"), "auto") == "scan"


@pytest.mark.gpu
@on_gpu
def test_kernel_writes_no_blocks() -> None:
    chain = random_chain((64, 32, 64, 32), dtype=torch.float32, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with_gradients(lambda chain: log_partition(chain, "triton"), chain)
    blocks = 64 * 31 * 64 * 64 * 4
    # Both factors and their gradients, and what indexing needs for its own
    assert torch.cuda.max_memory_allocated() - before < 4 * blocks
