"""Tiny models and random batches for the tests of models and decoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nat_crf.config import NatConfig, preset
from nat_crf.models import Nat
from nat_crf.sequences import pad_batch

SIZES = {"encoder_layers": 1, "decoder_layers": 2, "dim": 8, "ffn_dim": 12, "heads": 2, "rank": 3, "max_positions": 40}
KINDS = [(name, crf) for name in ("paper", "fairseq", "laptop") for crf in ("none", "static", "dynamic")]


def tiny_config(name: str = "laptop", **changes: Any) -> NatConfig:
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    return preset(name, **(SIZES | rates | {"transition_std": 0.5} | changes))


def tiny_model(name: str = "laptop", *, vocab: int = 13, seed: int = 0, **changes: Any) -> Nat:
    """A model in float64 and evaluation mode."""
    torch.manual_seed(seed)
    return Nat(tiny_config(name, **changes), vocab).double().eval()


def word_rows(lengths: list[int], vocab: int = 13, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, vocab, (length,), generator=generator).tolist() for length in lengths]


def batch(model: Nat, lengths: list[int], seed: int = 0, *, left: bool = False) -> Tensor:
    return pad_batch(word_rows(lengths, model.source_vocab, seed), model.config.boundaries, left=left)
