"""The training objective: CRF negative log-likelihood, token cross-entropy, length loss (Section 4.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nat_crf.fused_projection import project, smoothed_token_loss
from nat_crf.lengths import length_class
from nat_crf.models import Nat
from nat_crf.transformer import real_tokens


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the loss.

    Attributes:
        token_weight: lambda of L = L_CRF + lambda L_NAR; None for 0.5 with a CRF and 1 without.
        length_weight: of the length classifier's cross-entropy.
        label_smoothing: of the token loss.
        normalisation: L_CRF is the mean over `sentence`s of NLL / length (as published), or the mean over all `token`s.
        fused: never store the scores of all labels, `[B, T, V]`; the same values with less memory, computed twice.
    """

    token_weight: float | None = None
    length_weight: float = 0.1
    label_smoothing: float = 0.1
    normalisation: Literal["sentence", "token"] = "sentence"
    fused: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected 0 <= rate < 1, got {self.label_smoothing}")
        if min(self.length_weight, self.token_weight or 0.0) < 0:
            raise ValueError(f"weights: expected 0 or more, got {self.token_weight} and {self.length_weight}")
        if self.normalisation not in ("sentence", "token"):
            raise ValueError(f"normalisation: expected sentence or token, got {self.normalisation!r}")


class Losses(NamedTuple):
    """Scalars, all but `total` unweighted.

    Attributes:
        total: what to minimise.
        token: L_NAR, label-smoothed.
        nll: token negative log-likelihood without smoothing, detached.
        crf: L_CRF, None without a CRF.
        length: of the length classifier, None without one.
    """

    total: Tensor
    token: Tensor
    nll: Tensor
    crf: Tensor | None
    length: Tensor | None


def smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, mask: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Label-smoothed token loss: (1 - eps) NLL - eps * mean over tokens and labels of log p (Section 4.5).

    Args:
        logits: `[..., V]`, computed with in float32 or wider.
        targets, mask: `[...]`; only where `mask` is True a token counts.
        smoothing: eps.

    Returns:
        The loss, and the NLL without smoothing (detached); means over the tokens that count.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_partition = logits.logsumexp(dim=-1)
    count = mask.sum()
    gold = logits.gather(-1, targets[..., None]).squeeze(-1)
    nll = (log_partition - gold).masked_fill(~mask, 0).sum() / count
    if smoothing == 0:
        return nll, nll.detach()
    uniform = (log_partition - logits.mean(dim=-1)).masked_fill(~mask, 0).sum() / count
    return (1 - smoothing) * nll + smoothing * uniform, nll.detach()


def crf_loss(log_likelihood: Tensor, lengths: Tensor, normalisation: Literal["sentence", "token"]) -> Tensor:
    """L_CRF from `log_likelihood [B]` and `lengths [B]`: mean of NLL / length, or sum of NLL / sum of lengths."""
    if normalisation == "token":
        return -log_likelihood.sum() / lengths.sum()
    return -(log_likelihood / lengths).mean()


def translation_loss(
    model: Nat,
    source: Tensor,
    target: Tensor,
    config: ObjectiveConfig | None = None,
    *,
    source_mask: Tensor | None = None,
    beam: int | None = None,
) -> Losses:
    """L = L_CRF + lambda L_NAR + mu L_length of a batch (Section 4.5, "Eq. 11").

    Args:
        model: with or without a CRF.
        source: `[B, S]`, padded on either side.
        target: `[B, T]`, padded on the right; both with their boundary symbols.
        config: weights; None for the published ones.
        source_mask: True at real source tokens; default: all but padding.
        beam: k of the CRF; default: the model's.
    """
    config = ObjectiveConfig() if config is None else config
    target_mask = real_tokens("target", target, None)
    encoded = model.encode(source, source_mask)
    states = model.decode_states(encoded, target_mask)
    label_losses = _fused_label_losses if config.fused else _label_losses
    token, nll, log_likelihood = label_losses(model, states, target, target_mask, config.label_smoothing, beam)
    lengths, weight, crf = target_mask.sum(dim=1), config.token_weight, None
    if log_likelihood is None:
        total = token * (1.0 if weight is None else weight)
    else:
        crf = crf_loss(log_likelihood, lengths, config.normalisation)
        total = crf + (0.5 if weight is None else weight) * token
    length, logits = None, model.length_logits(encoded)
    if logits is not None:
        wanted = length_class(lengths, encoded.mask.sum(dim=1), logits.shape[1], offset=model.config.length_offset)
        length = F.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, wanted)
        total = total + config.length_weight * length
    return Losses(total, token, nll, crf, length)


def _label_losses(
    model: Nat, states: Tensor, target: Tensor, mask: Tensor, smoothing: float, beam: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Token loss, NLL without smoothing, log-likelihood of the CRF if there is one."""
    emissions = model.emissions(states)
    token, nll = smoothed_cross_entropy(emissions, target, mask, smoothing)
    if model.crf is None:
        return token, nll, None
    return token, nll, model.crf.log_likelihood(emissions, target, mask, states, beam=beam)


def _fused_label_losses(
    model: Nat, states: Tensor, target: Tensor, mask: Tensor, smoothing: float, beam: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `_label_losses`, from the states alone."""
    weight, bias = model.decoder.embed_tokens.weight, model.decoder.output_bias
    if model.crf is None:
        token, nll = smoothed_token_loss(project(states, weight, 1, bias=bias, targets=target), smoothing)
        log_likelihood = None
    else:
        loss = model.crf.fused_loss(states, weight, target, mask, bias=bias, beam=beam, label_smoothing=smoothing)
        token, nll, log_likelihood = loss.token_loss, loss.token_nll, loss.log_likelihood
    token, nll = (values.masked_fill(~mask, 0).sum() / mask.sum() for values in (token, nll))
    return token, nll.detach(), log_likelihood
