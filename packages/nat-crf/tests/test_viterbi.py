"""Best paths, their scores, and draws, where enumeration of whole label sequences (test_crf.py) does not look."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nat_crf_testing.chains import random_chain
from torch import Tensor

from nat_crf.chain import Chain
from nat_crf.crf import LowRankCRF
from nat_crf.sampling import sample_slots
from nat_crf.transitions import Transitions
from nat_crf.viterbi import best_path, best_paths, scored


def enumerated(chain: Chain, row: int) -> tuple[Tensor, Tensor]:
    """All slot sequences of one chain and their scores."""
    length, k = int(chain.lengths[row]), chain.emissions.shape[2]
    slots = torch.tensor(list(itertools.product(range(k), repeat=length)))
    left, right = (factor[row] for factor in chain.transitions.all_factors())
    scores = chain.emissions[row, torch.arange(length), slots].sum(dim=1)
    for step in range(length - 1):
        scores = scores + (left[step, slots[:, step]] * right[step, slots[:, step + 1]]).sum(dim=1)
    return slots, scores.detach()


def test_worked_example() -> None:
    # Alone, label 1 is best everywhere; the transition 0 -> 0 pays 3
    factor = torch.tensor([[3.0**0.5], [0.0]])
    transitions = Transitions(torch.tensor([[[0, 1]] * 3]), factor, factor)
    paths = best_path(Chain(torch.tensor([[[0.0, 1.0]] * 3]), transitions, torch.tensor([3])))
    assert paths.slots.tolist() == [[[0, 0, 0]]]
    torch.testing.assert_close(paths.step_scores, torch.tensor([[[0.0, 3.0, 3.0]]]))
    torch.testing.assert_close(paths.scores, torch.tensor([[6.0]]))


def test_ties_go_to_the_first_candidate() -> None:
    chain = random_chain((2, 5, 4, 2))
    zeros = Transitions(chain.transitions.labels, torch.zeros(8, 1), torch.zeros(8, 1))
    assert (best_path(Chain(torch.zeros(2, 5, 4), zeros, chain.lengths)).slots == 0).all()


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_enumeration(count: int, dtype: torch.dtype) -> None:
    chain = random_chain((6, 4, 3, 2), dtype=dtype, scale=3.0)
    paths = best_path(chain) if count == 1 else best_paths(chain, count)
    for row in range(6):
        slots, scores = enumerated(chain, row)
        there, length = min(count, len(scores)), int(chain.lengths[row])
        best = scores.topk(there)
        torch.testing.assert_close(paths.scores[row, :there], best.values, rtol=1e-5, atol=1e-5)
        assert paths.slots[row, :there, :length].tolist() == slots[best.indices].tolist()
        assert (paths.scores[row, there:] == -torch.inf).all()
        assert (paths.slots[row, :, length:] == 0).all()
        assert (paths.step_scores[row, :, length:] == 0).all()


def test_paths_beyond_those_that_exist() -> None:
    emissions = torch.tensor([[[1.0, 2.0]]])
    found = LowRankCRF(2, 1).decode(emissions, n_best=4)
    assert found.tokens[0, :2].tolist() == [[1], [0]]
    assert found.score.tolist() == [[2.0, 1.0, -torch.inf, -torch.inf]]
    assert (found.log_probability[:, 2:] == -torch.inf).all()


def test_published_step_scores() -> None:
    """Against a direct transcription: running scores of whole lists, read at the slot of the following position."""
    chain = random_chain((4, 6, 5, 3))
    left, right = chain.transitions.all_factors()
    blocks = left @ right.mT
    running = [chain.emissions[:, 0]]
    for step in range(1, 6):
        following = (running[-1][:, :, None] + blocks[:, step - 1]).amax(dim=1) + chain.emissions[:, step]
        running.append(torch.where((step < chain.lengths)[:, None], following, running[-1]))
    found = best_path(chain, published_steps=True)
    slots = best_path(chain).slots[:, 0]
    for row in range(4):
        length = int(chain.lengths[row])
        read = [running[i][row, slots[row, min(i + 1, length - 1)]] for i in range(length)]
        increments = torch.stack(read).diff(prepend=torch.zeros(1, dtype=torch.float64))
        torch.testing.assert_close(found.step_scores[row, 0, :length], increments.detach())
    torch.testing.assert_close(found.step_scores.sum(dim=2), found.scores)


def test_published_step_scores_are_of_one_path() -> None:
    with pytest.raises(ValueError, match="published_steps: expected n_best=1"):
        LowRankCRF(3, 1).decode(torch.zeros(1, 2, 3), n_best=2, published_steps=True)


def test_scores_of_given_paths() -> None:
    chain = random_chain((3, 4, 3, 2))
    slots, scores = enumerated(chain, 0)
    found = scored(
        chain._replace(
            lengths=chain.lengths[:1],
            emissions=chain.emissions[:1],
            transitions=Transitions(
                chain.transitions.labels[:1], *chain.transitions[1:3], chain.transitions.dynamic[:1]
            ),
        ),
        slots[None],
    )
    torch.testing.assert_close(found.scores[0].detach(), scores)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), dtype=st.sampled_from([torch.float32, torch.float64]), dynamic=st.booleans())
def test_batch_of_one_equals_batch_of_many(seed: int, dtype: torch.dtype, dynamic: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    crf = LowRankCRF(40, 5, beam=6, state_dim=4 if dynamic else None, transition_std=1.0).to(dtype)
    emissions, states = torch.randn(5, 8, 40, generator=generator), torch.randn(5, 8, 4, generator=generator)
    lengths = torch.randint(1, 9, (5,), generator=generator)
    mask = torch.arange(8) < lengths[:, None]
    together = crf.decode(emissions, mask, states)
    draws = torch.randint(40, (5, 8), generator=generator)
    with torch.no_grad():
        likelihood = crf(emissions, draws, mask, states)
    for row, length in enumerate(lengths.tolist()):
        part = slice(row, row + 1), slice(length)
        alone = crf.decode(emissions[part], None, states[part])
        assert torch.equal(alone.tokens[0], together.tokens[row, :length])
        torch.testing.assert_close(alone.score[0], together.score[row])
        with torch.no_grad():
            torch.testing.assert_close(crf(emissions[part], draws[part], None, states[part])[0], likelihood[row])


def test_permuting_the_vocabulary_permutes_everything() -> None:
    crf, moved = (LowRankCRF(12, 3, beam=5, transition_std=1.0).double() for _ in range(2))
    emissions, targets = torch.randn(3, 6, 12, dtype=torch.float64), torch.randint(12, (3, 6))
    order = torch.randperm(12)
    place = order.argsort()
    moved.load_state_dict({name: value[order] for name, value in crf.state_dict().items()})
    torch.testing.assert_close(moved(emissions[:, :, order], place[targets]), crf(emissions, targets))
    assert torch.equal(moved.decode(emissions[:, :, order]).tokens, place[crf.decode(emissions).tokens])
    marginals, others = crf.node_marginals(emissions), moved.node_marginals(emissions[:, :, order])
    assert torch.equal(others.labels, place[marginals.labels])
    torch.testing.assert_close(others.probabilities, marginals.probabilities)


def test_other_factors_of_the_same_matrix() -> None:
    crf, other = (LowRankCRF(12, 3, beam=5, transition_std=1.0).double() for _ in range(2))
    emissions, targets = torch.randn(3, 6, 12, dtype=torch.float64), torch.randint(12, (3, 6))
    change = torch.randn(3, 3, dtype=torch.float64) + 3 * torch.eye(3)
    first, second = (factor.weight.detach() for factor in (crf.E1, crf.E2))
    other.load_state_dict({"E1.weight": first @ change, "E2.weight": second @ change.inverse().T})
    torch.testing.assert_close(other(emissions, targets), crf(emissions, targets))
    assert torch.equal(other.decode(emissions).tokens, crf.decode(emissions).tokens)


def test_draws_stay_within_the_chain_and_depend_on_the_generator_alone() -> None:
    chain = random_chain((4, 6, 3, 2))
    one, same, other = (sample_slots(chain, 50, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    behind = torch.arange(6) >= chain.lengths[:, None, None]
    assert (one.masked_select(behind.expand_as(one)) == 0).all()


def test_drawn_sequences_have_their_probabilities() -> None:
    chain = random_chain((2, 3, 2, 2), scale=0.7)
    draws = sample_slots(chain, 40_000, torch.Generator().manual_seed(0))
    slots, scores = enumerated(chain, 0)
    shares = torch.stack([(draws[0] == path).all(dim=1).double().mean() for path in slots])
    torch.testing.assert_close(shares, scores.softmax(dim=0), atol=0.01, rtol=0)
