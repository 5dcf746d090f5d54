"""Inverse attention and pseudo support."""

import copy

import pytest
import torch
from fslstm_testing.brute_force import episodes, pseudo_support_explicit
from hypothesis import given, settings
from hypothesis import strategies as st

from fslstm import LSSVM, CrammerSingerSVM, InverseAttention, Prototype, Ridge, ScaledHead, pseudo_support
from fslstm.modules import Head

HEADS = {
    "ls_svm": LSSVM(),
    "ls_svm-ovo": LSSVM(code="ovo"),
    "ridge": Ridge(),
    "svm": CrammerSingerSVM(max_iter=40),
    "prototype": Prototype(),
    "scaled": ScaledHead(LSSVM()).double(),
}
each_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())


def attention(dim: int = 8, reduction: int = 2, dropout: float = 0.0) -> InverseAttention:
    return InverseAttention(dim, reduction, dropout).double()


def test_attention_step_by_step() -> None:
    """The equations of section 5 with loops over classes and rows."""
    query, support, labels = episodes(1, 3, 2, 2, 8)
    module = attention()
    weights = torch.softmax(module.Q(support[0]) @ module.K(query[0]).mT / 8**0.5, dim=-1)
    torch.testing.assert_close(module.attention(query, support)[0], weights)
    adjusted = module(query, support, labels, 3)[0]
    for row, label in enumerate(labels[0].tolist()):
        average = weights[labels[0] == label].mean(dim=0)
        offset = module.fc(average @ module.V(query[0]))
        expected = module.layer_norm(support[0, row] + offset)
        torch.testing.assert_close(adjusted[row], expected)


@pytest.mark.parametrize(
    ("dim", "reduction", "parameters"),
    [(2048, 8, 4_207_616), (2560, 8, 6_570_240), (4608, 32, 5_336_640), (5760, 16, 16_624_800)],
)
def test_attention_parameter_count(dim: int, reduction: int, parameters: int) -> None:
    with torch.device("meta"):
        module = InverseAttention(dim, reduction)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


def test_attention_initialisation() -> None:
    torch.manual_seed(0)
    module = InverseAttention(512, 4)
    for perceptron in (module.Q, module.K, module.V, module.fc):
        for layer, fan_in in ((perceptron[0], 512), (perceptron[2], 128)):
            # Xavier normal: variance 2 / (fan_in + fan_out)
            assert float(layer.weight.detach().std()) == pytest.approx((2 / 640) ** 0.5, rel=0.02)
            assert 0.9 * fan_in**-0.5 < float(layer.bias.detach().abs().max()) <= fan_in**-0.5


