"""The autoregressive teacher: a Transformer of equal size, its training loss, beam search and scoring (Section 4.8)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nat_crf.config import TransformerConfig
from nat_crf.layers import KeyValueCache
from nat_crf.objective import smoothed_cross_entropy
from nat_crf.sequences import BOS, EOS, PAD
from nat_crf.transformer import Decoder, Encoded, Encoder, embed, embeddings, initialise, real_tokens


class Teacher(nn.Module):
    """An autoregressive translator. Sources and targets are `words <eos>`; decoding starts from `<eos>`, as published.

    Args:
        config: sizes; `NatConfig.teacher` gives those of a non-autoregressive model.
        source_vocab, target_vocab: vocabulary sizes, special symbols included; the target's is the source's if None.
    """

    def __init__(self, config: TransformerConfig, source_vocab: int, target_vocab: int | None = None) -> None:
        super().__init__()
        target_vocab = source_vocab if target_vocab is None else target_vocab
        source_embedding, target_embedding = embeddings(config, source_vocab, target_vocab)
        self.config, self.source_vocab, self.target_vocab = config, source_vocab, target_vocab
        self.encoder, self.decoder = Encoder(config, source_embedding), Decoder(config, target_embedding)
        initialise(self, config.init_std)

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Teacher-forced logits `[n * B, T, V]`.

        Args:
            source: `[B, S]`, padded on either side.
            target: `[n * B, T]`, `words <eos>`, padded on the right; n consecutive rows belong to one source.
            source_mask: True at real source tokens; default: all but padding.
        """
        encoded = self.encode(source, source_mask)
        prefix = F.pad(target[:, :-1], (1, 0), value=EOS)
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).tril()
        states = self.decoder(
            embed(self.decoder.embed_tokens, prefix),
            self.decoder.embed_positions(prefix != PAD),
            causal,
            self.decoder.sources(encoded),
            encoded.mask,
        )
        return self.decoder.project(states)

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Encoded:
        """Encode `source [B, S]`."""
        return self.encoder(source, real_tokens("source", source, source_mask))

    def loss(self, source: Tensor, target: Tensor, *, label_smoothing: float = 0.1) -> tuple[Tensor, Tensor]:
        """Label-smoothed cross-entropy of `target [B, T]`, and the NLL without smoothing (detached)."""
        mask = real_tokens("target", target, None)
        return smoothed_cross_entropy(self(source, target), target, mask, label_smoothing)

    def score(self, source: Tensor, candidates: Tensor) -> Tensor:
        """Log-probabilities `[B, n]` of whole candidates, by teacher forcing: the sum over words and `<eos>`.

        Args:
            source: `[B, S]`.
            candidates: `[B, n, T]`, `words <eos>`, padded on the right.
        """
        flat = candidates.flatten(0, 1)
        logits = self(source, flat)
        token = logits.float().log_softmax(dim=-1).gather(-1, flat[..., None]).squeeze(-1)
        return token.masked_fill(flat == PAD, 0).sum(dim=1).view(candidates.shape[:2])


class BeamResult(NamedTuple):
    """Finished translations, best first.

    Attributes:
        tokens: `[B, n, T]`, words only, padded on the right.
        log_probability: `[B, n]` sum over words and `<eos>`; -inf where fewer than n translations were found.
        score: `[B, n]` what they are sorted by: log-probability over length penalty.
    """

    tokens: Tensor
    log_probability: Tensor
    score: Tensor


def length_penalty(lengths: Tensor | int, alpha: float) -> Tensor:
    """((5 + length) / 6)^alpha (Section 4.8)."""
    return ((5 + torch.as_tensor(lengths)) / 6) ** alpha


@torch.no_grad()
def beam_search(
    teacher: Teacher,
    source: Tensor,
    source_mask: Tensor | None = None,
    *,
    beam: int = 4,
    alpha: float = 0.6,
    extra: int = 50,
    n_best: int = 1,
) -> BeamResult:
    """Translate `source [B, S]` by beam search with cached keys and values.

    A sentence is done when no unfinished hypothesis can overtake its `n_best`-th finished one.

    Args:
        teacher: in evaluation mode.
        source, source_mask: as in `Teacher.encode`.
        beam: hypotheses a sentence.
        alpha: of the length penalty, lengths count `<eos>`; 0 for none.
        extra: longest translation, in words more than the source.
        n_best: translations a sentence, at most `beam`.

    Raises:
        ValueError: an argument out of range.
    """
    if not 1 <= n_best <= beam or alpha < 0 or extra < 1:
        raise ValueError(
            f"beam_search: expected 1 <= n_best <= beam, alpha >= 0, extra >= 1; got {n_best}, {beam}, {alpha}, {extra}"
        )
    was_training = teacher.training
    teacher.eval()
    try:
        state = _Beams(teacher, teacher.encode(source, source_mask), beam, alpha, extra)
        while len(state.rows):
            state.step()
            state.retire(n_best)
        return state.result(n_best)
    finally:
        teacher.train(was_training)


