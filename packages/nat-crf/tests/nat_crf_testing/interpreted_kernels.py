"""Run by test_triton_chain.py in a process of its own: Triton decides at import whether it interprets its kernels."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from nat_crf.chain import log_partition, resolve_method
from nat_crf_testing.chains import assert_same, plain_log_partition, random_chain, with_gradients


def main() -> None:
    # Sizes below, at and between tile sizes; scores of 1e4
    for sizes in ((3, 7, 5, 3), (2, 1, 4, 2), (4, 5, 16, 16), (2, 4, 20, 33)):
        for scale in (1.0, 10.0, 1e4):
            exact, chain = (random_chain(sizes, scale=scale, dtype=dtype) for dtype in (torch.float64, torch.float32))
            expected = with_gradients(plain_log_partition, exact)
            found = with_gradients(lambda chain: log_partition(chain, "triton"), chain)
            # float32 holds a score of 1e4 to 1e-3, and so a probability: there only log Z is compared
            assert_same(*((found, expected) if scale < 100 else (found[:1], expected[:1])), 1e-4)
    assert resolve_method(chain, "auto") == "loop"
    print("interpreted kernels agree")


if __name__ == "__main__":
    main()
