"""Export as programs and graphs, and decoding them with NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nat_crf_testing.tiny import batch, tiny_config, tiny_model, word_rows

from nat_crf.crf import LowRankCRF
from nat_crf.decoding import translate_batch
from nat_crf.export import export_onnx, export_programs
from nat_crf.models import Nat
from nat_crf.numpy_decoder import NumpyDecoder, dynamic_transitions, viterbi
from nat_crf.sequences import PAD, length_mask, pad_batch


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 6),
    vocab=st.integers(2, 9),
    beam=st.integers(1, 9),
    dynamic=st.booleans(),
    seed=st.integers(0, 99),
)
def test_numpy_viterbi_equals_the_layer(length: int, vocab: int, beam: int, dynamic: bool, seed: int) -> None:
    torch.manual_seed(seed)
    crf = LowRankCRF(vocab, 3, state_dim=4 if dynamic else None, beam=beam, transition_std=1.0).double()
    emissions, states = torch.randn(1, length, vocab).double(), torch.randn(1, length, 4).double()
    mask = torch.ones(1, length, dtype=torch.bool)
    expected = crf.decode(emissions, mask, states if dynamic else None)
    weights = {name: value.numpy() for name, value in crf.state_dict().items()}
    found = viterbi(
        emissions[0].numpy(),
        weights["E1.weight"],
        weights["E2.weight"],
        beam,
        dynamic_transitions(states[0].numpy(), weights),
    )
    assert found.tokens.tolist() == expected.tokens[0].tolist()
    assert found.score == pytest.approx(float(expected.score), abs=1e-9)
    assert found.log_partition == pytest.approx(float(expected.log_partition), abs=1e-9)


def test_programs_take_any_sizes() -> None:
    model = tiny_model("paper", crf="static", self_mask=True, decoder_input="copy").float()
    programs = {name: program.module() for name, program in export_programs(model).items()}
    for lengths, targets in (([3, 5], [4, 7]), ([1], [2]), ([9, 2, 4], [1, 3, 12])):
        source, target_mask = batch(model, lengths), length_mask(torch.tensor(targets))
        encoded = model.encode(source)
        states, embedded = programs["encoder"](source, source != PAD)
        torch.testing.assert_close(states, encoded.states)
        emissions, hidden = programs["decoder"](states, embedded, source != PAD, target_mask)
        expected = model(source, target_mask)
        torch.testing.assert_close(hidden, expected.states)
        torch.testing.assert_close(emissions, expected.emissions)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning:torch.onnx")
@pytest.mark.parametrize(
    ("name", "crf"),
    [
        ("laptop", "dynamic"),
        pytest.param("paper", "static", marks=pytest.mark.slow),
        pytest.param("fairseq", "none", marks=pytest.mark.slow),
    ],
)
def test_onnx_translates_as_the_model(name: str, crf: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(3)
    model = Nat(tiny_config(name, crf=crf, decoder_layers=1, beam=5), 13)
    export_onnx(model, tmp_path)
    assert model.training
    decoder, words = NumpyDecoder(tmp_path), word_rows([4, 1, 6])
    for options in ({}, {"candidates": 3}, {"candidates": 3, "beam": 3}):
        expected = translate_batch(model, pad_batch(words, model.config.boundaries), **options)
        assert decoder.translate(words, **options) == [list(row[0].words) for row in expected]
    with pytest.raises(ValueError, match="candidates, beam: expected 1 or more"):
        decoder.translate(words, candidates=0)


def test_bad_folders(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="not what export_onnx writes"):
        NumpyDecoder(tmp_path)
    (tmp_path / "settings.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="expected format 1, found 99"):
        NumpyDecoder(tmp_path)


def test_viterbi_of_one_position_is_the_argmax() -> None:
    best = viterbi(np.array([[0.0, 2.0, 1.0]]), np.zeros((3, 1)), np.zeros((3, 1)), 3)
    assert best.tokens.tolist() == [1]
    assert best.score == 2.0
    assert best.log_partition == pytest.approx(np.log(1 + np.exp(2) + np.e))
