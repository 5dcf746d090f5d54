"""Decoding in exactly one pass: length-parallel candidates, Viterbi or argmax, choice among them (Sections 4.7-4.8)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nat_crf.models import Nat
from nat_crf.rescoring import Scorer, rescore
from nat_crf.sequences import length_mask, word_lists

Choice = Literal["log_probability", "published"]


@dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Attributes:
        words: token ids without special symbols.
        score: what the translations of a sentence are sorted by.
        log_probability: the model's own, given the length, per decoder position.
        length: number of decoder positions, boundary symbols included.
    """

    words: tuple[int, ...]
    score: float
    log_probability: float
    length: int


class Sequences(NamedTuple):
    """The best label sequences of each row.

    Attributes:
        tokens: `[N, n, T]`.
        log_probability: `[N, n]` of whole sequences: score minus log-partition.
        score: `[N, n]` as published: the unnormalised Viterbi score of a CRF, the log-probability without one.
    """

    tokens: Tensor
    log_probability: Tensor
    score: Tensor


def best_sequences(model: Nat, states: Tensor, mask: Tensor, *, beam: int | None = None, n_best: int = 1) -> Sequences:
    """Viterbi with a CRF (its `n_best` best paths), argmax without one (always one path).

    Args:
        model: whose decoder gave `states [N, T, d]` for `mask [N, T]`.
        states: decoder states h.
        mask: True at the target positions.
        beam: k of the CRF; default: the model's.
        n_best: paths a row.
    """
    emissions = model.emissions(states)
    if model.crf is None:
        best, tokens = emissions.float().log_softmax(dim=-1).max(dim=-1)
        total = best.masked_fill(~mask, 0).sum(dim=1, keepdim=True)
        return Sequences(tokens[:, None], total, total)
    decoded = model.crf.decode(emissions, mask, states, beam=beam, n_best=n_best)
    several = decoded.tokens.ndim == 3
    tokens = decoded.tokens if several else decoded.tokens[:, None]
    score = decoded.score if several else decoded.score[:, None]
    return Sequences(tokens, score - decoded.log_partition[:, None], score)


@torch.no_grad()
def translate_batch(
    model: Nat,
    source: Tensor,
    source_mask: Tensor | None = None,
    *,
    candidates: int = 1,
    lengths: Tensor | None = None,
    n_best: int = 1,
    beam: int | None = None,
    scorer: Scorer | None = None,
    alpha: float | None = None,
    choice: Choice = "log_probability",
    passes: int = 1,
) -> list[list[Hypothesis]]:
    """Translate `source [B, S]`: all candidate lengths as one batch, in one pass.

    Args:
        model: NAT, NAT-CRF or NAT-DCRF.
        source: with boundary symbols, padded on either side.
        source_mask: True at real tokens; default: all but padding.
        candidates: target lengths tried a sentence (the paper: 1, 9, 19).
        lengths: `[B, C]` decoder lengths to try instead, boundary symbols included (reference lengths, say).
        n_best: translations a sentence; fewer where the candidates are equal. Without a CRF each length gives one.
        beam: k of the CRF; default: the model's.
        scorer: chooses among the candidates (`rescoring.teacher_scorer`); default: the model's own log-probability.
        alpha: length penalty of the scorer, see `rescoring.normalised_score`.
        choice: without a scorer, by normalised `log_probability` per position, or by the unnormalised score per
            position as `published`, which is not comparable across lengths.
        passes: 1; there is no other.

    Returns:
        For each sentence its translations, best first, all different.

    Raises:
        ValueError: an argument out of range, a row of padding only, or scores that are not finite.
    """
    _check(model, candidates, n_best, beam, scorer, choice, passes, lengths)
    was_training = model.training
    model.eval()
    try:
        encoded = model.encode(source, source_mask)
        if not bool(encoded.mask.any(dim=1).all()):
            raise ValueError("source: expected a real token in every row, got a row of padding only")
        lengths = model.length_candidates(encoded, candidates) if lengths is None else lengths
        _check_lengths(model, lengths, len(source))
        mask = length_mask(lengths.flatten())
        best = best_sequences(model, model.decode_states(encoded, mask), mask, beam=beam, n_best=n_best)
    finally:
        model.train(was_training)
    found = _hypotheses(best, mask, len(source), choice)
    if scorer is not None:
        words = [[hypothesis.words for hypothesis in row] for row in found]
        scores = rescore(scorer, word_lists(source, encoded.mask), words, alpha)
        found = [
            [replace(hypothesis, score=score) for hypothesis, score in zip(row, values, strict=True)]
            for row, values in zip(found, scores, strict=True)
        ]
    return [sorted(row, key=lambda hypothesis: -hypothesis.score)[:n_best] for row in found]


