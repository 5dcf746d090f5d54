"""Factors of the transition scores, and how dynamic ones start."""

import pytest
import torch

from nat_crf.transitions import DynamicTransition, Transitions


def test_worked_example() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    left, right = Transitions(torch.tensor([[[1, 0], [1, 0]]]), first, second).factors(0)
    assert (left @ right.mT).tolist() == [[[10.0, 0.0], [0.0, 3.0]]]


@pytest.mark.parametrize("dynamic", [False, True])
def test_scores_are_entries_of_the_whole_matrix(dynamic: bool) -> None:
    first, second, labels = torch.randn(9, 3), torch.randn(9, 3), torch.randint(9, (2, 5, 4))
    matrices = torch.randn(2, 4, 3, 3) if dynamic else None
    transitions = Transitions(labels, first, second, matrices)
    left, right = transitions.all_factors()
    for step in range(4):
        own, other = transitions.factors(step)
        assert torch.equal(own, transitions.left_factor(step))
        torch.testing.assert_close(own, left[:, step])
        torch.testing.assert_close(other, right[:, step])
        for row in range(2):
            whole = first @ (torch.eye(3) if matrices is None else matrices[row, step]) @ second.T
            expected = whole[labels[row, step][:, None], labels[row, step + 1]]
            torch.testing.assert_close((own @ other.mT)[row], expected)


def test_network_reads_adjacent_states_and_starts_near_the_identity() -> None:
    network, states = DynamicTransition(6, 4), torch.randn(2, 5, 6)
    found = network(states)
    assert found.shape == (2, 4, 4, 4)
    assert float((found - torch.eye(4)).abs().max().detach()) < 0.5
    pair = torch.cat([states[:, 1], states[:, 2]], dim=1)
    torch.testing.assert_close(found[:, 1].flatten(1), network[2](network[1](network[0](pair))))
    assert DynamicTransition(6, 4, hidden_dim=3)[0].weight.shape == (3, 12)
