"""The non-autoregressive models."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nat_crf_testing.tiny import KINDS, batch, tiny_config, tiny_model, word_rows

from nat_crf.config import preset
from nat_crf.layers import DecoderLayer, EncoderLayer
from nat_crf.models import Nat, input_tokens, others_only, warm_start
from nat_crf.objective import translation_loss
from nat_crf.sequences import BOS, EOS, PAD, UNK, length_mask, pad_batch

each_kind = pytest.mark.parametrize(("name", "crf"), KINDS)


def test_decoder_input_by_hand() -> None:
    """Section 3.2: nothing but length and position."""
    mask = length_mask(torch.tensor([4, 2]))
    assert input_tokens(mask, PAD, bos=False).tolist() == [[PAD, PAD, PAD, EOS], [PAD, EOS, PAD, PAD]]
    assert input_tokens(mask, UNK, bos=True).tolist() == [[BOS, UNK, UNK, EOS], [BOS, EOS, PAD, PAD]]


@pytest.mark.parametrize(
    ("name", "encoder", "plain", "positional"),
    [("paper", 3_152_384, 4_204_032, 5_255_680), ("paper-iwslt14", 789_760, 1_053_440, 1_317_120)],
)
def test_layer_sizes(name: str, encoder: int, plain: int, positional: int) -> None:
    """Section 5."""
    config = preset(name)
    layers = (EncoderLayer(config), DecoderLayer(config), DecoderLayer(config, positional_attention=True))
    counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    assert counts == [encoder, plain, positional]


@pytest.mark.parametrize(("name", "transitions"), [("paper", 1_050_112), ("paper-iwslt14", 394_496)])
def test_crf_sizes(name: str, transitions: int) -> None:
    """Section 5: 64 V parameters in E1 and E2, and those of f with its hidden layer of width d."""
    model = Nat(preset(name, crf="dynamic", encoder_layers=1, decoder_layers=1), 50)
    assert model.crf is not None
    assert sum(parameter.numel() for parameter in model.crf.parameters()) == 64 * 50 + transitions


@each_kind
def test_shapes_and_tied_weights(name: str, crf: str) -> None:
    model = tiny_model(name, crf=crf)
    source, mask = batch(model, [3, 5]), length_mask(torch.tensor([4, 6]))
    emissions, states, logits = model(source, mask)
    assert emissions.shape == (2, 6, 13)
    assert states.shape == (2, 6, 8)
    assert (logits is None) == (name == "paper")
    expected = states @ model.decoder.embed_tokens.weight.T
    if model.decoder.output_bias is not None:
        expected = expected + model.decoder.output_bias
    torch.testing.assert_close(emissions, expected)
    assert (model.encoder.embed_tokens is model.decoder.embed_tokens) == model.config.share_embeddings


@pytest.mark.parametrize("self_mask", [False, True])
@pytest.mark.parametrize("decoder_input", ["pad", "mask", "copy"])
@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), seed=st.integers(0, 99), left=st.booleans())
def test_padding_and_batching_change_nothing(
    decoder_input: str, self_mask: bool, lengths: list[int], seed: int, left: bool
) -> None:
    """Section 15, point 5, for the networks: either side of padding, one sentence at a time or all at once."""
    model = tiny_model("paper", decoder_input=decoder_input, self_mask=self_mask)
    source = batch(model, lengths, seed, left=left)
    targets = torch.tensor([1 + (length + seed) % 6 for length in lengths])
    mask = length_mask(targets, 8)
    together = model(source, mask).emissions
    for row, target in enumerate(targets.tolist()):
        alone = source[row][source[row] != PAD][None]
        expected = model(alone, torch.ones(1, target, dtype=torch.bool)).emissions
        torch.testing.assert_close(together[row, :target], expected[0], rtol=1e-9, atol=1e-9)


def test_copy_defect_only_on_request() -> None:
    """As published, left-padded sources copy padding; a sentence that fills the batch is not affected."""
    plain = tiny_model("fairseq", decoder_input="copy")
    defect = tiny_model("fairseq", decoder_input="copy", copy_from_edge=True)
    source, mask = batch(plain, [5, 2], left=True), length_mask(torch.tensor([4, 4]))
    ours, theirs = (model.decoder_input(model.encode(source), mask) for model in (plain, defect))
    torch.testing.assert_close(ours[0], theirs[0])
    assert not torch.allclose(ours[1], theirs[1])
    assert not theirs[1, 0].any()  # the embedding of padding
    right = batch(plain, [5, 2])
    torch.testing.assert_close(defect.decoder_input(defect.encode(right), mask), ours)


@each_kind
def test_output_does_not_see_target_tokens(name: str, crf: str) -> None:
    """Section 15, point 13: other gold targets of the same lengths, the same states and token scores."""
    model = tiny_model(name, crf=crf)
    source, lengths = batch(model, [3, 4]), [2, 5]
    emissions = []
    model.decoder.register_forward_hook(lambda _module, _args, states: emissions.append(states))
    for seed in (1, 2):
        translation_loss(model, source, batch(model, lengths, seed))
    assert torch.equal(emissions[0], emissions[1])


def test_candidates_share_an_encoded_source() -> None:
    model = tiny_model("paper", decoder_input="copy")
    source = batch(model, [3, 5], left=True)
    masks = length_mask(torch.tensor([2, 4, 3, 6]))
    together = model.decode_states(model.encode(source), masks)
    repeated = model.decode_states(model.encode(source.repeat_interleave(2, dim=0)), masks)
    torch.testing.assert_close(together[masks], repeated[masks])


def test_self_mask_by_hand() -> None:
    mask = others_only(torch.tensor([[True, True, False], [True, False, False]]))
    assert mask.int().tolist() == [[[0, 1, 0], [1, 0, 0], [1, 1, 0]], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]]


def test_constant_length() -> None:
    """Words S + C - B .. S + C + B, at least one, and the boundary symbols."""
    model = tiny_model("paper", length_constant=-2)
    encoded = model.encode(batch(model, [5, 1]))
    assert model.length_candidates(encoded).tolist() == [[4], [2]]
    assert model.length_candidates(encoded, 5).tolist() == [[2, 3, 4, 5, 6], [2, 2, 2, 2, 2]]


def test_predicted_length() -> None:
    model = tiny_model("fairseq")
    assert model.length is not None
    encoded = model.encode(batch(model, [5, 1]))
    with torch.no_grad():
        for wanted in (126, 128, 131):
            model.length.embedding.weight.zero_()
            model.length.embedding.weight[wanted] = 100 * encoded.states[encoded.mask].mean(dim=0)
            logits = model.length_logits(encoded)
            assert logits is not None
            expected = [max(2, length + int(best) - 128) for length, best in zip([7, 3], logits.argmax(1), strict=True)]
            assert model.length_candidates(encoded)[:, 0].tolist() == expected
    assert (model.length_candidates(encoded, 5) >= 2).all()


@pytest.mark.parametrize("crf", ["static", "dynamic"])
def test_warm_start(crf) -> None:
    """Section 4.6: the same network, with transitions so small that the CRF starts as the NAT."""
    nat = tiny_model("laptop")
    model = warm_start(nat, crf, beam=5, transition_std=1e-6)
    source, mask = batch(nat, [3, 4]), length_mask(torch.tensor([3, 5]))
    torch.testing.assert_close(model(source, mask).emissions, nat(source, mask).emissions)
    assert model.crf is not None
    best = model.crf.decode(*model(source, mask)[:1], mask, model(source, mask).states).tokens
    assert torch.equal(best[mask], nat(source, mask).emissions.argmax(dim=-1)[mask])
    again = warm_start(model, "static", rank=2)
    assert again.crf is not None
    assert again.crf.rank == 2


def test_bfloat16_autocast() -> None:
    model = Nat(tiny_config("paper", crf="dynamic"), 13)
    source, target = (pad_batch(word_rows(lengths)) for lengths in ([3, 5], [4, 2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = translation_loss(model, source, target)
    exact = translation_loss(model, source, target)
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    torch.testing.assert_close(losses.total, exact.total, rtol=0.03, atol=0.03)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_bad_input() -> None:
    model = tiny_model("laptop")
    with pytest.raises(ValueError, match=r"source: expected token ids \[batch, tokens\], got torch.float32"):
        model.encode(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="source_mask: expected booleans"):
        model.encode(torch.full((2, 3), 5), torch.ones(2, 3))
    with pytest.raises(ValueError, match="at most 40 tokens"):
        model.encode(torch.full((1, 41), 5))
    with pytest.raises(ValueError, match="source_vocab: expected at least 5"):
        Nat(tiny_config(), 4)
    with pytest.raises(ValueError, match="as share_embeddings is set"):
        Nat(tiny_config("paper"), 13, 14)
    with pytest.raises(ValueError, match="do not fit the trained weights"):
        warm_start(model, "static", dim=16)
    with pytest.raises(ValueError, match="do not fit the trained weights"):
        warm_start(model, "static", decoder_layers=1)
