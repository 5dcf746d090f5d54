"""The Crammer-Singer dual: optimality conditions, a brute-force solution, limits, precision."""

import pytest
import torch
from fslstm_testing.brute_force import crammer_singer_by_enumeration, episodes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fslstm import ridge, svm
from fslstm.interior_point import solve_crammer_singer


def problem(way: int, shot: int, dim: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrix `[3, n, n]`, one-hot labels and labels."""
    _, support, labels = episodes(3, way, shot, 1, dim, seed=seed)
    gram = scale**2 * support @ support.mT
    return gram, torch.nn.functional.one_hot(labels, way).double(), labels


def with_identity(gram: Tensor) -> Tensor:
    return gram + torch.eye(gram.shape[-1], dtype=gram.dtype)


def test_worked_example() -> None:
    """One row a class, K = 0, two classes: alpha = min(1/2, C) on the own class and minus that on the other."""
    one_hot = torch.eye(2).double()[None]
    for bound, expected in ((10.0, 0.5), (0.1, 0.1)):
        alpha = solve_crammer_singer(torch.eye(2).double()[None], one_hot, bound, 30).alpha
        signs = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]).double()
        torch.testing.assert_close(alpha, expected * signs, rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    way=st.integers(2, 6),
    shot=st.integers(1, 4),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    bound=st.sampled_from([0.01, 0.1, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_optimality_conditions(way: int, shot: int, scale: float, bound: float, seed: int) -> None:
    gram, one_hot, _ = problem(way, shot, 8, scale, seed)
    hessian = with_identity(gram)
    solution = solve_crammer_singer(hessian, one_hot, bound, 50)
    stationarity = hessian @ solution.alpha - one_hot + solution.multiplier + solution.row_multiplier[..., None]
    assert float(stationarity.abs().max()) < 1e-9
    assert float(solution.alpha.sum(dim=-1).abs().max()) < 1e-12
    assert bool((solution.alpha <= bound * one_hot + 1e-12).all())
    assert bool((solution.multiplier > 0).all())
    assert float((solution.slack * solution.multiplier).mean()) < 1e-12
    torch.testing.assert_close(solution.slack, bound * one_hot - solution.alpha, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bound", [0.05, 0.5])
@pytest.mark.parametrize(("way", "labels"), [(2, [0, 1, 1]), (3, [0, 1, 2])])
def test_equals_enumeration_of_active_sets(way: int, labels: list[int], bound: float) -> None:
    support = 0.7 * torch.randn(3, 4, dtype=torch.float64)
    gram, targets = support @ support.mT, torch.tensor(labels)
    expected = crammer_singer_by_enumeration(gram, targets, way, bound)
    one_hot = torch.nn.functional.one_hot(targets, way).double()
    alpha = solve_crammer_singer(with_identity(gram)[None], one_hot[None], bound, 50).alpha[0]
    torch.testing.assert_close(alpha, expected, rtol=1e-6, atol=1e-7)


def test_without_active_bound_is_shifted_ridge() -> None:
    """alpha = (K + I)^{-1} (OH - 1/N) where that meets the bounds: ridge regression with ridge 1 up to a shift."""
    support = torch.eye(6).double()[None, :4] * 0.1
    labels = torch.tensor([[0, 1, 2, 3]])
    query = torch.randn(1, 5, 6, dtype=torch.float64)
    logits = svm(query, support, labels, 4, C=10.0, max_iter=40)
    expected = ridge(query, support, labels, 4, ridge=1.0) / 2
    torch.testing.assert_close(logits, expected - expected.mean(dim=-1, keepdim=True), rtol=1e-7, atol=1e-9)


def test_more_steps_change_nothing_after_convergence() -> None:
    gram, one_hot, _ = problem(5, 5, 32)
    hessian = with_identity(gram)
    first, second = (solve_crammer_singer(hessian, one_hot, 0.1, steps).alpha for steps in (30, 100))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dim", [32, 512])
def test_default_steps_reach_the_precision_of_the_dtype(dim: int) -> None:
    query, support, labels = episodes(8, 5, 5, 15, dim)
    exact = svm(query, support, labels, 5, max_iter=100)
    assert float((svm(query, support, labels, 5) - exact).abs().max() / exact.abs().max()) < 1e-7
    single = svm(query.float(), support.float(), labels, 5)
    assert float((single - exact).abs().max() / exact.abs().max()) < 1e-4
    assert torch.equal(single.argmax(dim=-1), exact.argmax(dim=-1))


def test_float32_gradient() -> None:
    query, support, labels = episodes(4, 5, 5, 6, 32)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        inputs = [rows.to(dtype).requires_grad_() for rows in (query, support)]
        gradients.append(torch.autograd.grad(svm(*inputs, labels, 5).sin().sum(), inputs))
    for exact, single in zip(*gradients, strict=True):
        assert float((single - exact).abs().max() / exact.abs().max()) < 2e-2


def test_one_episode_does_not_disturb_another() -> None:
    """Episodes that need different numbers of steps, solved together and alone."""
    gram, one_hot, _ = problem(3, 3, 6)
    hessian = with_identity(gram * torch.tensor([1e-4, 1.0, 1e4])[:, None, None])
    together = solve_crammer_singer(hessian, one_hot, 0.1, 60).alpha
    for index in range(3):
        alone = solve_crammer_singer(hessian[index : index + 1], one_hot[index : index + 1], 0.1, 60).alpha
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-6, atol=1e-12)
