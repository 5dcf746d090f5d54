"""Projection, normaliser and top-k in one pass: the plain values and gradients, without the plain memory."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nat_crf.candidates import select_candidates
from nat_crf.crf import LowRankCRF
from nat_crf.fused_projection import project, smoothed_token_loss


class LargestOutput(TorchDispatchMode):
    """Records the most elements of any tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def inputs(batch: int = 2, time: int = 5, dim: int = 4, vocab: int = 17) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, weight, bias, targets."""
    states, weight, bias = torch.randn(batch, time, dim), torch.randn(vocab, dim), torch.randn(vocab)
    return states.double(), weight.double(), bias.double(), torch.randint(vocab, (batch, time))


def test_worked_example() -> None:
    found = project(torch.tensor([[[1.0, 2.0]]]), torch.eye(2), 1, targets=torch.tensor([[0]]))
    assert found.candidates.labels.tolist() == [[[0]]]
    assert found.candidates.scores.tolist() == [[[1.0]]]
    torch.testing.assert_close(found.log_normalizer, torch.tensor([[1.0, 2.0]]).logsumexp(dim=1, keepdim=True))
    assert found.mean_score.tolist() == [[1.5]]


@pytest.mark.parametrize("most_at_once", [1, 40, 10**6])
def test_equals_the_plain_way(most_at_once: int) -> None:
    states, weight, bias, targets = inputs()
    emissions = states @ weight.T + bias
    found = project(states, weight, 6, bias=bias, targets=targets, most_at_once=most_at_once)
    plain = select_candidates(emissions, 6, targets)
    assert torch.equal(found.candidates.labels, plain.labels)
    assert plain.gold is not None
    assert found.candidates.gold is not None
    assert torch.equal(found.candidates.gold, plain.gold)
    torch.testing.assert_close(found.candidates.scores, plain.scores)
    torch.testing.assert_close(found.log_normalizer, emissions.logsumexp(dim=2))
    torch.testing.assert_close(found.mean_score, emissions.mean(dim=2))
    free = project(states, weight, 99, bias=bias)
    assert free.candidates.gold is None
    assert torch.equal(free.candidates.labels, select_candidates(emissions, 17).labels)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_token_loss_is_smoothed_cross_entropy(epsilon: float) -> None:
    states, weight, bias, targets = inputs()
    loss, nll = smoothed_token_loss(project(states, weight, 3, bias=bias, targets=targets), epsilon)
    logits = (states @ weight.T + bias).flatten(0, 1)
    for found, smoothing in ((loss, epsilon), (nll, 0.0)):
        expected = torch.nn.functional.cross_entropy(
            logits, targets.flatten(), label_smoothing=smoothing, reduction="none"
        )
        torch.testing.assert_close(found.flatten(), expected)


@pytest.mark.parametrize("with_bias", [True, False])
def test_gradcheck(with_bias: bool) -> None:
    states, weight, bias, targets = inputs(1, 3, 3, 7)
    leaves = [value.requires_grad_() for value in ([states, weight, bias] if with_bias else [states, weight])]

    def function(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        found = project(states, weight, 3, bias=bias, targets=targets, most_at_once=14)
        return found.candidates.scores, found.log_normalizer, found.mean_score

    assert torch.autograd.gradcheck(function, leaves)


def test_frozen_parts_get_no_gradient() -> None:
    states, weight, bias, _ = inputs()
    states.requires_grad_()
    project(states, weight, 3, bias=bias).log_normalizer.sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(states.grad, (states @ weight.T + bias).softmax(dim=2).detach() @ weight)


def test_nothing_of_the_size_of_the_emissions_is_made() -> None:
    batch, time, vocab, dim = 4, 16, 4000, 8
    states, weight, _, targets = inputs(batch, time, dim, vocab)
    crf = LowRankCRF(vocab, 4, beam=8).double()
    leaves = [states.requires_grad_(), weight.requires_grad_(), *crf.parameters()]
    with LargestOutput() as plain:
        emissions = states @ weight.T
        loss = torch.nn.functional.cross_entropy(emissions.flatten(0, 1), targets.flatten(), reduction="sum")
        expected = torch.autograd.grad(loss - crf(emissions, targets).sum(), leaves)
    assert plain.elements == batch * time * vocab
    with LargestOutput() as fused:
        found = project(states, weight, 8, targets=targets, most_at_once=4 * vocab)
        loss = smoothed_token_loss(found)[1].sum() - crf(found.candidates, targets).sum()
        gradients = torch.autograd.grad(loss, leaves)
    assert fused.elements <= max(4 * vocab, vocab * dim)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_fused_loss_by_default_too() -> None:
    """At sizes where the emissions would be larger than what is computed at once."""
    batch, time, vocab = 8, 16, 100_000
    states, weight, targets = torch.randn(batch, time, 4), torch.randn(vocab, 4), torch.randint(vocab, (batch, time))
    crf = LowRankCRF(vocab, 2, beam=8)
    with LargestOutput() as fused:
        loss = crf.fused_loss(states.requires_grad_(), weight.requires_grad_(), targets, label_smoothing=0.1)
        (loss.token_loss.sum() - loss.log_likelihood.sum()).backward()
    assert fused.elements <= 2**23 < batch * time * vocab


def test_autocast_reaches_the_products_alone() -> None:
    states, weight, bias, targets = inputs(vocab=300, dim=64)
    leaves = [value.float().requires_grad_() for value in (states, weight, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = project(leaves[0], leaves[1], 5, bias=leaves[2], targets=targets)
    loss, _ = smoothed_token_loss(found, 0.1)
    assert loss.dtype == found.candidates.scores.dtype == torch.float32
    logits = (leaves[0].detach().bfloat16() @ leaves[1].detach().bfloat16().T).float() + leaves[2].detach()
    torch.testing.assert_close(found.log_normalizer, logits.logsumexp(dim=2))
    loss.sum().backward()
    exact = [value.detach().requires_grad_() for value in (states, weight, bias)]
    smoothed_token_loss(project(exact[0], exact[1], 5, bias=exact[2], targets=targets), 0.1)[0].sum().backward()
    for one, other in zip(leaves, exact, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.dtype == torch.float32
        assert float((one.grad - other.grad).abs().max()) < 0.05 * float(other.grad.abs().max())


def test_what_stands_at_padding_reaches_nothing() -> None:
    states, weight, _, targets = inputs()
    crf = LowRankCRF(17, 2, beam=4, state_dim=4).double()
    mask = torch.tensor([[False, True, True, True, False], [True] * 5])
    states[0, 0], targets[0, 4] = torch.nan, -100
    states.requires_grad_()
    loss = crf.fused_loss(states, weight, targets, mask)
    (loss.token_loss.sum() - loss.log_likelihood.sum()).backward()
    assert states.grad is not None
    assert torch.isfinite(states.grad).all()
    assert (states.grad[~mask] == 0).all()
    assert (loss.token_loss[~mask] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": torch.zeros(2, 5)}, "states: expected .batch, time, d."),
        ({"weight": torch.zeros(17, 3)}, "states: expected .batch, time, d. and weight .vocab, d."),
        ({"targets": torch.zeros(2, 4, dtype=torch.int64)}, "targets: expected .batch, time."),
    ],
)
def test_bad_shapes(change: dict[str, Tensor], message: str) -> None:
    states, weight, _, targets = inputs()
    given = {"states": states, "weight": weight, "beam": 3, "targets": targets} | change
    with pytest.raises(ValueError, match=message):
        project(**given)


def test_bad_vocabulary_and_missing_gold() -> None:
    states, weight, _, targets = inputs()
    with pytest.raises(ValueError, match=r"weight: expected .vocab, d. with vocab=9"):
        LowRankCRF(9, 2).fused_loss(states, weight, targets)
    with pytest.raises(ValueError, match="projection: expected one made with targets"):
        smoothed_token_loss(project(states, weight, 3))
    with pytest.raises(ValueError, match="candidates selected with the targets"):
        LowRankCRF(17, 2).log_likelihood(project(states, weight, 3).candidates, targets)
