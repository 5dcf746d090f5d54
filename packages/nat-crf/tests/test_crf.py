"""The CRF layer against enumeration of all label sequences, its identities, its gradients, its bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nat_crf_testing.brute_force import loop_log_partition, sequence_scores, transition_matrix
from torch import Tensor

from nat_crf.crf import LowRankCRF
from nat_crf.fused_projection import project, smoothed_token_loss

KINDS = ["static", "dynamic"]
DIM = 3


def make(kind: str, vocab: int, rank: int = 3, beam: int = 64, std: float = 1.0, **options) -> LowRankCRF:
    crf = LowRankCRF(
        vocab, rank, state_dim=DIM if kind == "dynamic" else None, beam=beam, transition_std=std, **options
    )
    if crf.f is not None:
        for parameter in crf.f.parameters():
            torch.nn.init.normal_(parameter)
    return crf.double()


def data(batch: int, time: int, vocab: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Emissions, targets, states."""
    generator = torch.Generator().manual_seed(seed)
    emissions = 2 * torch.randn(batch, time, vocab, generator=generator, dtype=torch.float64)
    states = torch.randn(batch, time, DIM, generator=generator, dtype=torch.float64)
    return emissions, torch.randint(vocab, (batch, time), generator=generator), states


def blocks(crf: LowRankCRF, states: Tensor) -> Tensor:
    """Transition scores `[batch, time - 1, V, V]` over the whole vocabulary."""
    with torch.no_grad():
        dynamic = None if crf.f is None else crf.f(states)
        batch, steps = len(states), states.shape[1] - 1
        rows = [
            [
                transition_matrix(crf.E1.weight, crf.E2.weight, None if dynamic is None else dynamic[b, i])
                for i in range(steps)
            ]
            for b in range(batch)
        ]
        return torch.stack([torch.stack(row) for row in rows])


def test_worked_example() -> None:
    crf = LowRankCRF(2, 1, transition_std=0.0)
    emissions = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    # Without transitions the positions are independent
    expected = emissions.log_softmax(dim=2)[0, 0, 0] + emissions.log_softmax(dim=2)[0, 1, 1]
    torch.testing.assert_close(crf(emissions, torch.tensor([[0, 1]]))[0], expected)
    assert crf.decode(emissions).tokens.tolist() == [[0, 1]]


def test_training_starts_near_the_independent_model() -> None:
    emissions, targets, states = data(4, 6, 50)
    plain = -torch.nn.functional.cross_entropy(emissions.flatten(0, 1), targets.flatten(), reduction="none")
    for kind in (None, DIM):
        crf = LowRankCRF(50, 32, state_dim=kind).double()
        with torch.no_grad():
            found = crf(emissions, targets, None, states, beam=50)
        torch.testing.assert_close(found, plain.view(4, 6).sum(dim=1), atol=0.5, rtol=0)


def test_identity_as_dynamic_transition_is_the_static_crf() -> None:
    emissions, targets, states = data(3, 5, 7)
    dynamic, static = make("dynamic", 7), make("static", 7)
    static.load_state_dict({name: value for name, value in dynamic.state_dict().items() if name.startswith("E")})
    assert dynamic.f is not None
    with torch.no_grad():
        last = list(dynamic.f.parameters())[-2:]
        last[0].zero_()
        last[1].copy_(torch.eye(3, dtype=torch.float64).flatten())
    torch.testing.assert_close(dynamic(emissions, targets, None, states), static(emissions, targets))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("vocab", "time"), [(4, 1), (4, 2), (5, 4), (3, 6)])
