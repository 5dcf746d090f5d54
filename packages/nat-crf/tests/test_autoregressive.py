"""The autoregressive teacher."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nat_crf_testing.tiny import tiny_config, word_rows
from torch.nn import functional as F

from nat_crf.autoregressive import Teacher, beam_search, length_penalty
from nat_crf.sequences import BOS, EOS, PAD, pad_batch, word_lists


def tiny_teacher(vocab: int = 7, seed: int = 0, sharpness: float = 3.0, **changes: float) -> Teacher:
    torch.manual_seed(seed)
    teacher = Teacher(tiny_config("laptop", **changes).teacher(), vocab).double().eval()
    with torch.no_grad():
        teacher.decoder.embed_tokens.weight.mul_(sharpness)
    return teacher


@torch.no_grad()
def log_probability(teacher: Teacher, source: Sequence[int], words: Sequence[int]) -> float:
    """Token by token, from the whole prefix each time."""
    total, prefix = 0.0, []
    for token in [*words, EOS]:
        logits = teacher(pad_batch([source]), torch.tensor([[*prefix, PAD]]))[0, -1]
        total += float(logits.log_softmax(dim=-1)[token])
        prefix.append(token)
    return total


def test_length_penalty() -> None:
    assert float(length_penalty(7, 0.0)) == 1
    assert float(length_penalty(7, 1.0)) == 2


def test_loss_and_score_agree() -> None:
    teacher, source, target = tiny_teacher(), pad_batch(word_rows([3, 2], 7)), pad_batch(word_rows([2, 4], 7, 1))
    loss, nll = teacher.loss(source, target, label_smoothing=0.0)
    scores = teacher.score(source, target[:, None])
    torch.testing.assert_close(loss, nll)
    torch.testing.assert_close(scores.sum(), -8 * loss.detach().float(), rtol=1e-5, atol=1e-5)


def test_score_of_several_candidates() -> None:
    teacher, rows = tiny_teacher(), word_rows([3, 2], 7)
    words = [[[5, 4], [6]], [[], [4, 4, 6]]]
    candidates = pad_batch([row for pair in words for row in pair]).view(2, 2, -1)
    scores = teacher.score(pad_batch(rows), candidates).detach()
    for row in range(2):
        for column in range(2):
            expected = log_probability(teacher, rows[row], words[row][column])
            assert float(scores[row, column]) == pytest.approx(expected, abs=1e-5)


def test_is_causal_and_ignores_padding() -> None:
    teacher, source = tiny_teacher(), pad_batch([[4, 5, 6]])
    logits = teacher(source, torch.tensor([[4, 5, 6, EOS]]))
    torch.testing.assert_close(teacher(source, torch.tensor([[4, 5, 4, 5, 6]]))[:, :3], logits[:, :3])
    left = pad_batch([[4, 5, 6], [4] * 6], left=True)
    torch.testing.assert_close(teacher(left, torch.tensor([[4, 5, 6, EOS]] * 2))[:1], logits)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), alpha=st.sampled_from([0.0, 0.6, 1.4]), n_best=st.integers(1, 3))
def test_wide_beam_finds_the_best_of_all(seed: int, alpha: float, n_best: int) -> None:
    """Against enumeration: with a vocabulary of three words and `<unk>`, translations of at most three words."""
    teacher = tiny_teacher(vocab=7, seed=seed, max_positions=4)
    source = word_rows([2], 7, seed)[0]
    found = beam_search(teacher, pad_batch([source]), beam=300, alpha=alpha, n_best=n_best)
    options = [list(words) for size in range(4) for words in _sequences(size, (2, 3, 4, 5, 6))]
    options = [words for words in options if EOS not in words]
    scored = [(log_probability(teacher, source, words), words) for words in options]
    scored.sort(key=lambda pair: -pair[0] / float(length_penalty(len(pair[1]) + 1, alpha)))
    rows = [[token for token in row if token != PAD] for row in found.tokens[0].tolist()]
    assert rows == [words for _, words in scored[:n_best]]
    expected = [total for total, _ in scored[:n_best]]
    assert found.log_probability[0].tolist() == pytest.approx(expected, abs=1e-4)


def _sequences(size: int, tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return [()] if size == 0 else [(token, *rest) for token in tokens for rest in _sequences(size - 1, tokens)]


def test_greedy_by_hand() -> None:
    """Beam 1 without early stopping by length penalty: the likeliest token each time, until `<eos>`."""
    teacher, source = tiny_teacher(vocab=9, seed=3, sharpness=1.0), pad_batch([[4, 5, 6]])
    with torch.no_grad():
        teacher.decoder.embed_tokens.weight[EOS] = 0
        words: list[int] = []
        best, score = [], -math.inf
        total = 0.0
        for _ in range(6):
            scores = teacher(source, torch.tensor([[*words, PAD]]))[0, -1].log_softmax(dim=-1)
            if total + float(scores[EOS]) > score:
                best, score = list(words), total + float(scores[EOS])
            scores[[BOS, PAD, EOS]] = -math.inf
            words.append(int(scores.argmax()))
            total += float(scores.max())
    found = beam_search(teacher, source, beam=1, alpha=0.0, extra=2)
    assert word_lists(found.tokens[:, 0], found.tokens[:, 0] != PAD) == [best]


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99), left=st.booleans())
def test_batching_changes_nothing(lengths: list[int], seed: int, left: bool) -> None:
    """Cached, batched search with padding against one sentence at a time; its log-probabilities are `score`'s."""
    teacher, rows = tiny_teacher(vocab=9, seed=seed), word_rows(lengths, 9, seed)
    together = beam_search(teacher, pad_batch(rows, left=left), beam=3, n_best=2, extra=20 - max(lengths))
    for row, words in enumerate(rows):
        alone = beam_search(teacher, pad_batch([words]), beam=3, n_best=2, extra=20 - len(words))
        torch.testing.assert_close(together.score[row], alone.score[0], rtol=1e-5, atol=1e-5)
        found = word_lists(alone.tokens[0], alone.tokens[0] != PAD)
        assert word_lists(together.tokens[row], together.tokens[row] != PAD) == found
        scores = teacher.score(pad_batch([words]), pad_batch(found)[None])
        torch.testing.assert_close(alone.log_probability, scores.float(), rtol=1e-4, atol=1e-4)


