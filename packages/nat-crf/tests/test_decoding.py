"""Decoding in one pass."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nat_crf_testing.tiny import KINDS, batch, tiny_config, tiny_model, word_rows

from nat_crf.autoregressive import Teacher
from nat_crf.decoding import best_sequences, translate_batch
from nat_crf.models import Nat
from nat_crf.objective import translation_loss
from nat_crf.rescoring import Words, normalised_score, teacher_scorer
from nat_crf.sequences import BOS, EOS, PAD, length_mask, pad_batch, word_lists

each_kind = pytest.mark.parametrize(("name", "crf"), KINDS)


def test_vanilla_model_takes_the_argmax() -> None:
    model = tiny_model("laptop")
    source, lengths = batch(model, [3, 5]), torch.tensor([[4], [6]])
    mask = length_mask(lengths[:, 0])
    emissions = model(source, mask).emissions
    found = translate_batch(model, source, lengths=lengths)
    assert [list(row[0].words) for row in found] == word_lists(emissions.argmax(dim=-1), mask)
    best = emissions.detach().log_softmax(dim=-1).amax(dim=-1)
    expected = [float(best[row, :length].mean()) for row, length in enumerate([4, 6])]
    assert [row[0].log_probability for row in found] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("crf", ["static", "dynamic"])
def test_crf_model_takes_the_best_sequence(crf: str) -> None:
    """k = V against enumeration of all 6^3 sequences."""
    model = tiny_model("paper", vocab=6, crf=crf, beam=6, transition_std=1.0)
    assert model.crf is not None
    source, mask = batch(model, [2]), torch.ones(1, 3, dtype=torch.bool)
    emissions, states, _ = model(source, mask)
    everything = torch.tensor(list(itertools.product(range(6), repeat=3)))
    count = len(everything)
    with torch.no_grad():
        likelihood = model.crf.log_likelihood(
            emissions.expand(count, -1, -1), everything, mask.expand(count, -1), states.expand(count, -1, -1)
        )
    order = likelihood.argsort(descending=True)
    found = best_sequences(model, states, mask, n_best=4)
    torch.testing.assert_close(found.tokens[0], everything[order[:4]])
    torch.testing.assert_close(found.log_probability[0], likelihood[order[:4]])
    (row,) = translate_batch(model, source, lengths=torch.tensor([[3]]))
    assert list(row[0].words) == word_lists(everything[order[:1]], mask)[0]
    assert row[0].log_probability == pytest.approx(float(likelihood.max()) / 3)


def test_crf_is_never_replaced_by_its_emissions() -> None:
    """Section 10, point 5: wherever path and argmax differ, every way of decoding gives the path."""
    model = tiny_model("paper", crf="static", transition_std=3.0)
    source, lengths = batch(model, [3, 4, 5]), torch.tensor([[5], [6], [7]])
    mask = length_mask(lengths[:, 0])
    emissions = model(source, mask).emissions
    argmax = word_lists(emissions.argmax(dim=-1), mask)
    for options in ({}, {"beam": 4}, {"n_best": 3}, {"choice": "published"}, {"scorer": shortest}):
        found = translate_batch(model, source, lengths=lengths, **options)
        assert all(list(row[0].words) != words for row, words in zip(found, argmax, strict=True))
    # It takes an explicit k = 1 (Table 3)
    found = translate_batch(model, source, lengths=lengths, beam=1)
    assert [list(row[0].words) for row in found] == argmax


def shortest(source: Sequence[Words], candidates: Sequence[Sequence[Words]]) -> list[list[float]]:
    return [[-100.0 * len(words) ** 2 for words in row] for row in candidates]


@each_kind
@settings(max_examples=5, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), seed=st.integers(0, 99), left=st.booleans())
def test_batching_and_padding_change_nothing(name: str, crf: str, lengths: list[int], seed: int, left: bool) -> None:
    model = tiny_model(name, crf=crf, seed=seed % 3)
    together = translate_batch(model, batch(model, lengths, seed, left=left), candidates=3, n_best=2)
    for row, words in enumerate(word_rows(lengths, 13, seed)):
        (alone,) = translate_batch(model, pad_batch([words], model.config.boundaries), candidates=3, n_best=2)
        assert [hypothesis.words for hypothesis in together[row]] == [hypothesis.words for hypothesis in alone]
        assert [one.score for one in together[row]] == pytest.approx([one.score for one in alone], rel=1e-4)


@pytest.mark.parametrize("candidates", [1, 9, 19])
def test_candidates_are_those_of_the_lengths(candidates: int) -> None:
    model = tiny_model("paper", crf="dynamic")
    source = batch(model, [3, 14])
    lengths = model.length_candidates(model.encode(source), candidates)
    found = translate_batch(model, source, candidates=candidates, n_best=candidates)
    for row, own in zip(found, lengths, strict=True):
        assert {hypothesis.length for hypothesis in row} <= set(own.tolist())
        assert [one.score for one in row] == sorted((one.score for one in row), reverse=True)
        assert len({one.words for one in row}) == len(row)
        # The best of all is the best of the lengths decoded one at a time
        alone = [translate_batch(model, source, lengths=lengths[:, [i]]) for i in range(candidates)]
        index = found.index(row)
        assert row[0].score == pytest.approx(max(one[index][0].score for one in alone))


def test_choice_without_a_scorer() -> None:
    """The unnormalised score has an arbitrary offset a position; the log-probability has not (Section 4.7)."""
    model = tiny_model("paper", crf="static")
    source = batch(model, [4, 6])
    results = []
    for offset in (0.0, 100.0):
        with torch.no_grad():
            assert model.decoder.output_bias is not None
            model.decoder.output_bias.fill_(offset)
        results.append(
            [translate_batch(model, source, candidates=5, choice=choice) for choice in ("log_probability", "published")]
        )
    for plain, moved in zip(results[0][0], results[1][0], strict=True):
        assert plain[0].words == moved[0].words
        assert plain[0].score == pytest.approx(moved[0].score, abs=1e-6)
    for plain, moved in zip(results[0][1], results[1][1], strict=True):
        assert moved[0].score == pytest.approx(plain[0].score + 100)


def test_scorer_that_prefers_one_length() -> None:
    """Section 15, point 11."""
    model = tiny_model("paper", crf="static")
    source = batch(model, [5, 8])
    everything = translate_batch(model, source, candidates=9, n_best=9)
    for wanted in {len(one.words) for one in everything[0]}:
        prefers = lambda _, texts: [[0.0 if len(words) == wanted else -99.0 for words in row] for row in texts]  # noqa: B023, E731
        found = translate_batch(model, source, candidates=9, scorer=prefers)
        assert len(found[0][0].words) == wanted


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), candidates=st.sampled_from([3, 9]), alpha=st.sampled_from([None, 0.0, 0.6]))
def test_rescoring_never_lowers_the_scorers_score(seed: int, candidates: int, alpha: float | None) -> None:
    model, teacher = tiny_model("laptop", crf="static", seed=seed), Teacher(tiny_config("laptop").teacher(), 13)
    scorer, source = teacher_scorer(teacher.double()), batch(model, [3, 5], seed)
    words = word_rows([3, 5], 13, seed)
    single = translate_batch(model, source)
    chosen = translate_batch(model, source, candidates=candidates, scorer=scorer, alpha=alpha)
    for row in range(2):
        own = scorer([words[row]], [[single[row][0].words]])[0][0]
        assert chosen[row][0].score >= normalised_score(own, len(single[row][0].words), alpha) - 1e-6


@each_kind
def test_words_have_no_special_symbols(name: str, crf: str) -> None:
    model = tiny_model(name, crf=crf)
    for row in translate_batch(model, batch(model, [2, 6, 4]), candidates=5, n_best=5):
        assert all(not {BOS, PAD, EOS} & set(hypothesis.words) for hypothesis in row)


def test_bfloat16_autocast_end_to_end() -> None:
    model = Nat(tiny_config("paper", crf="dynamic"), 13)
    teacher = Teacher(model.config.teacher(), 13)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = translate_batch(model, batch(model, [3, 5]), candidates=3, n_best=2, scorer=teacher_scorer(teacher))
    assert all(row[0].score > float("-inf") for row in found)
    assert model.training


def conflicting_pairs(count: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Sources with two translations each, of equal length, that differ in every word."""
    generator = torch.Generator().manual_seed(7)
    sources = [[4 + index, 60] for index in range(count)]
    order = torch.randperm(56, generator=generator).tolist()
    texts = []
    for index in range(count):
        first = [4 + order[(index + shift) % 56] for shift in (0, 9, 21)]
        second = [4 + order[(index + shift) % 56] for shift in (5, 17, 33)]
        texts.append([first, second])
    return sources, texts


