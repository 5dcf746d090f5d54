"""The non-autoregressive translators: NAT, NAT-CRF and NAT-DCRF (Section 3)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nat_crf.config import NatConfig
from nat_crf.crf import LowRankCRF
from nat_crf.lengths import LengthClassifier, class_length, length_candidates, uniform_copy_index
from nat_crf.sequences import BOS, EOS, PAD, UNK
from nat_crf.transformer import Decoder, Encoded, Encoder, embed, embeddings, initialise, real_tokens


class NatOutput(NamedTuple):
    """What one pass gives; not a distribution, so that nothing takes the argmax of a CRF's emissions unawares.

    Attributes:
        emissions: `[B, T, V]` raw label scores e.
        states: `[B, T, d]` decoder states h.
        length_logits: `[B, classes]`, None where the length is a constant's.
    """

    emissions: Tensor
    states: Tensor
    length_logits: Tensor | None


class Nat(nn.Module):
    """A non-autoregressive translator, by `config.crf` without a CRF, with a static one or with a dynamic one.

    Source and target carry the boundary symbols of `config.boundaries` (`sequences.pad_batch` adds them). Sources may
    be padded on either side, targets on the right.

    Args:
        config: sizes and conventions.
        source_vocab, target_vocab: vocabulary sizes, special symbols included; the target's is the source's if None.
    """

    def __init__(self, config: NatConfig, source_vocab: int, target_vocab: int | None = None) -> None:
        super().__init__()
        target_vocab = source_vocab if target_vocab is None else target_vocab
        source_embedding, target_embedding = embeddings(config, source_vocab, target_vocab)
        self.config, self.source_vocab, self.target_vocab = config, source_vocab, target_vocab
        self.encoder = Encoder(config, source_embedding)
        self.decoder = Decoder(config, target_embedding, positional_attention=config.positional_attention)
        self.length: LengthClassifier | None = None
        if config.length == "classifier":
            self.length = LengthClassifier(config.dim, config.length_classes, detach=config.detach_length)
        initialise(self, config.init_std)
        self.crf: LowRankCRF | None = None
        if config.crf != "none":
            self.crf = LowRankCRF(
                target_vocab,
                config.rank,
                state_dim=config.dim if config.crf == "dynamic" else None,
                beam=config.beam,
                transition_std=config.transition_std,
            )

    def forward(self, source: Tensor, target_mask: Tensor, source_mask: Tensor | None = None) -> NatOutput:
        """One pass: `source [B, S]`, `target_mask [B, T]`, True at the target positions (its tokens are never seen)."""
        encoded = self.encode(source, source_mask)
        states = self.decode_states(encoded, target_mask)
        return NatOutput(self.emissions(states), states, self.length_logits(encoded))

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Encoded:
        """Encode `source [B, S]`; `source_mask` is True at real tokens (default: all but padding)."""
        return self.encoder(source, real_tokens("source", source, source_mask))

    def decoder_input(self, encoded: Encoded, target_mask: Tensor) -> Tensor:
        """The decoder's input without positions (Section 3.2), `[n * B, T, d]` for `target_mask [n * B, T]`.

        n consecutive rows of `target_mask` belong to one source.
        """
        if self.config.decoder_input == "copy":
            return self._copied(encoded, target_mask)
        filler = PAD if self.config.decoder_input == "pad" else UNK
        tokens = input_tokens(target_mask, filler, bos=self.config.boundaries == "bos-eos")
        return embed(self.decoder.embed_tokens, tokens)

    def decode_states(self, encoded: Encoded, target_mask: Tensor) -> Tensor:
        """Decoder states h `[n * B, T, d]` for `target_mask [n * B, T]`, n consecutive rows a source."""
        keys = target_mask[:, None, None]
        mask = others_only(target_mask)[:, None] if self.config.self_mask else keys
        return self.decoder(
            self.decoder_input(encoded, target_mask),
            self.decoder.embed_positions(target_mask),
            mask,
            self.decoder.sources(encoded),
            encoded.mask,
            positions_mask=keys,
        )

    def emissions(self, states: Tensor) -> Tensor:
        """Raw label scores `[..., V]` of states `[..., d]` (Section 3.3)."""
        return self.decoder.project(states)

    def length_logits(self, encoded: Encoded) -> Tensor | None:
        """Logits of the length classes `[B, classes]`, None where the length is a constant's."""
        return None if self.length is None else self.length(encoded.states, encoded.mask)

    def length_candidates(self, encoded: Encoded, count: int = 1) -> Tensor:
        """`count` target lengths a source, boundary symbols included, around the expected one: `[B, count]`.

        With a constant: S + C - B .. S + C + B words for count = 2B + 1, at least one word (Section 3.4). With a
        classifier: around the likeliest length, at least two symbols (as published).
        """
        config, source_lengths = self.config, encoded.mask.sum(dim=1)
        logits = self.length_logits(encoded)
        if logits is None:
            minimum, centre = 1 + config.boundary_symbols, source_lengths + config.length_constant
        else:
            minimum, classes = 2, logits.shape[1]
            centre = class_length(logits.argmax(dim=1), source_lengths, classes, offset=config.length_offset)
            centre = centre.clamp_min(minimum)
        return length_candidates(centre, count, minimum=minimum, maximum=config.max_positions)

    def _copied(self, encoded: Encoded, target_mask: Tensor) -> Tensor:
        """Uniform copy of source embeddings; position 0's at padding."""
        copies = target_mask.shape[0] // encoded.mask.shape[0]
        embedded, mask = (tensor.repeat_interleave(copies, dim=0) for tensor in (encoded.embedded, encoded.mask))
        index = uniform_copy_index(mask.sum(dim=1), target_mask.sum(dim=1), target_mask.shape[1])
        if not self.config.copy_from_edge:
            index = index + mask.int().argmax(dim=1, keepdim=True)
        return embedded.gather(1, index[..., None].expand(-1, -1, embedded.shape[2]))


