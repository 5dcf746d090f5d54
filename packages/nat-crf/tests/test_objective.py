"""The training objective (its values are also pinned by the golden vectors)."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nat_crf_testing.tiny import KINDS, batch, tiny_model
from torch.nn import functional as F

from nat_crf.objective import ObjectiveConfig, crf_loss, smoothed_cross_entropy, translation_loss
from nat_crf.sequences import PAD


def test_worked_example() -> None:
    """Two labels with probabilities 3/4 and 1/4, gold the first: (1 - eps) log(4/3) + eps (log(4/3) + log 4) / 2."""
    logits = torch.tensor([[[math.log(3.0), 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, False]])
    loss, nll = smoothed_cross_entropy(logits, torch.zeros(1, 2, dtype=torch.long), mask, 0.1)
    assert float(nll) == pytest.approx(math.log(4 / 3))
    assert float(loss) == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * (math.log(4 / 3) + math.log(4)) / 2)
    likelihood, lengths = torch.tensor([-2.0, -9.0]), torch.tensor([1, 3])
    assert float(crf_loss(likelihood, lengths, "sentence")) == pytest.approx((2 + 3) / 2)
    assert float(crf_loss(likelihood, lengths, "token")) == pytest.approx(11 / 4)


@settings(max_examples=20, deadline=None)
@given(
    batch_size=st.integers(1, 3),
    length=st.integers(1, 4),
    vocab=st.integers(2, 7),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 99),
)
def test_equals_torch(batch_size: int, length: int, vocab: int, smoothing: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(batch_size, length, vocab).double().requires_grad_()
    targets, mask = torch.randint(vocab, (batch_size, length)), torch.rand(batch_size, length) < 0.7
    mask[0, 0] = True
    loss, _ = smoothed_cross_entropy(logits, targets, mask, smoothing)
    expected = F.cross_entropy(logits[mask], targets[mask], label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("normalisation", ["sentence", "token"])
@pytest.mark.parametrize(("name", "crf"), KINDS)
def test_total_is_the_weighted_sum(name: str, crf: str, normalisation) -> None:
    model = tiny_model(name, crf=crf)
    source, target = batch(model, [3, 5]), batch(model, [4, 2])
    config = ObjectiveConfig(normalisation=normalisation, length_weight=0.3)
    losses = translation_loss(model, source, target, config)
    expected = losses.token * (1.0 if crf == "none" else 0.5)
    if losses.crf is not None:
        assert losses.crf >= 0
        expected = expected + losses.crf
    if losses.length is not None:
        expected = expected + 0.3 * losses.length
    assert (losses.crf is None) == (crf == "none")
    assert (losses.length is None) == (name == "paper")
    torch.testing.assert_close(losses.total, expected)


def test_crf_term_is_its_log_likelihood_per_length() -> None:
    """And with E1 = 0 and k = V it is the sum of the token losses (Section 15, point 2)."""
    model = tiny_model("paper", crf="static", beam=13)
    source, target = batch(model, [3, 5]), batch(model, [4, 2])
    mask = target != PAD
    assert model.crf is not None
    emissions, states, _ = model(source, mask)
    expected = -(model.crf.log_likelihood(emissions, target, mask, states) / mask.sum(dim=1)).mean()
    torch.testing.assert_close(translation_loss(model, source, target).crf, expected)
    with torch.no_grad():
        model.crf.E1.weight.zero_()
    losses = translation_loss(model, source, target, ObjectiveConfig(normalisation="token"))
    torch.testing.assert_close(losses.crf, losses.nll)


@pytest.mark.parametrize(("name", "crf"), KINDS)
def test_fused_equals_plain(name: str, crf: str) -> None:
    model = tiny_model(name, crf=crf, beam=6)
    source, target = batch(model, [3, 5]), batch(model, [4, 2])
    results = []
    for fused in (False, True):
        losses = translation_loss(model, source, target, ObjectiveConfig(fused=fused))
        model.zero_grad()
        losses.total.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        results.append([losses.total, losses.token, losses.nll, *gradients])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("crf", ["none", "static", "dynamic"])
def test_gradcheck_of_a_tiny_objective(crf: str) -> None:
    model = tiny_model("laptop", vocab=6, crf=crf, beam=6, dim=4, ffn_dim=3, decoder_layers=1, length_classes=4)
    source, target = batch(model, [2, 1]), batch(model, [1, 2])
    parameters = dict(model.named_parameters())

    def total(*values: torch.Tensor) -> torch.Tensor:
        state = dict(zip(parameters, values, strict=True))
        wrapper = torch.nn.ModuleDict({"model": model})
        wrapper.forward = lambda: translation_loss(model, source, target).total  # type: ignore[method-assign]
        return torch.func.functional_call(wrapper, {f"model.{name}": value for name, value in state.items()}, ())

    assert torch.autograd.gradcheck(total, tuple(parameters.values()), fast_mode=True)


def test_smaller_beam_gives_a_smaller_loss() -> None:
    """Section 4.5: a lower bound that grows with k."""
    model = tiny_model("paper", crf="static")
    source, target = batch(model, [3, 5]), batch(model, [4, 2])
    with torch.no_grad():
        found = [translation_loss(model, source, target, beam=beam).crf for beam in (2, 4, 8, 13, 50)]
    losses = [float(loss) for loss in found if loss is not None]
    assert len(losses) == 5
    assert losses == sorted(losses)
    assert losses[3] == losses[4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"token_weight": -1.0}, "weights: expected 0 or more"),
        ({"normalisation": "batch"}, "normalisation: expected sentence or token"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**change)


def test_bad_targets() -> None:
    model = tiny_model("paper", crf="static")
    with pytest.raises(ValueError, match="target: expected token ids"):
        translation_loss(model, batch(model, [3]), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least 2 candidates in training"):
        translation_loss(model, batch(model, [3]), batch(model, [3]), beam=1)