def test_attention_limits() -> None:
    query, support, labels = episodes(2, 3, 2, 2, 8)
    module = attention()
    for layer in (module.K[0], module.K[2]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.testing.assert_close(module.attention(query, support), torch.full((2, 6, 6), 1 / 6).double())
    module = attention()
    for layer in (module.fc[0], module.fc[2]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.testing.assert_close(module(query, support, labels, 3), module.layer_norm(support))


def test_attention_symmetries() -> None:
    query, support, labels = episodes(2, 3, 2, 3, 8)
    module = attention()
    adjusted = module(query, support, labels, 3)
    order = torch.randperm(6)
    torch.testing.assert_close(module(query, support[:, order], labels[:, order], 3), adjusted[:, order])
    torch.testing.assert_close(module(query.flip(1), support, labels, 3), adjusted)
    torch.testing.assert_close(module(query.repeat(1, 2, 1), support, labels, 3), adjusted)


def test_attention_one_shot_average_is_the_identity() -> None:
    query, support, labels = episodes(1, 4, 1, 2, 8)
    module = attention()
    offset = module.fc(module.attention(query, support) @ module.V(query))
    torch.testing.assert_close(module(query, support, labels, 4), module.layer_norm(support + offset))


def test_attention_padding_changes_nothing() -> None:
    query, support, labels = episodes(2, 3, 2, 2, 8)
    module = attention()
    padded = torch.cat([support, torch.full((2, 1, 8), torch.nan).double()], dim=1)
    mask = torch.tensor([[True] * 6 + [False]] * 2)
    more = torch.cat([labels, -torch.ones(2, 1, dtype=torch.int64)], dim=1)
    adjusted = module(query, padded, more, 3, mask)
    torch.testing.assert_close(adjusted[:, :6], module(query, support, labels, 3))
    assert torch.isfinite(adjusted).all()


def test_attention_dropout_is_drawn_per_row() -> None:
    """Two equal rows of one class get different masks in training and the same offset in evaluation."""
    query, support, labels = episodes(1, 2, 2, 4, 64)
    support = support[:, :1].expand(-1, 4, -1)
    module = attention(64, 8, dropout=0.5)
    first, second = (labels[0] == 0).nonzero()[:, 0].tolist()
    trained = module(query, support, labels, 2)[0]
    assert not torch.allclose(trained[first], trained[second])
    evaluated = module.eval()(query, support, labels, 2)[0]
    torch.testing.assert_close(evaluated[first], evaluated[second])


def test_attention_gradcheck() -> None:
    query, support, labels = episodes(1, 2, 2, 2, 4)
    module = attention(4, 2)
    inputs = (query.requires_grad_(), support.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, s: module(q, s, labels, 2), inputs)


@each_head
def test_no_rounds_is_the_inductive_head(head: Head) -> None:
    query, support, labels = episodes(2, 4, 2, 3, 6)
    result = pseudo_support(head, query, support, labels, 4, rounds=0)
    torch.testing.assert_close(result.logits, head(query, support, labels, 4))
    assert result.round_logits.shape == (2, 0, 12, 4)
    assert result.pseudo_labels.shape == (2, 0, 12)
    assert result.pseudo_prototypes.shape == (2, 0, 4, 6)
    assert torch.equal(result.support_labels, labels)


@each_head
@pytest.mark.parametrize("skip_empty", [False, True])
@pytest.mark.parametrize(("way", "n_query"), [(2, 4), (5, 1), (6, 15)])
def test_kernel_form_is_the_explicit_form(head: Head, skip_empty: bool, way: int, n_query: int) -> None:
    query, support, labels = episodes(3, way, 2, n_query, 10)
    result = pseudo_support(head, query, support, labels, way, rounds=3, empty="skip" if skip_empty else "zero")
    for index in range(3):
        one = slice(index, index + 1)
        logits, rows, row_labels = pseudo_support_explicit(
            head, query[one], support[one], labels[one], way, 3, skip_empty=skip_empty
        )
        torch.testing.assert_close(result.logits[one], logits, rtol=1e-6, atol=1e-8)
        if not skip_empty:
            torch.testing.assert_close(result.pseudo_prototypes[index].flatten(0, 1), rows[0, 2 * way :])
            assert torch.equal(result.support_labels[one], row_labels)
            assert row_labels.shape[1] == 2 * way + 3 * way


@settings(max_examples=15, deadline=None)
@given(way=st.integers(2, 5), shot=st.integers(1, 3), rounds=st.integers(0, 4), seed=st.integers(0, 99))
def test_shapes_and_symmetry(way: int, shot: int, rounds: int, seed: int) -> None:
    query, support, labels = episodes(2, way, shot, 3, 12, seed=seed)
    result = pseudo_support(LSSVM(), query, support, labels, way, rounds=rounds)
    assert result.support_labels.shape == (2, way * (shot + rounds))
    order = torch.randperm(3 * way)
    shuffled = pseudo_support(LSSVM(), query[:, order], support, labels, way, rounds=rounds)
    torch.testing.assert_close(shuffled.logits, result.logits[:, order], rtol=1e-8, atol=1e-8)


def test_empty_class_gives_a_zero_row() -> None:
    support = torch.eye(3).double()[None]
    query = torch.tensor([[[5.0, 0.0, 0.0], [6.0, 0.0, 0.0], [0.0, 7.0, 0.0]]]).double()
    result = pseudo_support(Prototype(), query, support, torch.tensor([[0, 1, 2]]), 3, rounds=1)
    expected = torch.tensor([[11 / 2.00001, 0, 0], [0, 7 / 1.00001, 0], [0, 0, 0]]).double()
    torch.testing.assert_close(result.pseudo_prototypes[0, 0], expected)


def test_separated_clusters_keep_their_predictions() -> None:
    query, support, labels = episodes(4, 5, 1, 5, 64)
    query, support = 0.05 * query, 0.05 * support
    centers = torch.eye(5, 64).double() * 3
    query = query + centers.repeat_interleave(5, 0)
    support = support + centers[labels]
    result = pseudo_support(LSSVM(), query, support, labels, 5)
    assert torch.equal(result.logits.argmax(-1), torch.arange(5).repeat_interleave(5).expand(4, -1))


def test_float32_equals_float64() -> None:
    query, support, labels = episodes(4, 5, 5, 15, 640)
    exact = pseudo_support(LSSVM(), query, support, labels, 5).logits
    single = pseudo_support(LSSVM(), query.float(), support.float(), labels, 5).logits
    assert float((single - exact).abs().max() / exact.abs().max()) < 2e-5


def test_variants() -> None:
    query, support, labels = episodes(2, 3, 2, 5, 6)
    everything = pseudo_support(LSSVM(), query, support, labels, 3, rounds=2)
    # No probability falls below zero; none reaches two: all rows are zero rows
    assert torch.equal(
        pseudo_support(LSSVM(), query, support, labels, 3, rounds=2, threshold=0.0).logits, everything.logits
    )
    nothing = pseudo_support(LSSVM(), query, support, labels, 3, rounds=2, threshold=2.0, empty="skip")
    torch.testing.assert_close(nothing.logits, LSSVM()(query, support, labels, 3))
    soft = pseudo_support(LSSVM(), query, support, labels, 3, rounds=1, soft=True)
    probabilities = LSSVM()(query, support, labels, 3).softmax(-1)
    rows = probabilities.mT @ query / (probabilities.sum(1)[..., None] + 1e-5)
    torch.testing.assert_close(soft.pseudo_prototypes[:, 0], rows)
    replaced = pseudo_support(LSSVM(), query, support, labels, 3, rounds=2, accumulate=False)
    assert replaced.support_labels.shape == (2, 9)
    last = torch.cat([support, replaced.pseudo_prototypes[:, 1]], dim=1)
    last_labels = torch.cat([labels, torch.arange(3).expand(2, -1)], dim=1)
    torch.testing.assert_close(replaced.logits, LSSVM()(query, last, last_labels, 3))


def test_padding_of_the_support() -> None:
    query, support, labels = episodes(2, 3, 2, 4, 6)
    padded = torch.cat([support, torch.full((2, 2, 6), torch.nan).double()], dim=1)
    mask = torch.tensor([[True] * 6 + [False] * 2] * 2)
    more = torch.cat([labels, torch.zeros(2, 2, dtype=torch.int64)], dim=1)
    for head in (LSSVM(), Prototype(), CrammerSingerSVM(max_iter=40)):
        logits = pseudo_support(head, query, padded, more, 3, mask=mask, rounds=2).logits
        expected = pseudo_support(head, query, support, labels, 3, rounds=2).logits
        torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-8)


@each_head
def test_the_loop_never_looks_at_values(head: Head) -> None:
    """Tensors without values: whatever would make an accelerator wait (`bool`, `item`, indexing by a mask) raises."""
    query, support, labels = (rows.to("meta") for rows in episodes(2, 3, 2, 2, 6))
    mask = torch.ones(2, 6, dtype=torch.bool, device="meta")
    head = copy.deepcopy(head).to("meta")
    head.validate = False
    result = pseudo_support(head, query, support, labels, 3, mask=mask, rounds=2, empty="skip", threshold=0.5)
    assert result.logits.shape == (2, 6, 3)


def test_no_gradient() -> None:
    query, support, labels = episodes(1, 2, 1, 2, 4)
    assert not pseudo_support(LSSVM(), query.requires_grad_(), support, labels, 2).logits.requires_grad


def test_bad_input() -> None:
    query, support, labels = episodes(1, 2, 1, 2, 4)
    for message, head, options in (
        ("head: expected", LSSVM(kernel="rbf"), {}),
        ("head: expected", torch.nn.Linear(2, 2), {}),
        ("rounds: expected", LSSVM(), {"rounds": -1}),
        ("empty: expected", LSSVM(), {"empty": "drop"}),
    ):
        with pytest.raises(ValueError, match=message):
            pseudo_support(head, query, support, labels, 2, **options)
    with pytest.raises(ValueError, match="query: expected"):
        pseudo_support(LSSVM(), query[..., :2], support, labels, 2)
    with pytest.raises(ValueError, match="reduction: expected"):
        InverseAttention(4, 5)
    with pytest.raises(ValueError, match="mask: expected"):
        attention(4)(query, support, labels, 2, torch.ones(1, 2))
