"""Leave-one-out residuals against explicit refits, and the ridge they choose."""

import pytest
import torch
from fslstm_testing.brute_force import episodes

from fslstm import ls_svm
from fslstm.leave_one_out import leave_one_out_residuals, leave_one_out_ridge


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_equals_refits(bias: float) -> None:
    _, support, labels = episodes(2, 3, 3, 1, 6)
    residuals = leave_one_out_residuals(support, labels, 3, ridge=[0.1, 4.0], bias=bias)
    targets = 2 * torch.nn.functional.one_hot(labels, 3).double() - 1
    for index, ridge in enumerate((0.1, 4.0)):
        for row in range(9):
            rest = [other for other in range(9) if other != row]
            gram = support[:, rest] @ support[:, rest].mT + bias + ridge * torch.eye(8).double()
            beta = torch.linalg.solve(gram, targets[:, rest])
            left_out = (support[:, [row]] @ support[:, rest].mT + bias) @ beta
            expected = targets[:, row] - left_out[:, 0]
            torch.testing.assert_close(residuals[:, index, row], expected, rtol=1e-8, atol=1e-8)


def test_padding_changes_nothing() -> None:
    _, support, labels = episodes(2, 3, 3, 1, 6)
    padded = torch.cat([support, torch.full((2, 2, 6), torch.nan).double()], dim=1)
    mask = torch.cat([torch.ones(2, 9), torch.zeros(2, 2)], dim=1).bool()
    more = torch.cat([labels, -torch.ones(2, 2, dtype=torch.int64)], dim=1)
    residuals = leave_one_out_residuals(padded, more, 3, mask=mask)
    torch.testing.assert_close(residuals[:, :, :9], leave_one_out_residuals(support, labels, 3))
    assert not residuals[:, :, 9:].any()
    assert torch.equal(leave_one_out_ridge(padded, more, 3, mask=mask), leave_one_out_ridge(support, labels, 3))


def test_chosen_ridge_has_the_smallest_error() -> None:
    query, support, labels = episodes(6, 5, 5, 2, 40)
    support = support * torch.logspace(-1, 1, 6, dtype=torch.float64)[:, None, None]
    grid = [0.01, 1.0, 100.0, 10_000.0]
    chosen = leave_one_out_ridge(support, labels, 5, grid=grid)
    errors = leave_one_out_residuals(support, labels, 5, ridge=grid).square().sum(dim=(2, 3))
    for episode, ridge in enumerate(chosen.tolist()):
        assert float(errors[episode, grid.index(ridge)]) == float(errors[episode].min())
    # Larger features ask for a larger ridge
    assert len(set(chosen.tolist())) > 1
    one_by_one = [
        ls_svm(query[i : i + 1], support[i : i + 1], labels[i : i + 1], 5, ridge=float(chosen[i])) for i in range(6)
    ]
    torch.testing.assert_close(ls_svm(query, support, labels, 5, ridge=chosen), torch.cat(one_by_one))


def test_bad_input() -> None:
    _, support, labels = episodes(1, 2, 2, 1, 3)
    with pytest.raises(ValueError, match="ridge: expected positive"):
        leave_one_out_residuals(support, labels, 2, ridge=[1.0, 0.0])
    with pytest.raises(ValueError, match="grid: expected at least one"):
        leave_one_out_ridge(support, labels, 2, grid=[])
    with pytest.raises(ValueError, match="support_labels"):
        leave_one_out_ridge(support, labels + 1, 2)
