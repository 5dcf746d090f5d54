"""What kind of adapter: the settings of one task's adapter, apart from its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bi_adapter.packing import BITS
from bi_adapter.quantise import QUANTISERS, QuantiserName, codebook_name

Method = Literal["adaptformer", "lora"]
CodebookKind = Literal["converged", "as-published"]


@dataclass(frozen=True)
class BiAdapterConfig:
    """Settings of an adapter; the defaults are the paper's Bi-AdaptFormer of width 32.

    Attributes:
        method: `adaptformer`, s U relu(D x) beside every MLP; or `lora`, s U D x on every query and value.
        bits: of an adapter weight: 1, 2, 4, 8, 16 or 32. 16 and 32 are plain floats without quantisation.
        dim: hidden width h.
        scale: s, used as it is (not divided by the rank).
        dropout: on the hidden units while training.
        head_bits: of a classifier weight; 32 and 16 have a bias, fewer have none (1 is the paper's bi-head).
        codebook: `converged`, or `as-published` with its 500 rounds, which differ at 8 bits.
        quantiser: one of `quantise.QUANTISERS`; `median` is the paper's. The classifier always has `median`.
        per_row: offset and scale for each row of a matrix instead of the whole (not in the published file format).
        statistic_gradients: let gradients through mean and standard deviation, as published.
        drop_path: rate of stochastic depth in the last block, rising linearly from 0 in the first (published: 0.1);
            None leaves the backbone's own.
    """

    method: Method = "adaptformer"
    bits: int = 1
    dim: int = 32
    scale: float = 1.0
    dropout: float = 0.1
    head_bits: int = 32
    codebook: CodebookKind = "converged"
    quantiser: QuantiserName = "median"
    per_row: bool = False
    statistic_gradients: bool = True
    drop_path: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no adapter has.

        Raises:
            ValueError: names the field, what was expected and what was found.
        """
        if self.method not in get_args(Method):
            raise ValueError(f"method: expected one of {get_args(Method)}, got {self.method!r}")
        for name in ("bits", "head_bits"):
            if not _is_whole(getattr(self, name)) or getattr(self, name) not in BITS:
                raise ValueError(f"{name}: expected one of {BITS}, got {getattr(self, name)!r}")
        if not _is_whole(self.dim) or not 1 <= self.dim <= 65536:
            raise ValueError(f"dim: expected a width from 1 to 65536, got {self.dim!r}")
        if not _is_number(self.scale) or not math.isfinite(self.scale):
            raise ValueError(f"scale: expected a finite number, got {self.scale!r}")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a rate in [0, 1), got {self.dropout!r}")
        if self.drop_path is not None and not (_is_number(self.drop_path) and 0 <= self.drop_path < 1):
            raise ValueError(f"drop_path: expected None or a rate in [0, 1), got {self.drop_path!r}")
        for name in ("per_row", "statistic_gradients"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        if not isinstance(self.quantiser, str) or not isinstance(self.codebook, str):
            raise ValueError(f"quantiser, codebook: expected names, got {self.quantiser!r}, {self.codebook!r}")
        codebook_name(self.quantiser, self.codebook)
        only = {"nf4": 4, "sign": 1}.get(self.quantiser)
        if only is not None and self.bits != only:
            raise ValueError(f"bits: the quantiser {self.quantiser} exists at {only} bits only, got {self.bits}")

    @property
    def levels(self) -> str:
        """Name of the codebook of the adapter weights."""
        return codebook_name(self.quantiser, self.codebook)

    @property
    def learned_step(self) -> bool:
        """Whether every matrix has a learned scale."""
        return self.bits <= 8 and QUANTISERS[self.quantiser].learned_step


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
