"""The recursion with its gradient in closed form, and as a tree of products, against the plain loop in float64."""

import pytest
import torch
from nat_crf_testing.brute_force import loop_log_partition
from nat_crf_testing.chains import assert_same, plain_log_partition, random_chain, with_gradients

from nat_crf import recursion, scan
from nat_crf.chain import Chain, Method, entropy, log_partition, node_marginals, resolve_method
from nat_crf.recursion import BlockChain
from nat_crf.transitions import Transitions

SIZES = [(3, 7, 5, 3), (2, 1, 4, 2), (1, 2, 2, 1), (4, 12, 9, 4), (2, 9, 1, 3)]
METHODS: list[Method] = ["loop", "scan"]


@pytest.mark.parametrize("method", METHODS)
def test_worked_example(method: Method) -> None:
    # Two positions, two labels; t(0, 0) = 1, all else 0: log Z = log(e + 3)
    factor = torch.tensor([[1.0], [0.0]])
    transitions = Transitions(torch.tensor([[[0, 1], [0, 1]]]), factor, factor)
    found = log_partition(Chain(torch.zeros(1, 2, 2), transitions, torch.tensor([2])), method)
    torch.testing.assert_close(found.exp(), torch.tensor([torch.e + 3]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_equals_the_plain_loop(method: Method, dynamic: bool, sizes: tuple[int, int, int, int]) -> None:
    chain = random_chain(sizes, dynamic=dynamic)
    expected = with_gradients(plain_log_partition, chain)
    assert_same(with_gradients(lambda chain: log_partition(chain, method), chain), expected, 1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [10.0, 100.0, 1e4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_large_scores(method: Method, scale: float, dtype: torch.dtype, tolerance: float) -> None:
    """Emissions and transitions of +-1e4, which may compensate each other, where exponentials over- and underflow."""
    for seed in range(5):
        exact = random_chain((3, 8, 6, 3), scale=scale, seed=seed)
        expected = with_gradients(plain_log_partition, exact)
        chain = random_chain((3, 8, 6, 3), scale=scale, seed=seed, dtype=dtype)
        found = with_gradients(lambda chain: log_partition(chain, method), chain)
        # float32 holds a score of 1e4 to 1e-3, and so a probability: gradients are compared where that is nothing
        parts = slice(None) if dtype == torch.float64 or scale < 100 else slice(1)
        assert_same(found[parts], expected[parts], tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_large_scores_that_compensate(method: Method) -> None:
    """The best path starts at a label 1e4 below the other, which a transition of 2e4 makes good."""
    first, second = torch.tensor([[0.0], [100.0]]), torch.tensor([[0.0], [200.0]])
    emissions = torch.tensor([[[0.0, -1e4], [0.0, 0.0], [0.0, -1e4]]], requires_grad=True)
    labels = torch.tensor([[[0, 1], [0, 1], [0, 1]]])
    found = log_partition(Chain(emissions, Transitions(labels, first, second), torch.tensor([3])), method)
    # 1, 1, 1: -1e4 + 2e4 + 2e4 - 1e4
    torch.testing.assert_close(found, torch.tensor([2e4]))
    (gradient,) = torch.autograd.grad(found.sum(), emissions)
    assert gradient.tolist() == [[[0.0, 1.0]] * 3]


def test_float32_is_as_good_as_the_plain_loop_in_float32() -> None:
    exact, chain = (random_chain((8, 20, 16, 8), scale=3.0, dtype=dtype) for dtype in (torch.float64, torch.float32))
    expected = with_gradients(plain_log_partition, exact)
    errors = []
    for function in (log_partition, plain_log_partition):
        found = with_gradients(function, chain)
        errors.append([float((a.double() - b).abs().max()) for a, b in zip(found, expected, strict=True)])
    assert all(ours <= 2 * plain for ours, plain in zip(*errors, strict=True)), errors


def test_recomputed_weights_equal_kept_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = random_chain((3, 6, 5, 2))
    kept = with_gradients(log_partition, chain), node_marginals(chain), entropy(chain)
    monkeypatch.setattr(recursion, "_MOST_KEPT", 0)
    again = with_gradients(log_partition, chain), node_marginals(chain), entropy(chain)
    assert_same([*kept[0], *kept[1:]], [*again[0], *again[1:]], 0.0)


def test_no_gradient_nothing_kept() -> None:
    chain = random_chain((3, 6, 5, 2))
    with torch.no_grad():
        plain = log_partition(chain)
    assert not plain.requires_grad
    assert torch.equal(plain, log_partition(chain).detach())


def test_backward_twice_gives_the_same() -> None:
    chain = random_chain((2, 5, 4, 2))
    value = log_partition(chain).sum()
    one, other = (torch.autograd.grad(value, chain.emissions, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, other)


def test_chain_of_given_blocks() -> None:
    emissions = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    blocks = torch.randn(3, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([6, 1, 3])
    torch.testing.assert_close(
        BlockChain.apply(emissions, blocks, lengths), loop_log_partition(emissions, blocks, lengths)
    )
    assert torch.autograd.gradcheck(lambda e, b: BlockChain.apply(e, b, lengths), (emissions, blocks))


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method: Method) -> None:
    chain = random_chain((2, 4, 3, 2))
    labels, lengths = chain.transitions.labels, chain.lengths

    def function(emissions: torch.Tensor, *factors: torch.Tensor) -> torch.Tensor:
        return log_partition(Chain(emissions, Transitions(labels, *factors), lengths), method)

    assert torch.autograd.gradcheck(function, (chain.emissions, *chain.transitions[1:]))


def test_products_of_the_tree() -> None:
    one, other = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5, 5)
    expected = (one[..., None] + other[..., None, :, :]).logsumexp(dim=-2)
    torch.testing.assert_close(scan.log_product(one, other), expected)
    torch.testing.assert_close(scan.exact_log_product(one, other), expected)


def test_exact_product_is_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = torch.randn(2, 7, 3), torch.randn(2, 3, 3)
    whole = scan.exact_log_product(one, other)
    monkeypatch.setattr(scan, "_MOST_AT_ONCE", 40)
    assert torch.equal(scan.exact_log_product(one, other), whole)


@pytest.mark.parametrize("count", range(9))
def test_prefix_vectors(count: int) -> None:
    start, matrices = torch.randn(2, 3), torch.randn(2, count, 3, 3)
    expected = [start]
    for step in range(count):
        expected.append((expected[-1][:, None] @ matrices[:, step])[:, 0])
    torch.testing.assert_close(scan.prefix_vectors(start, matrices, torch.matmul), torch.stack(expected, dim=1))


def test_forbidden_labels_have_no_probability() -> None:
    chain = random_chain((2, 5, 4, 2))
    emissions = chain.emissions.detach().clone()
    emissions[:, 1:, 2] = -torch.inf
    emissions.requires_grad_()
    for method in METHODS:
        value = log_partition(chain._replace(emissions=emissions), method)
        (gradient,) = torch.autograd.grad(value.sum(), emissions)
        assert torch.isfinite(value).all()
        assert (gradient[:, 1:, 2] == 0).all()


def test_choice_of_the_method() -> None:
    chain = random_chain((2, 3, 4, 2))
    assert resolve_method(chain, "auto") == "loop"
    elsewhere = chain._replace(emissions=chain.emissions.to("meta"))
    assert resolve_method(elsewhere, "auto") == "scan"
    long = chain._replace(emissions=torch.empty(1, 2, 500, device="meta"))
    assert resolve_method(long, "auto") == "loop"


@pytest.mark.parametrize("method", ["tree", "triton"])
def test_methods_that_cannot_run(method: Method) -> None:
    with pytest.raises(ValueError, match="method: "):
        log_partition(random_chain((2, 3, 4, 2)), method)