def test_everything_by_enumeration(kind: str, vocab: int, time: int) -> None:
    crf, (emissions, targets, states) = make(kind, vocab), data(2, time, vocab)
    scores_of = blocks(crf, states) if time > 1 else torch.zeros(2, 0, vocab, vocab, dtype=torch.float64)
    found, marginals = crf.decode(emissions, None, states, n_best=4), crf.node_marginals(emissions, None, states)
    edges, entropy = crf.edge_marginals(emissions, None, states), crf.entropy(emissions, None, states)
    for row in range(2):
        sequences, scores = sequence_scores(emissions[row], scores_of[row])
        log_z = scores.logsumexp(dim=0)
        probabilities = (scores - log_z).exp()
        gold = (sequences == targets[row]).all(dim=1)
        likelihood = crf(emissions, targets, None, states)[row]
        torch.testing.assert_close(likelihood, (scores[gold] - log_z)[0])
        torch.testing.assert_close(found.log_partition[row], log_z)
        best = scores.topk(4)
        torch.testing.assert_close(found.score[row], best.values)
        assert found.tokens[row].tolist() == sequences[best.indices].tolist()
        torch.testing.assert_close(found.step_scores[row].sum(dim=1), best.values)
        torch.testing.assert_close(entropy[row], torch.special.entr(probabilities).sum())
        for position in range(time):
            labels = marginals.labels[row, position]
            wanted = torch.stack([probabilities[sequences[:, position] == label].sum() for label in labels])
            torch.testing.assert_close(marginals.probabilities[row, position], wanted)
        for step in range(time - 1):
            torch.testing.assert_close(edges[row, step].sum(dim=0), marginals.probabilities[row, step + 1])
            torch.testing.assert_close(edges[row, step].sum(dim=1), marginals.probabilities[row, step])


@pytest.mark.parametrize("kind", KINDS)
def test_beam_bounds(kind: str) -> None:
    crf, (emissions, targets, states) = make(kind, 12), data(3, 6, 12)
    losses = torch.stack([-crf(emissions, targets, None, states, beam=k) for k in (2, 4, 8, 12, 99)])
    assert (losses >= 0).all()
    assert (losses.diff(dim=0) >= -1e-12).all()
    torch.testing.assert_close(losses[-1], losses[-2])
    scores = torch.stack([crf.decode(emissions, None, states, beam=k).score for k in (1, 2, 4, 12)])
    assert (scores.diff(dim=0) >= -1e-12).all()
    decoded = crf.decode(emissions, None, states)
    assert (decoded.score <= decoded.log_partition).all()
    torch.testing.assert_close(decoded.log_probability, decoded.score - decoded.log_partition)