def test_learns_to_copy() -> None:
    torch.manual_seed(0)
    teacher = Teacher(tiny_config("laptop", dim=32, ffn_dim=64).teacher(), 12)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for step in range(150):
        tokens = pad_batch(word_rows([4] * 32, 12, step))
        optimizer.zero_grad()
        teacher.loss(tokens, tokens)[0].backward()
        optimizer.step()
    words = word_rows([4] * 20, 12, 999)
    found = beam_search(teacher, pad_batch(words), extra=4).tokens[:, 0]
    right = [ours == row for ours, row in zip(word_lists(found, found != PAD), words, strict=True)]
    assert sum(right) >= 15
    assert teacher.training


def test_gradients_reach_everything() -> None:
    teacher = tiny_teacher()
    teacher.loss(pad_batch([[4, 5]]), pad_batch([[6]]))[0].backward()
    assert all(parameter.grad is not None for parameter in teacher.parameters())
    assert F.relu(teacher.decoder.embed_tokens.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_bad_input() -> None:
    teacher = tiny_teacher()
    for change in ({"beam": 0}, {"n_best": 5}, {"alpha": -0.1}, {"extra": 0}):
        with pytest.raises(ValueError, match="expected 1 <= n_best <= beam"):
            beam_search(teacher, pad_batch([[4]]), **change)
    with pytest.raises(ValueError, match="target: expected token ids"):
        teacher.loss(pad_batch([[4]]), torch.zeros(1, 2))
