"""Transformer layers: attention on projected keys and values, encoder layer, decoder layer, positional encodings.

Modules carry the names of the published checkpoints. Masks are True where attention may look.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nat_crf.config import TransformerConfig

KeysValues = tuple[Tensor, Tensor]
"""Keys and values split into heads, each `[B, heads, S, dim / heads]`."""


class Attention(nn.Module):
    """Multi-head attention.

    Args:
        dim: width of queries, keys, values and output.
        heads: number of heads.
        dropout: rate on the attention weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def project(self, keys: Tensor, values: Tensor) -> KeysValues:
        """Keys and values `[B, S, d]`, projected and split."""
        return self._split(self.k_proj(keys)), self._split(self.v_proj(values))

    def forward(self, queries: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        """Attend to what `project` returned.

        Args:
            queries: `[n * B, T, d]`; n consecutive rows share one row of keys (candidates of one source sentence).
            keys_values: of B rows.
            mask: broadcastable to `[B, 1, T, S]`, or None to look everywhere.

        Returns:
            `[n * B, T, d]`.
        """
        keys, values = keys_values
        rows, length, dim = queries.shape
        shared = rows != keys.shape[0]
        split = self._split(self.q_proj(queries).reshape(keys.shape[0], -1, dim) if shared else self.q_proj(queries))
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(split, keys, values, attn_mask=mask, dropout_p=rate)
        return self.out_proj(mixed.transpose(1, 2).reshape(rows, length, dim))

    def _split(self, states: Tensor) -> Tensor:
        batch, length, dim = states.shape
        return states.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)


class _Layer(nn.Module):
    """What encoder and decoder layers share: residual connections and the feed-forward sub-layer."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm, self.dropout = config.pre_norm, nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.self_attn = self._attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.fc1, self.fc2 = nn.Linear(config.dim, config.ffn_dim), nn.Linear(config.ffn_dim, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)

    @staticmethod
    def _attention(config: TransformerConfig) -> Attention:
        return Attention(config.dim, config.heads, config.attention_dropout)

    def _add(self, states: Tensor, norm: nn.LayerNorm, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """x + sublayer(norm(x)) (pre-norm), or norm(x + sublayer(x)) (post-norm)."""
        if self.pre_norm:
            return states + self.dropout(sublayer(norm(states)))
        return norm(states + self.dropout(sublayer(states)))

    def _feed_forward(self, states: Tensor) -> Tensor:
        return self.fc2(self.activation_dropout(self.fc1(states).relu()))


class EncoderLayer(_Layer):
    """Self-attention and feed-forward (Section 3.1)."""

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """`states [B, S, d]` to the same shape; `mask` as in `Attention`."""
        attn = self.self_attn
        states = self._add(states, self.self_attn_layer_norm, lambda x: attn(x, attn.project(x, x), mask))
        return self._add(states, self.final_layer_norm, self._feed_forward)


class DecoderLayer(_Layer):
    """Self-attention, positional attention if wanted, encoder-decoder attention, feed-forward (Section 3.2)."""

    def __init__(self, config: TransformerConfig, *, positional_attention: bool = False) -> None:
        super().__init__(config)
        self.positional_attn = self._attention(config) if positional_attention else None
        self.positional_attn_layer_norm = nn.LayerNorm(config.dim) if positional_attention else None
        self.encoder_attn = self._attention(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.dim)

    def forward(
        self,
        states: Tensor,
        source: KeysValues,
        *,
        mask: Tensor | None,
        source_mask: Tensor | None,
        positions: Tensor | None = None,
        positions_mask: Tensor | None = None,
        past: KeyValueCache | None = None,
    ) -> Tensor:
        """One layer on `states [n * B, T, d]`.

        Args:
            states: of the target positions.
            source: what `encoder_attn.project` makes of the encoder's output, B rows.
            mask, source_mask, positions_mask: for the three attentions, see `Attention`.
            positions: `[n * B, T, d]` positional encodings, queries and keys of the positional attention.
            past: keys and values of earlier positions, to which those of `states` are added (one step at a time).
        """

        def attend_self(x: Tensor) -> Tensor:
            keys_values = self.self_attn.project(x, x)
            return self.self_attn(x, keys_values if past is None else past.extend(keys_values), mask)

        states = self._add(states, self.self_attn_layer_norm, attend_self)
        attention, norm = self.positional_attn, self.positional_attn_layer_norm
        if attention is not None and norm is not None and positions is not None:
            states = self._add(
                states, norm, lambda x: attention(positions, attention.project(positions, x), positions_mask)
            )
        states = self._add(states, self.encoder_attn_layer_norm, lambda x: self.encoder_attn(x, source, source_mask))
        return self._add(states, self.final_layer_norm, self._feed_forward)


class KeyValueCache:
    """Keys and values of the positions decoded so far, one layer's."""

    def __init__(self) -> None:
        self.content: KeysValues | None = None

    def extend(self, new: KeysValues) -> KeysValues:
        """Append along the positions and return all."""
        if self.content is not None:
            new = torch.cat([self.content[0], new[0]], dim=2), torch.cat([self.content[1], new[1]], dim=2)
        self.content = new
        return new

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in their order."""
        if self.content is not None:
            self.content = self.content[0][rows], self.content[1][rows]


class Positions(nn.Module):
    """Positional encodings of real tokens, counted from 1 whatever side the padding is on; zero at padding.

    Args:
        config: says whether they are learned, and how many there are.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.max_positions = config.max_positions
        self.weight: Tensor
        if config.positions == "learned":
            self.weight = nn.Parameter(torch.zeros(config.max_positions + 1, config.dim))
        else:
            # fairseq's count: the first token has the angles of position 2
            table = sinusoids(config.max_positions + 2, config.dim)[1:]
            table[0] = 0
            self.register_buffer("weight", table, persistent=False)

    def forward(self, mask: Tensor) -> Tensor:
        """Encodings `[B, T, d]` for `mask [B, T]`, True at real tokens.

        Raises:
            ValueError: the batch is longer than `max_positions`.
        """
        if mask.shape[1] > self.max_positions:
            raise ValueError(
                f"sequence: expected at most {self.max_positions} tokens (max_positions), got {mask.shape[1]}"
            )
        return F.embedding(mask.cumsum(dim=1) * mask, self.weight, padding_idx=0)


def sinusoids(count: int, dim: int) -> Tensor:
    """Sines in the first half, cosines in the second, of positions 0..count-1, `[count, dim]`."""
    half = dim // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000) / max(half - 1, 1)))
    angles = torch.arange(count)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
