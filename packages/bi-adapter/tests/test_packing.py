"""Packed matrices (§3, §11.6, §11.9)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_adapter.packing import PACKED_BITS, decode, pack, packed_linear, packed_size, standardised, unpack
from bi_adapter.quantise import encode


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PACKED_BITS), st.integers(0, 70), st.integers(0, 1000))
def test_there_and_back(bits, count, seed):
    index = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    packed = pack(index, bits)
    assert packed.numel() == packed_size(count, bits)
    assert torch.equal(unpack(packed, bits, count), index)
    # Bit by bit, least significant first
    flat = np.unpackbits(index.numpy()[:, None], axis=1, bitorder="little")[:, :bits].reshape(-1)
    assert np.array_equal(np.packbits(flat, bitorder="little"), packed.numpy())


@pytest.mark.parametrize("bits", PACKED_BITS)
def test_multiplying_by_the_packed_form(bits):
    torch.manual_seed(0)
    weight, x = torch.randn(7, 12), torch.randn(2, 5, 12)
    for per_row in (False, True):
        stored = encode(weight, bits, per_row=per_row)
        torch.testing.assert_close(packed_linear(x, stored), x @ decode(stored).T, rtol=1e-4, atol=1e-5)
    assert standardised(stored).shape == (7, 12)


@pytest.mark.parametrize("bits", [16, 32])
def test_plain_floats(bits):
    weight = torch.randn(3, 5)
    stored = encode(weight, bits)
    assert stored.payload_bytes == 15 * bits // 8
    assert torch.equal(decode(stored), weight.half().float() if bits == 16 else weight)


def test_bad_input():
    with pytest.raises(ValueError, match="packing is for"):
        pack(torch.zeros(8, dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        pack(torch.tensor([0, 2]), 1)
    with pytest.raises(ValueError, match="take 2 bytes"):
        unpack(torch.zeros(3, dtype=torch.uint8), 1, 16)
    with pytest.raises(ValueError, match="packing is for"):
        encode(torch.randn(4, 4), 3)
