"""Sizes and conventions of the models, as frozen dataclasses, and their presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class TransformerConfig:
    """A Transformer encoder and decoder; as it stands, the autoregressive teacher of the paper's base size.

    Attributes:
        encoder_layers, decoder_layers: number of layers.
        dim, ffn_dim, heads: width of the states, of the feed-forward layers' inside, number of attention heads.
        dropout: on embeddings and on what every sub-layer adds.
        attention_dropout: on attention weights. On a CPU anything but 0 takes attention's slow path.
        activation_dropout: behind the feed-forward layers' ReLU.
        pre_norm: normalise before every sub-layer and once at the end; else after every sub-layer.
        positions: `sinusoidal` or `learned` positional encodings.
        max_positions: longest sequence, boundary symbols included.
        share_embeddings: one matrix for source and target; the output projection is always tied to the target's.
        output_bias: whether the output projection has a bias.
        init_std: standard deviation of all initial weights (0.02 for BERT-style); None for Xavier matrices and
            embeddings of variance 1/dim.
    """

    encoder_layers: int = 6
    decoder_layers: int = 6
    dim: int = 512
    ffn_dim: int = 2048
    heads: int = 8
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    pre_norm: bool = True
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_positions: int = 1024
    share_embeddings: bool = True
    output_bias: bool = True
    init_std: float | None = None

    def __post_init__(self) -> None:
        for name in ("encoder_layers", "decoder_layers", "dim", "ffn_dim", "heads"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(self.max_positions >= 3, "max_positions", "at least 3", self.max_positions)
        _require(self.dim % self.heads == 0, "dim", f"a multiple of heads ({self.heads})", self.dim)
        _require(self.dim % 2 == 0, "dim", "an even number", self.dim)
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            _require(0 <= getattr(self, name) < 1, name, "0 <= rate < 1", getattr(self, name))
        _require(self.positions in ("sinusoidal", "learned"), "positions", "sinusoidal or learned", self.positions)


@dataclass(frozen=True)
class NatConfig(TransformerConfig):
    """A non-autoregressive translator: NAT, NAT-CRF (`crf="static"`) or NAT-DCRF (`crf="dynamic"`).

    Attributes:
        positional_attention: a sub-layer in every decoder layer that attends by position alone (Section 3.2).
        self_mask: forbid positions to attend to themselves in the decoder (Gu et al., 2018).
        decoder_input: `pad` (the paper), `mask` (the `<unk>` embedding; fairseq), or `copy`, the uniform copy of
            source embeddings.
        copy_from_edge: count copied positions from the batch's left edge, so that left-padded sources copy padding.
            A defect of fairseq, for parity with models trained with it.
        boundaries: which symbols stand around the words on both sides and take part in the CRF: `eos` at the end (the
            paper) or also `bos` at the beginning (`bos-eos`; fairseq).
        length: `constant`, target words = source words + `length_constant`; or `classifier`, learned.
        length_constant: C of Section 3.4; for a new dataset see `lengths.length_constant`.
        length_classes: classes of the length classifier.
        length_offset: the classes are length differences, with no difference in the middle; else target lengths.
        detach_length: the length loss does not reach the encoder.
        crf: `none`, `static` (NAT-CRF) or `dynamic` (NAT-DCRF).
        rank, beam: r and k of Section 4.
        transition_std: standard deviation of the initial E1 and E2 (1.0 as in fairseq wrecks a warm start).
    """

    positional_attention: bool = True
    self_mask: bool = False
    decoder_input: Literal["pad", "mask", "copy"] = "pad"
    copy_from_edge: bool = False
    boundaries: Literal["eos", "bos-eos"] = "eos"
    length: Literal["constant", "classifier"] = "constant"
    length_constant: int = 0
    length_classes: int = 256
    length_offset: bool = True
    detach_length: bool = False
    crf: Literal["none", "static", "dynamic"] = "none"
    rank: int = 32
    beam: int = 64
    transition_std: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {
            "decoder_input": ("pad", "mask", "copy"),
            "boundaries": ("eos", "bos-eos"),
            "length": ("constant", "classifier"),
            "crf": ("none", "static", "dynamic"),
        }
        for name, values in choices.items():
            _require(getattr(self, name) in values, name, f"one of {values}", getattr(self, name))
        for name in ("length_classes", "rank", "beam"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))

    @property
    def boundary_symbols(self) -> int:
        """How many symbols of a sequence are not words."""
        return 1 if self.boundaries == "eos" else 2

    def teacher(self) -> TransformerConfig:
        """The autoregressive model of equal size."""
        names = (field.name for field in dataclasses.fields(TransformerConfig))
        return TransformerConfig(**{name: getattr(self, name) for name in names})


_PAPER: dict[str, Any] = {"length_constant": 2}
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    "paper-iwslt14": _PAPER | {"encoder_layers": 5, "decoder_layers": 5, "dim": 256, "ffn_dim": 1024, "heads": 4},
    "fairseq": {
        "dropout": 0.3,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "positions": "learned",
        "output_bias": False,
        "init_std": 0.02,
        "positional_attention": False,
        "decoder_input": "mask",
        "boundaries": "bos-eos",
        "length": "classifier",
        "transition_std": 1.0,
    },
    "laptop": {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dim": 128,
        "ffn_dim": 256,
        "heads": 4,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "positions": "learned",
        "max_positions": 128,
        "share_embeddings": False,
        "output_bias": False,
        "positional_attention": False,
        "decoder_input": "mask",
        "length": "classifier",
        "length_classes": 16,
        "beam": 32,
    },
}


def preset(name: str, **changes: Any) -> NatConfig:
    """A named configuration with changes.

    Args:
        name: `paper` (WMT14 En-De; give `length_constant=-2` for De-En), `paper-iwslt14`, `fairseq` (its scripts: the
            plain NAT is post-norm, the one with a CRF pre-norm), or `laptop`.
        changes: fields of `NatConfig`.

    Raises:
        ValueError: unknown preset or field, or a value out of range.
    """
    if name not in _PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(_PRESETS)}, got {name!r}")
    unknown = set(changes) - {field.name for field in dataclasses.fields(NatConfig)}
    if unknown:
        raise ValueError(f"preset: NatConfig has no field named {', '.join(sorted(unknown))}")
    values = _PRESETS[name] | changes
    if name == "fairseq":
        values.setdefault("pre_norm", values.get("crf", "none") != "none")
    return NatConfig(**values)


def _require(condition: bool, name: str, expected: str, found: object) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {found!r}")
