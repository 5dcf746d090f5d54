"""Quantised matrices as they are stored: indices packed into bytes, an offset and a scale (mean and std) in float32.

Element i is in byte i * bits // 8, at bit (i mod 8/bits) * bits counted from the least significant; index 0 is the
lowest level. At 16 and 32 bits the weights themselves are stored, little-endian, and there is neither offset nor scale.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from bi_adapter.codebooks import codebook

PACKED_BITS = (1, 2, 4, 8)
BITS = (*PACKED_BITS, 16, 32)
_FLOATS = {16: torch.float16, 32: torch.float32}


@dataclass(frozen=True)
class StoredMatrix:
    """One matrix as stored.

    Attributes:
        packed: uint8 [packed_size(rows * columns, bits)].
        stats: float32 [groups, 2], offset and scale; groups is 1, or the number of rows, or 0 at 16 and 32 bits.
        shape: (rows, columns).
        bits: 1, 2, 4, 8, 16 or 32.
        codebook: name of the levels, see `codebook.CODEBOOKS`; of no meaning at 16 and 32 bits.
    """

    packed: Tensor
    stats: Tensor
    shape: tuple[int, int]
    bits: int
    codebook: str = "converged"

    @property
    def payload_bytes(self) -> int:
        """Bytes of indices, offsets and scales."""
        return self.packed.numel() + 4 * self.stats.numel()


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` numbers of `bits` bits take; the last byte is filled up with zeros."""
    return math.ceil(count * bits / 8)


def pack(index: Tensor, bits: int) -> Tensor:
    """Pack indices.

    Args:
        index: integers in 0..2^bits-1, of any shape; read row by row.
        bits: 1, 2, 4 or 8.

    Returns:
        uint8 [packed_size(count, bits)].

    Raises:
        ValueError: bits that do not divide 8, or indices that do not fit.
    """
    _check_packed_bits(bits)
    flat = index.reshape(-1)
    if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >= 2**bits):
        raise ValueError(f"index: expected 0..{2**bits - 1}, got {int(flat.min())}..{int(flat.max())}")
    each = 8 // bits
    # [bytes, 8 / bits]
    groups = F.pad(flat.to(torch.uint8), (0, -flat.numel() % each)).view(-1, each)
    # A product is faster than shifts, and exact: no byte is above 255
    return (groups.float() @ (2.0 ** torch.arange(0, 8, bits, device=flat.device))).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` indices, uint8 [count], of packed bytes.

    Raises:
        ValueError: bits that do not divide 8, or not exactly the bytes that `count` indices take.
    """
    _check_packed_bits(bits)
    if packed.numel() != packed_size(count, bits):
        raise ValueError(f"packed: {count} indices take {packed_size(count, bits)} bytes, got {packed.numel()}")
    return ((packed[:, None] >> _shifts(bits, packed.device)) & (2**bits - 1)).view(-1)[:count]


@cache
def byte_table(name: str, bits: int, device: torch.device) -> Tensor:
    """The levels that each byte stands for, float32 [256, 8 / bits]; unpacking is one look-up in it."""
    with torch.inference_mode(False), torch.no_grad():
        every = torch.arange(256, dtype=torch.uint8)
        return codebook(name, bits).levels[unpack(every, bits, 256 * 8 // bits).int()].view(256, -1).to(device)


def level_values(packed: Tensor, table: Tensor, count: int) -> Tensor:
    """Levels of packed indices, float32 [..., count], for bytes [..., packed_size] and the table of `byte_table`."""
    return F.embedding(packed.int(), table).flatten(-2)[..., :count]


def standardised(stored: StoredMatrix) -> Tensor:
    """c[index], float32 [rows, columns].

    Raises:
        ValueError: at 16 and 32 bits, which have no levels.
    """
    table = byte_table(stored.codebook, stored.bits, stored.packed.device)
    return level_values(stored.packed, table, math.prod(stored.shape)).view(stored.shape)


def decode(stored: StoredMatrix) -> Tensor:
    """The weights W = c[index] * scale + offset, float32 [rows, columns]."""
    if stored.bits in _FLOATS:
        return from_bytes(stored.packed, _FLOATS[stored.bits]).view(stored.shape).float()
    # [groups, 1] each
    offset, scale = stored.stats[:, :1], stored.stats[:, 1:]
    return standardised(stored) * scale + offset


def packed_linear(x: Tensor, stored: StoredMatrix) -> Tensor:
    """x W^T without making W: scale * (x c[index]^T) + offset * sum(x).

    Args:
        x: [..., columns].
        stored: of 1, 2, 4 or 8 bits.

    Returns:
        [..., rows].
    """
    offset, scale = stored.stats.to(x.dtype).unbind(dim=1)
    return F.linear(x, standardised(stored).to(x.dtype)) * scale + x.sum(dim=-1, keepdim=True) * offset


def stored_floats(weight: Tensor, bits: int) -> StoredMatrix:
    """A matrix of 16 or 32 bits as stored."""
    packed = to_bytes(weight.detach().to(_FLOATS[bits]))
    return StoredMatrix(packed, torch.empty(0, 2, device=weight.device), (weight.shape[0], weight.shape[1]), bits)


def to_bytes(values: Tensor) -> Tensor:
    """The little-endian bytes of a tensor, uint8 [bytes]."""
    flat = values.contiguous().view(-1).view(torch.uint8)
    return flat if sys.byteorder == "little" else flat.view(-1, values.element_size()).flip(1).reshape(-1)


def from_bytes(content: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers [count] that `to_bytes` made into bytes."""
    size = torch.empty(0, dtype=dtype).element_size()
    ordered = content if sys.byteorder == "little" else content.view(-1, size).flip(1)
    # A copy, because a view needs an offset that is a multiple of the size
    return ordered.reshape(-1).clone().view(dtype)


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=device)


def _check_packed_bits(bits: int) -> None:
    if bits not in PACKED_BITS:
        raise ValueError(f"bits: packing is for {PACKED_BITS}, got {bits}")
