"""Gradients in float64, rounding in float32 against the naive formulation, and training in bfloat16."""

from __future__ import annotations

import pytest
import torch
from fslstm_testing.brute_force import block_lssvm, episodes
from sextet_testing.numerics import assert_as_exact, assert_near_full_precision
from torch import nn

from fslstm import LSSVM, InverseAttention, ls_svm, ridge
from fslstm.kernels import kernel_matrix
from fslstm.leave_one_out import leave_one_out_residuals
from fslstm.training import Learner, MetaTrainingConfig, meta_train
from sextet.training import read_log


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_gradcheck_of_leave_one_out(bias):
    _, support, labels = episodes(2, 3, 2, 1, 7)
    assert torch.autograd.gradcheck(
        lambda s: leave_one_out_residuals(s, labels, 3, ridge=[0.1, 2.0], bias=bias), support.requires_grad_()
    )


def naive_ridge(query, support, labels, n_way):
    one_hot = nn.functional.one_hot(labels, n_way).to(support.dtype)
    identity = torch.eye(support.shape[1], dtype=support.dtype)
    return 2 * query @ support.mT @ torch.linalg.inv(support @ support.mT + 50 * identity) @ one_hot


def naive_residuals(_query, support, labels, n_way):
    """Fitted again without each row."""
    targets = 2 * nn.functional.one_hot(labels, n_way).to(support.dtype) - 1
    residuals = []
    for row in range(support.shape[1]):
        rest = [other for other in range(support.shape[1]) if other != row]
        system = support[:, rest] @ support[:, rest].mT + 0.5 + 0.1 * torch.eye(len(rest), dtype=support.dtype)
        beta = torch.linalg.solve(system, targets[:, rest])
        residuals.append(targets[:, row] - ((support[:, row : row + 1] @ support[:, rest].mT + 0.5) @ beta)[:, 0])
    return torch.stack(residuals, dim=1)[:, None]


def residuals_of(_query, support, labels, n_way):
    return leave_one_out_residuals(support, labels, n_way)


@pytest.mark.parametrize(
    ("ours", "naive", "times"),
    # Leave-one-out: one eigendecomposition for all ridges is less exact than a solve for each row and ridge
    [(ls_svm, block_lssvm, 2), (ridge, naive_ridge, 2), (residuals_of, naive_residuals, 4)],
    ids=["ls_svm", "ridge", "leave_one_out"],
)
@pytest.mark.parametrize("dim", [8, 64])
def test_float32_is_as_exact_as_the_naive_form(ours, naive, times, dim):
    """More rows than dimensions and fewer, features up to 100 times as large and with columns of unlike size."""
    trials = []
    for seed in range(6):
        for scale in (0.1, 1.0, 10.0):
            query, support, labels = episodes(2, 3, 5, 4, dim, seed=seed)
            columns = scale * torch.logspace(-1, 1, dim, dtype=torch.float64)
            query, support = (query * columns).float(), (support * columns).float()
            exact = naive(query.double(), support.double(), labels, 3)
            trials.append((ours(query, support, labels, 3), naive(query, support, labels, 3), exact))
    assert_as_exact(trials, times)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_float32_of_the_gaussian_kernel_is_as_exact_as_by_differences(shift):
    def naive(first, second):
        return (-(first[:, :, None] - second[:, None]).square().sum(3) / first.shape[2]).exp()

    trials = []
    for seed in range(6):
        for scale in (0.1, 1.0):
            query, support, _ = episodes(2, 3, 5, 4, 32, seed=seed)
            query, support = ((scale * rows + shift).float() for rows in (query, support))
            exact = naive(query.double(), support.double())
            trials.append((kernel_matrix(query, support, "rbf"), naive(query, support), exact))
    # Values are at most 1, and their exponents are sums of three rounded numbers
    assert_as_exact(trials, roundings=4)


def trained(folder, half):
    """Meta-training has no precision of its own: autocast around it must reach the embedding alone."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(12)
    features = torch.randn(6, 8, generator=generator)[labels] + 1.2 * torch.randn(72, 8, generator=generator)
    torch.manual_seed(0)
    learner = Learner(nn.Linear(8, 8), LSSVM(), InverseAttention(8, 2, dropout=0.0))
    config = MetaTrainingConfig(3, 2, 3, episodes_per_step=4, epochs=1, steps_per_epoch=40, lr=0.05, decay=())
    # Without its cache, which would keep the weights of the first step
    with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
        meta_train(learner, features, labels, config, folder, seed=0, device=torch.device("cpu"))
    return torch.tensor([entry["loss"] for entry in read_log(folder)]), learner


def test_training_in_bfloat16_is_near_float32(tmp_path):
    full, half = (trained(tmp_path / str(half), half) for half in (False, True))
    assert_near_full_precision(full, half, tolerance=0.05)
