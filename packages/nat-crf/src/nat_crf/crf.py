"""The CRF layer over target words: static or dynamic low-rank transitions, candidate lists or the whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nat_crf import chain as chains
from nat_crf.candidates import Candidates, select_candidates
from nat_crf.chain import Chain, Method
from nat_crf.fused_projection import project, smoothed_token_loss
from nat_crf.inputs import Span, check_emissions, check_mask, check_positive, check_states, check_targets
from nat_crf.sampling import sample_slots
from nat_crf.transitions import DynamicTransition, Transitions
from nat_crf.viterbi import best_path, best_paths
from sextet.cuda import float32_island


@dataclass(frozen=True)
class Decoded:
    """The best path, or the n best, the best first.

    Attributes:
        tokens: `[batch, time]` int64, or `[batch, n, time]` for n > 1; 0 at padding.
        score: `[batch]`, or `[batch, n]`: e and t summed over the path. Of no use between lengths, since emissions may
            have any offset per position. -inf for paths beyond the number that exist.
        step_scores: shaped as `tokens`: increments of the path's running score, which sum to it; 0 at padding.
        log_partition: `[batch]`, log Z over the same candidates.
    """

    tokens: Tensor
    score: Tensor
    step_scores: Tensor
    log_partition: Tensor

    @property
    def log_probability(self) -> Tensor:
        """score - log Z, shaped as `score`, at most 0: what may be compared, per position, between lengths."""
        return self.score - (self.log_partition if self.score.ndim == 1 else self.log_partition[:, None])


@dataclass(frozen=True)
class FusedLoss:
    """What `LowRankCRF.fused_loss` computes from decoder states.

    Attributes:
        log_likelihood: `[batch]`, of the CRF.
        token_loss: `[batch, time]`, label-smoothed cross entropy of the emissions; 0 at padding.
        token_nll: `[batch, time]`, the same without smoothing.
        candidates: labels, emission scores and the place of gold `[batch, time, k]`.
    """

    log_likelihood: Tensor
    token_loss: Tensor
    token_nll: Tensor
    candidates: Candidates


class Marginals(NamedTuple):
    """Posterior probabilities of the candidates.

    Attributes:
        labels: `[batch, time, k]`.
        probabilities: `[batch, time, k]`, summing to 1 at real positions; 0 at padding.
    """

    labels: Tensor
    probabilities: Tensor


class LowRankCRF(nn.Module):
    """Linear-chain CRF with transition scores E1 E2^T, or E1 M_dyn^i E2^T, over candidate lists (Section 4).

        score(x, y) = sum_i e_i(y_i) + sum_i t_i(y_{i-1}, y_i),   P(y | x) = exp(score) / Z

    Everywhere `emissions` are label scores `[batch, time, vocab]`, raw logits of any floating dtype, or `Candidates`
    already selected; `mask [batch, time]` is bool, one unbroken run of True a row, left or right padded, None for no
    padding; `states [batch, time, state_dim]` are needed by dynamic transitions and ignored by static ones. What stands
    at padding changes nothing. All is computed in float32 or wider, also inside autocast. `beam >= vocab` makes the CRF
    exact. Values of tensors are checked on a CPU only: elsewhere that would wait for the device.

    The names of the parameters `E1.weight`, `E2.weight [vocab, rank]` are those of published checkpoints.

    Args:
        vocab: V.
        rank: r.
        state_dim: d, size of the decoder states; with it transitions are dynamic.
        beam: k, candidates a position unless a call says otherwise.
        transition_std: of the initial E1 and E2. Small, so that training from a trained NAT starts as that NAT.
        hidden_dim: width of the hidden layer of f; `state_dim` by default.
        method: of the recursion, see `nat_crf.chain.log_partition`.

    Raises:
        ValueError: a size below 1, or a negative `transition_std`.
    """

    def __init__(
        self,
        vocab: int,
        rank: int = 32,
        *,
        state_dim: int | None = None,
        beam: int = 64,
        transition_std: float = 0.1,
        hidden_dim: int | None = None,
        method: Method = "auto",
    ) -> None:
        super().__init__()
        sizes = {"vocab": vocab, "rank": rank, "beam": beam, "state_dim": state_dim, "hidden_dim": hidden_dim}
        for name, size in sizes.items():
            check_positive(name, 1 if size is None else size)
        if not transition_std >= 0:
            raise ValueError(f"transition_std: expected a non-negative number, got {transition_std!r}")
        self.vocab, self.rank, self.beam, self.state_dim = vocab, rank, beam, state_dim
        self.method: Method = method
        self.E1, self.E2 = nn.Embedding(vocab, rank), nn.Embedding(vocab, rank)
        for factor in (self.E1, self.E2):
            nn.init.normal_(factor.weight, std=transition_std)
        self.f = None if state_dim is None else DynamicTransition(state_dim, rank, hidden_dim)

    def forward(
        self,
        emissions: Tensor | Candidates,
        targets: Tensor,
        mask: Tensor | None = None,
        states: Tensor | None = None,
        *,
        beam: int | None = None,
    ) -> Tensor:
        """As `log_likelihood`, so that wrappers of modules (data parallel, hooks) can call the layer."""
        return self.log_likelihood(emissions, targets, mask, states, beam=beam)

    def log_likelihood(
        self,
        emissions: Tensor | Candidates,
        targets: Tensor,
        mask: Tensor | None = None,
        states: Tensor | None = None,
        *,
        beam: int | None = None,
    ) -> Tensor:
        """log P(y | x) `[batch]` with Z over candidate lists that hold the gold labels; at most 0 (Section 4.5).

        Args:
            emissions, mask, states: see the class. Candidates must have been selected with `targets`.
            targets: `[batch, time]` gold labels; anything at padding.
            beam: k; min(k, vocab) labels are kept.

        Raises:
            ValueError: shapes or values that do not fit, or fewer than two candidates, where the loss is always 0.
        """
        beam = self._check(emissions, mask, states, beam, targets)
        if min(beam, self.vocab) < 2:
            raise ValueError(
                f"beam: expected at least 2 candidates in training, got beam={beam} of vocab={self.vocab}; with one, "
                "log Z is the gold score and nothing is learnt"
            )
        if mask is not None:
            targets = torch.where(mask, targets, 0)
        if isinstance(emissions, Tensor):
            emissions = select_candidates(emissions, beam, targets, mask)
        if emissions.gold is None:
            raise ValueError("emissions: expected candidates selected with the targets, got some without gold labels")
        with float32_island(targets.device):
            chain, _, span = self._chain(emissions, mask, states)
            return self._gold_log_probability(chain, span.aligned(emissions.gold))

    def _gold_log_probability(self, chain: Chain, gold: Tensor) -> Tensor:
        # Scores relative to gold's: neither log Z nor the gold score grows with the offsets of the emissions
        emissions = chain.emissions - chain.emissions.gather(2, gold[..., None])
        labels = chain.transitions.labels.gather(2, gold[..., None])
        left, right = chain.transitions._replace(labels=labels).all_factors()
        real = torch.arange(1, gold.shape[1], device=gold.device) < chain.lengths[:, None]
        transitions = ((left * right).sum(dim=(2, 3)) * real).sum(dim=1)
        return transitions - chains.log_partition(chain._replace(emissions=emissions), self.method)

    def fused_loss(
        self,
        states: Tensor,
        weight: Tensor,
        targets: Tensor,
        mask: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        beam: int | None = None,
        label_smoothing: float = 0.0,
    ) -> FusedLoss:
        """CRF log-likelihood and token loss straight from decoder states; never stores `[batch, time, vocab]`.

        The values are those of `log_likelihood` and cross entropy on emissions `states @ weight.T + bias`.

        Args:
            states: h `[batch, time, d]`.
            weight: W `[vocab, d]`, the output projection.
            targets, mask, beam: as in `log_likelihood`.
            bias: b `[vocab]`.
            label_smoothing: epsilon of the token loss.

        Raises:
            ValueError: as `log_likelihood`; a weight of another vocabulary.
        """
        if weight.ndim != 2 or len(weight) != self.vocab:
            raise ValueError(f"weight: expected [vocab, d] with vocab={self.vocab}, got {list(weight.shape)}")
        check_targets(targets, tuple(states.shape[:2]), self.vocab, mask)
        if mask is not None:
            targets = torch.where(mask, targets, 0)
            states = torch.where(mask[..., None], states, 0)
        width = min(self.beam if beam is None else beam, self.vocab)
        projection = project(states, weight, max(width, 1), bias=bias, targets=targets)
        log_likelihood = self.log_likelihood(projection.candidates, targets, mask, states, beam=width)
        token_loss, token_nll = smoothed_token_loss(projection, label_smoothing)
        if mask is not None:
            token_loss, token_nll = torch.where(mask, token_loss, 0), torch.where(mask, token_nll, 0)
        return FusedLoss(log_likelihood, token_loss, token_nll, projection.candidates)

    def log_partition(
        self,
        emissions: Tensor | Candidates,
        mask: Tensor | None = None,
        states: Tensor | None = None,
        *,
        beam: int | None = None,
    ) -> Tensor:
        """log Z `[batch]` over the top-k lists, differentiable."""
        with float32_island(_device(emissions)):
            return chains.log_partition(self._free_chain(emissions, mask, states, beam)[0], self.method)

    @torch.no_grad()
    def decode(
        self,
        emissions: Tensor | Candidates,
        mask: Tensor | None = None,
        states: Tensor | None = None,
        *,
        beam: int | None = None,
        n_best: int = 1,
        published_steps: bool = False,
    ) -> Decoded:
        """Viterbi over the top-k lists, or the `n_best` best paths (Section 4.7).

        Args:
            emissions, mask, states, beam: see the class.
            n_best: number of paths.
            published_steps: step scores of the published code, see `nat_crf.viterbi.best_path`; for one path.

        Raises:
            ValueError: shapes or values that do not fit, `n_best` below 1, or `published_steps` of several paths.
        """
        check_positive("n_best", n_best)
        if published_steps and n_best > 1:
            raise ValueError(
                f"published_steps: expected n_best=1, got n_best={n_best}; the published code has one path"
            )
        with float32_island(_device(emissions)):
            chain, labels, span = self._free_chain(emissions, mask, states, beam)
            several = n_best > 1
            paths = best_paths(chain, n_best) if several else best_path(chain, published_steps=published_steps)
            log_partition = chains.log_partition(chain, self.method)
        tokens, steps = span.restored(_at(labels, paths.slots)), span.restored(paths.step_scores)
        if several:
            return Decoded(tokens, paths.scores, steps, log_partition)
        return Decoded(tokens[:, 0], paths.scores[:, 0], steps[:, 0], log_partition)

    @torch.no_grad()
    def minimum_bayes_risk(
        self,
        emissions: Tensor | Candidates,
        mask: Tensor | None = None,
        states: Tensor | None = None,
        *,
        beam: int | None = None,
    ) -> Tensor:
        """Tokens `[batch, time]` of largest posterior marginal each: fewest wrong tokens expected; 0 at padding."""
        labels, probabilities = self.node_marginals(emissions, mask, states, beam=beam)
        tokens = labels.gather(2, probabilities.argmax(dim=2, keepdim=True))[..., 0]
        return tokens if mask is None else torch.where(mask, tokens, 0)

    @torch.no_grad()
    def node_marginals(
        self,
        emissions: Tensor | Candidates,
        mask: Tensor | None = None,
        states: Tensor | None = None,
        *,
        beam: int | None = None,
    ) -> Marginals:
        """P(y_i = v | x) of every candidate."""
        with float32_island(_device(emissions)):
            chain, labels, span = self._free_chain(emissions, mask, states, beam)
            probabilities = chains.node_marginals(chain)
        # Time last, as restored wants it
        return Marginals(span.restored(labels.mT).mT, span.restored(probabilities.mT).mT)

    @torch.no_grad()
    def edge_marginals(
        self,
        emissions: Tensor | Candidates,
        mask: Tensor | None = None,
        states: Tensor | None = None,
        *,
        beam: int | None = None,
    ) -> Tensor:
        """P(y_{i-1} = u, y_i = v | x) `[batch, time - 1, k, k]` for the labels of `node_marginals`; 0 at padding."""
        with float32_island(_device(emissions)):
            chain, _, span = self._free_chain(emissions, mask, states, beam)
            edges = chains.edge_marginals(chain)
        batch, steps, k, _ = edges.shape
        # An edge is kept where its right end is
        padded = torch.cat([edges.new_zeros(batch, 1, k, k), edges], dim=1)
        return span.restored(padded.permute(0, 2, 3, 1).flatten(1, 2)).mT.unflatten(2, (k, k))[:, 1 : steps + 1]

    @torch.no_grad()
    def entropy(
        self,
        emissions: Tensor | Candidates,
        mask: Tensor | None = None,
        states: Tensor | None = None,
        *,
        beam: int | None = None,
    ) -> Tensor:
        """Entropy `[batch]` in nats of the distribution over sequences of candidates."""
        with float32_island(_device(emissions)):
            return chains.entropy(self._free_chain(emissions, mask, states, beam)[0])

    @torch.no_grad()
    def sample(
        self,
        emissions: Tensor | Candidates,
        mask: Tensor | None = None,
        states: Tensor | None = None,
        *,
        beam: int | None = None,
        count: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`count` independent draws `[batch, count, time]` from P(y | x) over the candidates; 0 at padding."""
        check_positive("count", count)
        with float32_island(_device(emissions)):
            chain, labels, span = self._free_chain(emissions, mask, states, beam)
            slots = sample_slots(chain, count, generator)
        return span.restored(_at(labels, slots))

    def _free_chain(
        self, emissions: Tensor | Candidates, mask: Tensor | None, states: Tensor | None, beam: int | None
    ) -> tuple[Chain, Tensor, Span]:
        beam = self._check(emissions, mask, states, beam, None)
        if isinstance(emissions, Tensor):
            emissions = select_candidates(emissions, beam, mask=mask)
        return self._chain(emissions, mask, states)

    def _chain(self, candidates: Candidates, mask: Tensor | None, states: Tensor | None) -> tuple[Chain, Tensor, Span]:
        """The right-padded chain of the candidates, their labels in its order, and the way back to the given order."""
        labels, scores, _ = candidates
        span = Span.of(mask, labels)
        if mask is not None:
            labels = span.aligned(torch.where(mask[..., None], labels, 0))
            scores = span.aligned(torch.where(mask[..., None], scores, 0))
        dynamic = None
        if self.f is not None and states is not None:
            states = states if mask is None else span.aligned(torch.where(mask[..., None], states, 0))
            dynamic = self.f(states.to(self.E1.weight.dtype))
        first, second = self.E1.weight, self.E2.weight
        wide = torch.promote_types(torch.promote_types(scores.dtype, first.dtype), torch.float32)
        dynamic = None if dynamic is None else dynamic.to(wide)
        transitions = Transitions(labels, first.to(wide), second.to(wide), dynamic)
        return Chain(scores.to(wide), transitions, span.lengths), labels, span

    def _check(
        self,
        emissions: Tensor | Candidates,
        mask: Tensor | None,
        states: Tensor | None,
        beam: int | None,
        targets: Tensor | None,
    ) -> int:
        """Check what was given; the beam that counts."""
        scores = emissions if isinstance(emissions, Tensor) else emissions.scores
        check_emissions(scores, self.vocab if isinstance(emissions, Tensor) else None)
        shape = (scores.shape[0], scores.shape[1])
        check_mask(mask, shape)
        check_states(states, shape, self.state_dim)
        if targets is not None:
            check_targets(targets, shape, self.vocab, mask)
        beam = self.beam if beam is None else beam
        check_positive("beam", beam)
        return beam if isinstance(emissions, Tensor) else scores.shape[2]


def _device(emissions: Tensor | Candidates) -> torch.device:
    return (emissions if isinstance(emissions, Tensor) else emissions.scores).device


def _at(labels: Tensor, slots: Tensor) -> Tensor:
    """Labels `[batch, n, time]` at `slots [batch, n, time]` of candidate lists `[batch, time, k]`."""
    return labels.gather(2, slots.mT).mT