@pytest.mark.slow
def test_conflicting_translations() -> None:
    """Section 15, point 14: trained on both translations of each source, a NAT mixes them, a CRF does not."""
    sources, texts = conflicting_pairs(50)
    source = pad_batch([row for row in sources for _ in range(2)])
    target = pad_batch([text for pair in texts for text in pair])
    whole = {}
    for crf in ("none", "dynamic"):
        torch.manual_seed(1)
        config = tiny_config(
            "laptop", crf=crf, dim=64, ffn_dim=128, heads=4, rank=16, transition_std=0.1, length_classes=4
        )
        model = Nat(config, 64)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(400):
            optimizer.zero_grad()
            translation_loss(model, source, target).total.backward()
            optimizer.step()
        found = translate_batch(model, pad_batch(sources))
        whole[crf] = sum(list(row[0].words) in pair for row, pair in zip(found, texts, strict=True))
        seen = [set(itertools.chain.from_iterable(pair)) for pair in texts]
        assert sum(set(row[0].words) <= words for row, words in zip(found, seen, strict=True)) >= 48
    assert whole["dynamic"] >= 48
    assert whole["none"] <= 40


@pytest.mark.parametrize("passes", [0, 2, 10])
def test_more_passes_are_refused(passes: int) -> None:
    model = tiny_model("laptop")
    with pytest.raises(ValueError, match=f"passes: expected 1, got {passes}; .* fed their own output they collapse"):
        translate_batch(model, batch(model, [3]), passes=passes)


def test_bad_input() -> None:
    model = tiny_model("laptop", crf="static")
    source = batch(model, [3, 4])
    with pytest.raises(ValueError, match="candidates, n_best, beam: expected 1 or more"):
        translate_batch(model, source, candidates=0)
    with pytest.raises(ValueError, match="choice: expected log_probability or published"):
        translate_batch(model, source, choice="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="with k = 1 every candidate has probability 1"):
        translate_batch(model, source, beam=1, candidates=3)
    with pytest.raises(ValueError, match=r"lengths: expected \[2, candidates\], got \[2\]"):
        translate_batch(model, source, lengths=torch.tensor([3, 4]))
    with pytest.raises(ValueError, match=r"lengths: expected 1..40 \(max_positions\), got 0..4"):
        translate_batch(model, source, lengths=torch.tensor([[0], [4]]))
    with pytest.raises(ValueError, match="got a row of padding only"):
        translate_batch(model, torch.tensor([[5, 2], [PAD, PAD]]))
    with torch.no_grad():
        model.decoder.embed_tokens.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"not finite|NaN|nan"):
        translate_batch(model, source)
