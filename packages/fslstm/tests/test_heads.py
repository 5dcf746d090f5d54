"""The four base learners as functions."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from fslstm_testing.brute_force import block_system, episodes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fslstm import ls_svm, prototype, ridge, svm
from fslstm.codes import code_matrix
from fslstm.dual import per_episode
from fslstm.kernels import kernel_matrix

Function = Callable[..., Tensor]
HEADS: dict[str, Function] = {
    "ls_svm": ls_svm,
    "ls_svm-ovo": partial(ls_svm, code="ovo"),
    "ridge": ridge,
    "svm": partial(svm, max_iter=40),
    "prototype": prototype,
}
each_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())


def test_worked_example() -> None:
    """Support +1 and -1 on a line: beta = (2, -2) / (2 + ridge), so that logits are +-4 q / (2 + ridge)."""
    support, labels = torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[0, 1]])
    logits = ls_svm(torch.tensor([[[0.5]]]), support, labels, 2, ridge=0.5)
    torch.testing.assert_close(logits, torch.tensor([[[0.8, -0.8]]]))
    # 2 q (K + ridge I)^{-1} OH with the same eigenvector: half of it
    logits = ridge(torch.tensor([[[0.5]]]), support, labels, 2, ridge=0.5)
    torch.testing.assert_close(logits, torch.tensor([[[0.4, -0.4]]]))
    logits = prototype(torch.tensor([[[0.5]]]), support, labels, 2)
    torch.testing.assert_close(logits, torch.tensor([[[-0.25, -2.25]]]))


@pytest.mark.parametrize("code", ["ova", "ovo", "ecoc"])
@settings(max_examples=15, deadline=None)
@given(way=st.integers(2, 5), shot=st.integers(1, 3), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_equals_block_system(code: str, way: int, shot: int, batch: int, seed: int) -> None:
    query, support, labels = episodes(batch, way, shot, 2, 7, seed=seed)
    matrix = code_matrix(code, way).double()
    # In the block system rows coded zero keep alpha = 1 / ridge, times a target of zero
    expected, _, _ = block_system(query, support, labels, matrix)
    torch.testing.assert_close(ls_svm(query, support, labels, way, code=code), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ls_svm(query, support, labels, way, code=matrix), expected, rtol=1e-10, atol=1e-10)


def test_any_code_matrix() -> None:
    query, support, labels = episodes(2, 4, 2, 3, 9)
    code = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 1.0]]).double()
    expected, _, _ = block_system(query, support, labels, code)
    torch.testing.assert_close(ls_svm(query, support, labels, 4, code=code), expected, rtol=1e-10, atol=1e-10)


def test_reduced_form_has_the_same_coefficients_and_bias() -> None:
    """A beta = T and b = 1/2 1^T beta (section 4.2) against alpha and b of the block system."""
    query, support, labels = episodes(2, 3, 2, 1, 5)
    code = code_matrix("ova", 3).double()
    _, signed, biases = block_system(query, support, labels, code)
    system = support @ support.mT + 0.5 + 0.1 * torch.eye(6).double()
    beta = torch.linalg.solve(system, code[labels])
    torch.testing.assert_close(beta, signed, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(beta.sum(dim=1) / 2, biases, rtol=1e-10, atol=1e-10)


def test_is_ridge_on_extended_features() -> None:
    """LS-SVM = ridge regression on [x, 1/sqrt(2)], factor 4 against 2, up to a shift a query."""
    query, support, labels = episodes(2, 5, 3, 2, 8)
    one = torch.full((2, 1, 1), 0.5**0.5, dtype=torch.float64)
    extended = [torch.cat([rows, one.expand(-1, rows.shape[1], 1)], dim=2) for rows in (query, support)]
    expected = 2 * ridge(*extended, labels, 5, ridge=0.1)
    expected -= expected.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(ls_svm(query, support, labels, 5, center=True), expected)
    without_bias = ls_svm(query, support, labels, 5, ridge=7.0, bias=0.0, center=True)
    same_ridge = 2 * ridge(query, support, labels, 5, ridge=7.0)
    torch.testing.assert_close(without_bias, same_ridge - same_ridge.mean(dim=-1, keepdim=True))


@pytest.mark.parametrize("way", [3, 4, 5, 6])
def test_exhaustive_code_is_one_vs_all(way: int) -> None:
    """M M^T identities, hence the same classifier: logits in the ratio 2^(way - 1) : 4 up to a shift."""
    ova, ecoc = (code_matrix(code, way) for code in ("ova", "ecoc"))
    torch.testing.assert_close(ova @ ova.mT, 4 * torch.eye(way) + way - 4)
    torch.testing.assert_close(ecoc @ ecoc.mT, 2 ** (way - 1) * torch.eye(way) - 1)
    query, support, labels = episodes(2, way, 2, 3, 20)
    first, second = (ls_svm(query, support, labels, way, code=code, center=True) for code in ("ova", "ecoc"))
    torch.testing.assert_close(second, first * 2 ** (way - 1) / 4)


def test_one_vs_one_column_is_the_two_class_problem() -> None:
    query, support, labels = episodes(1, 3, 2, 2, 6)
    pair = labels[0] < 2
    expected = ls_svm(query, support[:, pair], labels[:, pair], 2)
    column = torch.tensor([[1.0], [-1.0], [0.0]]).double()
    # M M^T of two classes is [[2, -2], [-2, 2]]: twice the single column's output
    torch.testing.assert_close(ls_svm(query, support, labels, 3, code=column)[..., :2], expected / 2)


def test_limits_of_the_ridge() -> None:
    query, support, labels = episodes(2, 4, 2, 2, 30)
    one_hot = torch.nn.functional.one_hot(labels, 4).double()
    code = code_matrix("ova", 4).double()
    dot_products = (query @ support.mT + 0.5) @ one_hot @ code @ code.mT
    torch.testing.assert_close(1e9 * ls_svm(query, support, labels, 4, ridge=1e9), dot_products, rtol=1e-6, atol=1e-4)
    fitted = ls_svm(support, support, labels, 4, ridge=1e-10)
    torch.testing.assert_close(fitted, code[labels] @ code.mT, rtol=1e-6, atol=1e-6)


def test_duplicated_rows_divide_the_ridge() -> None:
    query, support, labels = episodes(1, 3, 2, 4, 9)
    tripled = ls_svm(query, support.repeat(1, 3, 1), labels.repeat(1, 3), 3, ridge=0.3)
    torch.testing.assert_close(tripled, ls_svm(query, support, labels, 3, ridge=0.1))


@each_head
def test_invariances(head: Function) -> None:
    query, support, labels = episodes(2, 4, 3, 2, 12)
    logits = head(query, support, labels, 4)
    order = torch.randperm(12)
    torch.testing.assert_close(head(query, support[:, order], labels[:, order], 4), logits)
    # A query's logits do not depend on the other queries
    torch.testing.assert_close(head(query[:, 3:5], support, labels, 4), logits[:, 3:5])
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
    torch.testing.assert_close(head(query @ rotation, support @ rotation, labels, 4), logits)
    relabelled = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(head(query, support, relabelled[labels], 4)[..., relabelled], logits)
    moved = head(query + 0.7, support + 0.7, labels, 4)
    assert torch.allclose(moved, logits) == (head is prototype)


@each_head
@settings(max_examples=10, deadline=None)
@given(way=st.integers(2, 6), padding=st.integers(1, 4), seed=st.integers(0, 99))
def test_padding_changes_nothing(head: Function, way: int, padding: int, seed: int) -> None:
    """Padded rows may hold anything, even NaN; an unpadded episode in the same batch is untouched."""
    query, support, labels = episodes(2, way, 2, 2, 6, seed=seed)
    rows = 2 * way
    nan = torch.full((2, padding, 6), torch.nan).double()
    mask = torch.cat([torch.ones(2, rows), torch.zeros(2, padding)], dim=1).bool()
    padded = torch.cat([support, nan], dim=1).requires_grad_()
    logits = head(query, padded, torch.cat([labels, torch.full((2, padding), -1)], dim=1), way, mask=mask)
    torch.testing.assert_close(logits, head(query, support, labels, way))
    (gradient,) = torch.autograd.grad(logits.square().sum(), padded)
    assert torch.isfinite(gradient).all()
    assert not gradient[:, rows:].any()


@each_head
def test_unbalanced_support_and_batch(head: Function) -> None:
    query, support, _ = episodes(3, 3, 4, 2, 10)
    labels = torch.tensor([[0] * 8 + [1] * 3 + [2], [2, 1, 0] * 4, [0, 1] + [2] * 10])
    together = head(query, support, labels, 3)
    apart = [head(query[i : i + 1], support[i : i + 1], labels[i : i + 1], 3) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(apart))


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_primal_form_for_more_rows_than_dimensions(bias: float) -> None:
    """Zero features appended leave the kernel as it is but switch to the dual form; gradients agree too."""
    query, support, labels = episodes(2, 3, 5, 2, 4)
    results = []
    for extra in (0, 20):
        inputs = [torch.nn.functional.pad(rows, (0, extra)).requires_grad_() for rows in (query, support)]
        ridge_value = torch.tensor(0.3).double().requires_grad_()
        logits = ls_svm(*inputs, labels, 3, ridge=ridge_value, bias=bias)
        gradients = torch.autograd.grad(logits.sin().sum(), [*inputs, ridge_value])
        results.append([logits, *(gradient[..., :4] if gradient.ndim else gradient for gradient in gradients)])
    for primal, dual in zip(*results, strict=True):
        torch.testing.assert_close(primal, dual)


def test_primal_form_leaves_padded_rows_out() -> None:
    query, support, labels = episodes(1, 2, 8, 2, 3)
    mask = torch.ones(1, 16).bool()
    mask[0, 12:] = False
    logits = ls_svm(query, support, labels, 2, mask=mask)
    torch.testing.assert_close(logits, ls_svm(query, support[:, :12], labels[:, :12], 2))


@pytest.mark.parametrize("kernel", ["cosine", "rbf"])
@pytest.mark.parametrize("head", [ls_svm, ridge])
def test_kernels(kernel: str, head: Function) -> None:
    query, support, labels = episodes(2, 3, 2, 2, 5)
    gram, cross = kernel_matrix(support, support, kernel), kernel_matrix(query, support, kernel)
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    code = code_matrix("ova", 3).double()
    targets, bias, scale = (one_hot @ code @ code.mT, 0.5, 1) if head is ls_svm else (one_hot, 0.0, 2)
    expected = scale * (cross + bias) @ torch.linalg.solve(gram + bias + 0.2 * torch.eye(6).double(), targets)
    torch.testing.assert_close(head(query, support, labels, 3, ridge=0.2, kernel=kernel), expected)


def test_kernel_matrices_by_hand() -> None:
    first, second = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[3.0, 0.0], [0.0, 2.0]]])
    torch.testing.assert_close(kernel_matrix(first, second), torch.tensor([[[9.0, 8.0]]]))
    torch.testing.assert_close(kernel_matrix(first, second, "cosine"), torch.tensor([[[0.6, 0.8]]]))
    expected = torch.exp(-0.1 * torch.tensor([[[16.0, 13.0]]]))
    torch.testing.assert_close(kernel_matrix(first, second, "rbf", 0.1), expected)


@pytest.mark.parametrize("head", [ls_svm, ridge])
def test_float32_accuracy_at_full_size(head: Function) -> None:
    query, support, labels = episodes(8, 5, 5, 6, 5760)
    exact = head(query, support, labels, 5)
    single = head(query.float(), support.float(), labels, 5)
    assert single.dtype == torch.float32
    assert float((single - exact).abs().max() / exact.abs().max()) < 1e-5


@pytest.mark.parametrize("head", [ls_svm, ridge])
def test_coefficients_of_another_precision_do_not_change_that_of_the_logits(head: Function) -> None:
    query, support, labels = episodes(2, 3, 2, 4, 9, dtype=torch.float32)
    logits = head(query, support, labels, 3, ridge=torch.tensor([0.5, 2.0], dtype=torch.float64))
    assert logits.dtype == torch.float32
    each = [head(query[i : i + 1], support[i : i + 1], labels[i : i + 1], 3, ridge=(0.5, 2.0)[i]) for i in range(2)]
    torch.testing.assert_close(logits, torch.cat(each))
    assert per_episode(torch.ones(2, dtype=torch.float64), 2, torch.float32).dtype == torch.float32


@each_head
def test_half_precision_and_autocast_compute_in_float32(head: Function) -> None:
    query, support, labels = (value if i == 2 else value.bfloat16() for i, value in enumerate(episodes(2, 3, 5, 2, 64)))
    expected = head(query.float(), support.float(), labels, 3)
    support = support.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(query, support, labels, 3)
        logits.sum().backward()
    assert logits.dtype == torch.float32
    assert support.grad is not None
    assert support.grad.dtype == torch.bfloat16
    torch.testing.assert_close(logits, expected)


@each_head
@pytest.mark.parametrize("batch", [1, 2])
def test_gradcheck(head: Function, batch: int) -> None:
    query, support, labels = episodes(batch, 3, 2, 1, 7)
    inputs = (query.requires_grad_(), support.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, s: head(q, s, labels, 3), inputs)


@pytest.mark.parametrize("code", ["ova", "ovo"])
@pytest.mark.parametrize("kernel", ["linear", "cosine", "rbf"])
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_gradcheck_of_ridge_and_bias(code: str, kernel: str, shape: tuple[int, ...]) -> None:
    query, support, labels = episodes(2, 3, 2, 1, 7)
    coefficients = [torch.full(shape, value).double().requires_grad_() for value in (0.2, 0.6)]

    def function(q: Tensor, s: Tensor, r: Tensor, b: Tensor) -> Tensor:
        return ls_svm(q, s, labels, 3, ridge=r, bias=b, code=code, kernel=kernel)

    assert torch.autograd.gradcheck(function, (query.requires_grad_(), support.requires_grad_(), *coefficients))


def test_gradient_equals_autograd_through_the_block_system() -> None:
    query, support, labels = episodes(2, 5, 2, 2, 20)
    inputs = (query.requires_grad_(), support.requires_grad_())
    code = code_matrix("ova", 5).double()
    ours = torch.autograd.grad(ls_svm(*inputs, labels, 5).cos().sum(), inputs)
    theirs = torch.autograd.grad(block_system(*inputs, labels, code)[0].cos().sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


def test_second_derivative_is_refused() -> None:
    query, support, labels = episodes(1, 2, 2, 1, 5)
    (gradient,) = torch.autograd.grad(
        ls_svm(query, support.requires_grad_(), labels, 2).square().sum(), support, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


BAD = {
    "query: expected floating point": {"query": torch.zeros(2, 3, 4, dtype=torch.int64)},
    "query: expected torch.float32": {"query": torch.zeros(2, 3, 5)},
    "query: expected finite": {"query": torch.full((2, 3, 4), torch.inf)},
    "support: expected floating point": {"support": torch.zeros(6, 4)},
    "support: expected at least one row": {"support": torch.zeros(2, 0, 4)},
    "support: expected finite": {"support": torch.full((2, 6, 4), torch.nan)},
    "support_labels: expected .batch": {"support_labels": torch.zeros(2, 5, dtype=torch.int64)},
    "support_labels: expected an integer": {"support_labels": torch.zeros(2, 6)},
    "support_labels: expected values in 0..2, got values in 0..3": {
        "support_labels": torch.tensor([[0, 1, 2] * 2, [3] * 6])
    },
    "class 2 in episode 1": {"support_labels": torch.tensor([[0, 1, 2] * 2, [0, 1] * 3])},
    "n_way: expected": {"n_way": 1},
    "support: expected a torch tensor, got ndarray": {"support": torch.ones(2, 6, 4).numpy()},
    "support_labels: expected a torch tensor, got list": {"support_labels": [[0, 1, 2] * 2] * 2},
    "mask: expected bool": {"mask": torch.ones(2, 6)},
}


@each_head
@pytest.mark.parametrize("message", BAD)
def test_bad_input(head: Function, message: str) -> None:
    arguments = {"query": torch.ones(2, 3, 4), "support": torch.ones(2, 6, 4), "n_way": 3}
    arguments["support_labels"] = torch.tensor([[0, 1, 2] * 2] * 2)
    with pytest.raises(ValueError, match=message):
        head(**(arguments | BAD[message]))


@pytest.mark.parametrize(
    ("message", "function"),
    [
        ("ridge: expected a positive", partial(ls_svm, ridge=0.0)),
        ("bias: expected a non-negative", partial(ls_svm, bias=-1.0)),
        ("ridge/bias: expected one value", partial(ls_svm, ridge=torch.ones(3))),
        ("code: expected one of", partial(ls_svm, code="ovr")),
        ("code: expected a matrix", partial(ls_svm, code=torch.ones(2, 4))),
        ("code: expected entries", partial(ls_svm, code=torch.full((3, 4), 0.5))),
        ("code: expected at least one", partial(ls_svm, code=torch.ones(3, 4))),
        ("kernel: expected one of", partial(ls_svm, kernel="poly")),
        ("gamma: expected", partial(ls_svm, gamma=1.0)),
        ("not positive definite", partial(ls_svm, ridge=torch.tensor(-50.0))),
        ("ridge: expected a positive", partial(ridge, ridge=-1.0)),
        ("C: expected a positive", partial(svm, C=0.0)),
        ("max_iter: expected", partial(svm, max_iter=0)),
    ],
)
def test_bad_settings(message: str, function: Function) -> None:
    query, support, labels = episodes(2, 3, 2, 1, 40, dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        function(query, support, labels, 3)