def _hypotheses(best: Sequences, mask: Tensor, batch: int, choice: Choice) -> list[list[Hypothesis]]:
    """The different hypotheses of each sentence, each with its best score."""
    rows, n_best, _ = best.tokens.shape
    wide = mask[:, None].expand(-1, n_best, -1)
    words = word_lists(best.tokens.flatten(0, 1), wide.flatten(0, 1))
    lengths = wide.sum(dim=2)
    own = (best.log_probability / lengths).flatten().tolist()
    scores = own if choice == "log_probability" else (best.score / lengths).flatten().tolist()
    found: list[dict[tuple[int, ...], Hypothesis]] = [{} for _ in range(batch)]
    for index, values in enumerate(zip(words, scores, own, lengths.flatten().tolist(), strict=True)):
        hypothesis = Hypothesis(tuple(values[0]), *values[1:])
        known = found[index // (rows // batch * n_best)]
        # Paths beyond the number there are have no score
        if hypothesis.score > known.get(hypothesis.words, _NOTHING).score:
            known[hypothesis.words] = hypothesis
    if not all(found):
        raise ValueError("model: its scores are not finite numbers; its weights are damaged or training diverged")
    return [list(known.values()) for known in found]


_NOTHING = Hypothesis((), -torch.inf, -torch.inf, 0)


def _check(
    model: Nat,
    candidates: int,
    n_best: int,
    beam: int | None,
    scorer: Scorer | None,
    choice: Choice,
    passes: int,
    lengths: Tensor | None,
) -> None:
    if passes != 1:
        raise ValueError(
            f"passes: expected 1, got {passes}; these models are trained to translate from positions alone, and fed "
            "their own output they collapse (published reports: BLEU 7.6 falls to 0.2 with a second pass)"
        )
    if candidates < 1 or n_best < 1 or (beam is not None and beam < 1):
        raise ValueError(f"candidates, n_best, beam: expected 1 or more, got {candidates}, {n_best}, {beam}")
    if choice not in ("log_probability", "published"):
        raise ValueError(f"choice: expected log_probability or published, got {choice!r}")
    several = candidates if lengths is None else lengths.shape[-1]
    own = model.config.beam if beam is None else beam
    if model.crf is not None and own == 1 and several > 1 and scorer is None and choice == "log_probability":
        raise ValueError(
            "beam: with k = 1 every candidate has probability 1 within its beam, so that lengths cannot be compared; "
            "give a larger beam, a scorer, or choice='published'"
        )


def _check_lengths(model: Nat, lengths: Tensor, batch: int) -> None:
    if lengths.ndim != 2 or len(lengths) != batch or lengths.shape[1] == 0:
        raise ValueError(f"lengths: expected [{batch}, candidates], got {list(lengths.shape)}")
    shortest, longest, limit = int(lengths.min()), int(lengths.max()), model.config.max_positions
    if shortest < 1 or longest > limit:
        raise ValueError(f"lengths: expected 1..{limit} (max_positions), got {shortest}..{longest}")