def test_offsets_of_positions_change_nothing() -> None:
    crf, (emissions, targets, states) = make("dynamic", 9), data(2, 5, 9)
    moved = emissions + torch.randn(2, 5, 1, dtype=torch.float64) * 1e3
    torch.testing.assert_close(crf(moved, targets, None, states, beam=4), crf(emissions, targets, None, states, beam=4))
    assert torch.equal(crf.decode(moved, None, states).tokens, crf.decode(emissions, None, states).tokens)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_scan_and_loop_agree(scale: float) -> None:
    emissions, targets, states = data(3, 9, 8)
    mask = torch.arange(9) < torch.tensor([9, 1, 4])[:, None]
    results = []
    for method in ("loop", "scan"):
        torch.manual_seed(0)
        crf = make("dynamic", 8, method=method)
        leaf = (scale * emissions).requires_grad_()
        value = crf(leaf, targets, mask, states)
        value.sum().backward()
        results.append((value.detach(), leaf.grad, crf.E1.weight.grad, crf.E2.weight.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_against_the_plain_loop_of_logsumexp() -> None:
    crf, (emissions, _, states) = make("static", 6), data(4, 7, 6)
    lengths = torch.tensor([7, 3, 1, 5])
    mask = torch.arange(7) < lengths[:, None]
    wanted = loop_log_partition(emissions, blocks(crf, states), lengths)
    torch.testing.assert_close(crf.log_partition(emissions, mask), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str) -> None:
    crf, (emissions, targets, states) = make(kind, 5), data(2, 4, 5)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    names = [name for name, _ in crf.named_parameters()]

    def loss(emissions: Tensor, states: Tensor, *weights: Tensor) -> Tensor:
        arguments = (emissions, targets, mask, states)
        return torch.func.functional_call(crf, dict(zip(names, weights, strict=True)), arguments, {"beam": 3})

    inputs = (emissions, states, *(parameter.detach() for parameter in crf.parameters()))
    assert torch.autograd.gradcheck(loss, [value.clone().requires_grad_() for value in inputs])


def test_gradient_of_the_partition_function_is_the_marginals() -> None:
    crf, (emissions, _, states) = make("dynamic", 6), data(2, 5, 6)
    leaf = emissions.requires_grad_()
    (gradient,) = torch.autograd.grad(crf.log_partition(leaf, None, states).sum(), leaf)
    marginals = crf.node_marginals(emissions.detach(), None, states)
    torch.testing.assert_close(gradient.gather(2, marginals.labels), marginals.probabilities)


def test_gold_outside_the_list_replaces_one_candidate_and_gets_gradient() -> None:
    crf, (emissions, _, _) = make("static", 10), data(1, 4, 10)
    targets = emissions.argmin(dim=2)
    leaf = emissions.requires_grad_()
    crf(leaf, targets, beam=3).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad.gather(2, targets[..., None]) > 0).all()
    assert ((leaf.grad != 0).sum(dim=2) == 3).all()


def test_samples_have_the_marginals() -> None:
    crf, (emissions, _, states) = make("dynamic", 4), data(1, 3, 4)
    draws = crf.sample(emissions, None, states, count=20_000, generator=torch.Generator().manual_seed(1))
    marginals = crf.node_marginals(emissions, None, states)
    for position in range(3):
        share = (draws[0, :, position, None] == marginals.labels[0, position]).double().mean(dim=0)
        torch.testing.assert_close(share, marginals.probabilities[0, position], atol=0.02, rtol=0)
    assert torch.equal(
        crf.minimum_bayes_risk(emissions, None, states)[0],
        marginals.labels[0].gather(1, marginals.probabilities[0].argmax(dim=1, keepdim=True))[:, 0],
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), left=st.booleans(), kind=st.sampled_from(KINDS), padding=st.integers(0, 4))
def test_padding_on_either_side_changes_nothing(seed: int, left: bool, kind: str, padding: int) -> None:
    torch.manual_seed(seed)
    crf, (emissions, targets, states) = make(kind, 6, beam=4), data(1, 4, 6, seed)
    alone, best = crf(emissions, targets, None, states), crf.decode(emissions, None, states)
    room = slice(padding, padding + 4) if left else slice(0, 4)
    mask = torch.zeros(2, 4 + padding, dtype=torch.bool)
    wide, gold, hidden = data(2, 4 + padding, 6, seed + 1)
    mask[0, room], mask[1] = True, True
    wide[0, room], gold[0, room], hidden[0, room] = emissions[0], targets[0], states[0]
    wide[0, ~mask[0]] = 1e9
    torch.testing.assert_close(crf(wide, gold, mask, hidden)[:1], alone)
    decoded = crf.decode(wide, mask, hidden)
    assert torch.equal(decoded.tokens[0, room], best.tokens[0])
    assert (decoded.tokens[0, ~mask[0]] == 0).all()