def input_tokens(mask: Tensor, filler: int, *, bos: bool) -> Tensor:
    """Decoder input tokens for a right-padded `mask [B, T]`: `<bos>` (if wanted), `filler` ..., `<eos>`, padding."""
    tokens = torch.full(mask.shape, PAD, device=mask.device).masked_fill(mask, filler)
    if bos:
        tokens[:, 0] = BOS
    return tokens.masked_fill(mask & ~F.pad(mask, (0, 1))[:, 1:], EOS)


def others_only(mask: Tensor) -> Tensor:
    """Attention mask `[B, T, T]`: real positions other than oneself; oneself where there is no other."""
    alone = mask.sum(dim=1)[:, None, None] == 1
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return mask[:, None] & (~itself | alone)


def warm_start(nat: Nat, crf: Literal["static", "dynamic"], **changes: Any) -> Nat:
    """A CRF model that starts as the trained vanilla `nat` (Section 4.6).

    Args:
        nat: trained, of any kind; weights of its own CRF are not taken over.
        crf: kind of transitions.
        changes: other fields of `NatConfig` that leave the shapes of the weights alone (`beam`, `rank`, dropouts ...).

    Raises:
        ValueError: the changes do not fit the weights.
    """
    model = Nat(dataclasses.replace(nat.config, crf=crf, **changes), nat.source_vocab, nat.target_vocab)
    weights = {name: value for name, value in nat.state_dict().items() if not name.startswith("crf.")}
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"changes: they do not fit the trained weights ({error})") from error
    missing = [name for name in missing if not name.startswith("crf.")]
    if missing or unexpected:
        raise ValueError(f"changes: they do not fit the trained weights: {[*missing, *unexpected]}")
    parameter = next(nat.parameters())
    return model.to(parameter.device, parameter.dtype)
