"""Configurations and presets."""

import dataclasses
from typing import Any

import pytest

from nat_crf.config import NatConfig, TransformerConfig, preset


def test_presets() -> None:
    """Section 5: the sizes of the paper; Section 9: where fairseq differs."""
    base, small, fairseq = preset("paper"), preset("paper-iwslt14"), preset("fairseq")
    assert (base.encoder_layers, base.dim, base.ffn_dim, base.heads, base.length_constant) == (6, 512, 2048, 8, 2)
    assert (small.encoder_layers, small.dim, small.ffn_dim, small.heads) == (5, 256, 1024, 4)
    assert base.positional_attention
    assert (base.decoder_input, base.boundaries, base.boundary_symbols) == ("pad", "eos", 1)
    assert not fairseq.positional_attention
    assert (fairseq.decoder_input, fairseq.boundaries, fairseq.boundary_symbols) == ("mask", "bos-eos", 2)
    assert not fairseq.pre_norm
    assert preset("fairseq", crf="static").pre_norm
    assert not preset("fairseq", crf="static", pre_norm=False).pre_norm


def test_teacher_has_the_same_sizes() -> None:
    config = preset("laptop", dropout=0.2)
    teacher = config.teacher()
    assert type(teacher) is TransformerConfig
    shared = {field.name for field in dataclasses.fields(TransformerConfig)}
    assert all(getattr(teacher, name) == getattr(config, name) for name in shared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 7, "heads": 2}, "dim: expected a multiple of heads"),
        ({"dim": 3, "heads": 1}, "dim: expected an even number"),
        ({"heads": 0}, "heads: expected at least 1"),
        ({"dropout": 1.0}, "dropout: expected 0 <= rate < 1"),
        ({"positions": "relative"}, "positions"),
        ({"crf": "full"}, "crf: expected one of"),
        ({"decoder_input": "words"}, "decoder_input"),
        ({"beam": 0}, "beam: expected at least 1"),
        ({"max_positions": 2}, "max_positions"),
    ],
)
def test_bad_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NatConfig(**change)


def test_bad_presets() -> None:
    with pytest.raises(ValueError, match="preset: expected one of paper"):
        preset("wmt")
    with pytest.raises(ValueError, match="no field named beams"):
        preset("paper", beams=3)