@pytest.mark.parametrize("tile", [1, 7, 2**20])
def test_fused_projection_equals_the_plain_way(tile: int) -> None:
    crf, (_, targets, states) = make("dynamic", 30, beam=5), data(2, 6, 30)
    weight, bias = torch.randn(30, DIM, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
    found = []
    for fused in (True, False):
        leaves = [value.clone().requires_grad_() for value in (states, weight, bias)]
        if fused:
            result = crf.fused_loss(leaves[0], leaves[1], targets, mask, bias=leaves[2], label_smoothing=0.1)
            likelihood, token = result.log_likelihood, result.token_loss
        else:
            emissions = leaves[0] @ leaves[1].T + leaves[2]
            likelihood = crf(emissions, targets, mask, leaves[0])
            log_p = emissions.log_softmax(dim=2)
            token = -0.9 * log_p.gather(2, targets[..., None])[..., 0] - 0.1 * log_p.mean(dim=2)
            token = token * mask
        (token.sum() - likelihood.sum()).backward()
        found.append([likelihood.detach(), token.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    parts = project(states, weight, 5, bias=bias, targets=targets, most_at_once=tile * 30)
    whole = project(states, weight, 5, bias=bias, targets=targets)
    torch.testing.assert_close(smoothed_token_loss(parts, 0.1), smoothed_token_loss(whole, 0.1))


def test_what_stands_at_padding_changes_no_fused_loss() -> None:
    crf, (_, targets, states) = make("dynamic", 30, beam=5), data(2, 6, 30)
    weight = torch.randn(30, DIM, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
    found = []
    for gold, value in ((0, 0.0), (-100, float("nan"))):
        leaf = torch.where(mask[..., None], states, value).requires_grad_()
        result = crf.fused_loss(leaf, weight, torch.where(mask, targets, gold), mask)
        (result.token_loss.sum() - result.log_likelihood.sum()).backward()
        assert leaf.grad is not None
        found.append([result.log_likelihood.detach(), result.token_loss.detach(), result.token_nll, leaf.grad])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_the_token_loss_is_not_smoothed_unless_asked_for() -> None:
    crf, (_, targets, states) = make("static", 30), data(2, 6, 30)
    weight = torch.randn(30, DIM, dtype=torch.float64)
    result = crf.fused_loss(states, weight, targets)
    expected = torch.nn.functional.cross_entropy((states @ weight.T).mT, targets, reduction="none")
    torch.testing.assert_close(result.token_loss, expected)
    torch.testing.assert_close(result.token_nll, expected)


@pytest.mark.parametrize("name", ["log_partition", "entropy"])
def test_sums_over_paths_are_in_float32_inside_autocast(name: str) -> None:
    crf, (emissions, _, states) = make("dynamic", 8).float(), data(2, 5, 8)
    inputs = emissions.float(), None, states.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = getattr(crf, name)(*inputs)
    torch.testing.assert_close(value, getattr(crf, name)(*inputs))


def test_computes_in_float32_inside_autocast() -> None:
    crf, (emissions, targets, states) = make("dynamic", 8).float(), data(2, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = crf(emissions.float(), targets, None, states.float())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, crf(emissions.float(), targets, None, states.float()))
    assert crf(emissions.bfloat16(), targets, None, states.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam": 1}, "beam: expected at least 2 candidates in training"),
        ({"beam": 0}, "beam"),
        ({"targets": torch.full((2, 3), 9)}, "targets"),
        ({"emissions": torch.zeros(2, 3)}, "emissions"),
        ({"mask": torch.tensor([[True, False, True]] * 2)}, "mask"),
        ({"mask": torch.zeros(2, 3, dtype=torch.bool)}, "mask"),
        ({"states": None}, "states"),
    ],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    emissions, targets, states = data(2, 3, 4)
    given_ = {"emissions": emissions, "targets": targets, "mask": None, "states": states} | change
    with pytest.raises(ValueError, match=message):
        make("dynamic", 4).log_likelihood(**given_)


def test_a_vocabulary_of_one_label_learns_nothing() -> None:
    with pytest.raises(ValueError, match="at least 2 candidates in training, got beam=4 of vocab=1"):
        make("static", 1)(torch.zeros(1, 2, 1), torch.zeros(1, 2, dtype=torch.long), beam=4)


def test_two_best_paths_are_the_first_of_four() -> None:
    crf, (emissions, _, states) = make("dynamic", 5), data(2, 4, 5)
    two, four = (crf.decode(emissions, None, states, n_best=count) for count in (2, 4))
    assert torch.equal(two.tokens, four.tokens[:, :2])
    torch.testing.assert_close(two.score, four.score[:, :2])
    with pytest.raises(ValueError, match="published_steps: expected n_best=1, got n_best=2"):
        crf.decode(emissions, None, states, n_best=2, published_steps=True)


@pytest.mark.parametrize("sizes", [{"vocab": 0}, {"vocab": 4, "rank": 0}, {"vocab": 4, "transition_std": -1.0}])
def test_bad_sizes(sizes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        LowRankCRF(**sizes)
