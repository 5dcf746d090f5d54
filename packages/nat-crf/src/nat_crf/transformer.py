"""Encoder and decoder stacks, shared by the non-autoregressive models and their autoregressive teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nat_crf.config import TransformerConfig
from nat_crf.layers import DecoderLayer, EncoderLayer, KeysValues, KeyValueCache, Positions
from nat_crf.sequences import PAD


class Encoded(NamedTuple):
    """A batch of encoded sources.

    Attributes:
        states: `[B, S, d]` output of the encoder.
        mask: `[B, S]`, True at real tokens.
        embedded: `[B, S, d]` scaled token embeddings, without positions.
    """

    states: Tensor
    mask: Tensor
    embedded: Tensor


class Encoder(nn.Module):
    """Transformer encoder (Section 3.1)."""

    def __init__(self, config: TransformerConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        self.embed_tokens, self.embed_positions = embed_tokens, Positions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.dim) if config.pre_norm else None

    def forward(self, tokens: Tensor, mask: Tensor) -> Encoded:
        """Encode `tokens [B, S]` with `mask [B, S]`, padded on either side."""
        embedded = embed(self.embed_tokens, tokens)
        states = self.dropout(embedded + self.embed_positions(mask))
        for layer in self.layers:
            states = layer(states, mask[:, None, None])
        return Encoded(states if self.layer_norm is None else self.layer_norm(states), mask, embedded)


class Decoder(nn.Module):
    """Transformer decoder with an output projection tied to its embedding (Sections 3.2, 3.3)."""

    def __init__(
        self, config: TransformerConfig, embed_tokens: nn.Embedding, *, positional_attention: bool = False
    ) -> None:
        super().__init__()
        self.embed_tokens, self.embed_positions = embed_tokens, Positions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(config, positional_attention=positional_attention) for _ in range(config.decoder_layers)
        )
        self.layer_norm = nn.LayerNorm(config.dim) if config.pre_norm else None
        self.output_bias = nn.Parameter(torch.zeros(embed_tokens.num_embeddings)) if config.output_bias else None

    def sources(self, encoded: Encoded) -> list[KeysValues]:
        """Keys and values of the encoder-decoder attentions, one pair a layer."""
        return [layer.encoder_attn.project(encoded.states, encoded.states) for layer in self._decoder_layers()]

    def forward(
        self,
        embedded: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        sources: Sequence[KeysValues],
        source_mask: Tensor,
        *,
        positions_mask: Tensor | None = None,
        past: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """Decoder states `[n * B, T, d]`.

        Args:
            embedded: `[n * B, T, d]` input without positions; n consecutive rows share one source.
            positions: `[n * B, T, d]` positional encodings.
            mask: of the self-attention, broadcastable to `[n * B, 1, T, T]`; None to look everywhere.
            sources: of the B sources, from `sources`.
            source_mask: `[B, S]`.
            positions_mask: as `mask`, for the positional attention.
            past: one cache a layer, for decoding step by step.
        """
        states = self.dropout(embedded + positions)
        for index, layer in enumerate(self._decoder_layers()):
            states = layer(
                states,
                sources[index],
                mask=mask,
                source_mask=source_mask[:, None, None],
                positions=positions,
                positions_mask=positions_mask,
                past=None if past is None else past[index],
            )
        return states if self.layer_norm is None else self.layer_norm(states)

    def project(self, states: Tensor) -> Tensor:
        """Raw scores of all labels, h W^T + b (Section 3.3): `[..., d]` to `[..., V]`."""
        return F.linear(states, self.embed_tokens.weight, self.output_bias)

    def _decoder_layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]


def embed(embedding: nn.Embedding, tokens: Tensor) -> Tensor:
    """Token embeddings times sqrt(d)."""
    return embedding(tokens) * math.sqrt(embedding.embedding_dim)


def embeddings(config: TransformerConfig, source_vocab: int, target_vocab: int) -> tuple[nn.Embedding, nn.Embedding]:
    """Source and target embedding, one and the same if shared.

    Raises:
        ValueError: a vocabulary without room for a word, or a shared one of two sizes.
    """
    for name, size in (("source_vocab", source_vocab), ("target_vocab", target_vocab)):
        if size < 5:
            raise ValueError(f"{name}: expected at least 5 (four special symbols and a word), got {size}")
    source = nn.Embedding(source_vocab, config.dim, padding_idx=PAD)
    if not config.share_embeddings:
        return source, nn.Embedding(target_vocab, config.dim, padding_idx=PAD)
    if source_vocab != target_vocab:
        raise ValueError(
            f"target_vocab: expected {source_vocab}, the size of the source vocabulary, as share_embeddings is set; "
            f"got {target_vocab}"
        )
    return source, source


def initialise(model: nn.Module, std: float | None) -> None:
    """Initial weights: normal with `std` throughout, or, for None, Xavier matrices.

    With None token embeddings have variance 1/d (unit after scaling), learned positions 1/2 as sinusoids have. Biases
    and the padding symbol are zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std) if std else nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std or module.embedding_dim**-0.5)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, Positions) and isinstance(module.weight, nn.Parameter):
            nn.init.normal_(module.weight, std=std or 0.5**0.5)
            nn.init.zeros_(module.weight[0])


def real_tokens(name: str, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """`mask [B, T]`, or where `tokens` are not padding.

    Raises:
        ValueError: `tokens` not `[B, T]` of integers, or a mask of another shape or dtype.
    """
    if tokens.ndim != 2 or tokens.dtype not in (torch.int64, torch.int32) or 0 in tokens.shape:
        raise ValueError(f"{name}: expected token ids [batch, tokens], got {tokens.dtype} {list(tokens.shape)}")
    mask = tokens != PAD if mask is None else mask
    if mask.shape != tokens.shape or mask.dtype != torch.bool:
        raise ValueError(f"{name}_mask: expected booleans {list(tokens.shape)}, got {mask.dtype} {list(mask.shape)}")
    return mask