class _Beams:
    """The hypotheses of the sentences at work: `beam` unfinished and the best `beam` finished ones each.

    Sentences that are done leave the tensors, so that the last ones do not cost as much as all.
    """

    def __init__(self, teacher: Teacher, encoded: Encoded, beam: int, alpha: float, extra: int) -> None:
        self.teacher, self.beam, self.alpha = teacher, beam, alpha
        self.source_mask, self.sources = encoded.mask, teacher.decoder.sources(encoded)
        batch, device = len(encoded.mask), encoded.mask.device
        self.limit = min(encoded.mask.shape[1] + extra, teacher.config.max_positions - 1)
        self.exhausted = False
        self.past = [KeyValueCache() for _ in teacher.decoder.layers]
        # [B, beam, words so far]
        self.tokens = torch.zeros(batch, beam, 0, dtype=torch.long, device=device)
        self.finished = torch.full((batch, beam, self.limit), PAD, device=device)
        # All start from the same prefix: only the first of them counts
        self.log_probability = torch.full((batch, beam), -math.inf, device=device)
        self.log_probability[:, 0] = 0
        self.finished_log_probability = torch.full((batch, beam), -math.inf, device=device)
        self.finished_score = self.finished_log_probability.clone()
        self.rows = torch.arange(batch, device=device)
        self.results = BeamResult(*(tensor.clone() for tensor in self._finished()))

    def step(self) -> None:
        """Finish every hypothesis with `<eos>` and extend it by one word, up to the limit."""
        batch, beam, length = self.tokens.shape
        scores = self.log_probability[..., None] + self._next_log_probabilities().view(batch, beam, -1)
        self._finish(scores[..., EOS])
        self.exhausted = length == self.limit
        if self.exhausted:
            return
        scores[..., EOS] = -math.inf
        vocab = scores.shape[-1]
        self.log_probability, index = scores.flatten(1).topk(beam, dim=1)
        origin, token = index // vocab, index % vocab
        kept = self.tokens.gather(1, origin[..., None].expand(-1, -1, length))
        self.tokens = torch.cat([kept, token[..., None]], dim=2)
        rows = (origin + beam * torch.arange(batch, device=origin.device)[:, None]).flatten()
        for cache in self.past:
            cache.select(rows)

    def retire(self, n_best: int) -> None:
        """Put the sentences aside whose `n_best` best cannot change any more, once they are a quarter of all."""
        reachable = self.log_probability.amax(dim=1) / length_penalty(self.limit + 1, self.alpha)
        done = (self.finished_score[:, n_best - 1] >= reachable) | self.exhausted
        if 4 * int(done.sum()) < len(done):
            return
        for results, own in zip(self.results, self._finished(), strict=True):
            results[self.rows[done]] = own[done]
        left = ~done
        self.rows, self.source_mask = self.rows[left], self.source_mask[left]
        self.sources = [(keys[left], values[left]) for keys, values in self.sources]
        self.tokens, self.log_probability = self.tokens[left], self.log_probability[left]
        self.finished, self.finished_log_probability = self.finished[left], self.finished_log_probability[left]
        self.finished_score = self.finished_score[left]
        for cache in self.past:
            cache.select(left.repeat_interleave(self.beam).nonzero().squeeze(1))

    def _finished(self) -> BeamResult:
        return BeamResult(self.finished, self.finished_log_probability, self.finished_score)

    def result(self, n_best: int) -> BeamResult:
        """The best finished translations."""
        tokens, log_probability, score = (tensor[:, :n_best] for tensor in self.results)
        longest = max(1, int((tokens != PAD).sum(dim=2).max()))
        return BeamResult(tokens[..., :longest], log_probability, score)

    def _next_log_probabilities(self) -> Tensor:
        """Log-probabilities of the next token `[B * beam, V]`, without `<bos>` and padding."""
        decoder, length = self.teacher.decoder, self.tokens.shape[2]
        last = F.pad(self.tokens, (1, 0), value=EOS)[..., -1].flatten()
        embedded = embed(decoder.embed_tokens, last[:, None])
        position = decoder.embed_positions.weight[length + 1].expand_as(embedded)
        states = decoder(embedded, position, None, self.sources, self.source_mask, past=self.past)
        result = decoder.project(states[:, 0]).float().log_softmax(dim=-1)
        result[:, [BOS, PAD]] = -math.inf
        return result

    def _finish(self, log_probability: Tensor) -> None:
        """Keep the best of the finished hypotheses and the present ones, `log_probability [B, beam]` with `<eos>`."""
        length = self.tokens.shape[2]
        score = log_probability / length_penalty(length + 1, self.alpha).to(log_probability.device)
        scores = torch.cat([self.finished_score, score], dim=1)
        self.finished_score, order = scores.topk(self.beam, dim=1)
        log_probabilities = torch.cat([self.finished_log_probability, log_probability], dim=1)
        self.finished_log_probability = log_probabilities.gather(1, order)
        tokens = torch.cat([self.finished, F.pad(self.tokens, (0, self.limit - length), value=PAD)], dim=1)
        self.finished = tokens.gather(1, order[..., None].expand(-1, -1, self.limit))
