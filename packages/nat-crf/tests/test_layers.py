"""Attention, layers and positional encodings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nat_crf_testing.tiny import tiny_config
from torch import nn

from nat_crf.layers import Attention, DecoderLayer, EncoderLayer, KeyValueCache, Positions, sinusoids


def test_attention_with_one_key_returns_its_value() -> None:
    attention = Attention(4, 2)
    key = torch.randn(1, 1, 4)
    expected = attention.out_proj(attention.v_proj(key)).expand(1, 3, 4)
    torch.testing.assert_close(attention(torch.randn(1, 3, 4), attention.project(key, key), None), expected)


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 3), queries=st.integers(1, 4), keys=st.integers(1, 5), seed=st.integers(0, 99))
def test_attention_equals_torch(batch: int, queries: int, keys: int, seed: int) -> None:
    torch.manual_seed(seed)
    attention, reference = Attention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        reference.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
        reference.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
    reference.out_proj.load_state_dict(attention.out_proj.state_dict())
    query, key = torch.randn(batch, queries, 8).double(), torch.randn(batch, keys, 8).double()
    mask = torch.rand(batch, keys) < 0.6
    mask[:, 0] = True
    expected, _ = reference(query, key, key, key_padding_mask=~mask)
    ours = attention(query, attention.project(key, key), mask[:, None, None])
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_several_rows_share_their_keys() -> None:
    attention = Attention(8, 2).double()
    query, key = torch.randn(6, 4, 8).double(), torch.randn(2, 5, 8).double()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    shared = attention(query, attention.project(key, key), mask[:, None, None])
    repeated, masks = key.repeat_interleave(3, 0), mask.repeat_interleave(3, 0)
    expected = attention(query, attention.project(repeated, repeated), masks[:, None, None])
    torch.testing.assert_close(shared, expected)


def test_cache_grows_and_follows_the_rows() -> None:
    cache, first, second = KeyValueCache(), torch.randn(2, 1, 1, 3), torch.randn(2, 1, 1, 3)
    cache.extend((first, 2 * first))
    cache.select(torch.tensor([1, 1]))
    keys, values = cache.extend((second, 2 * second))
    torch.testing.assert_close(keys, torch.cat([first[[1, 1]], second], dim=2))
    torch.testing.assert_close(values, 2 * keys)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_layers_by_hand(pre_norm: bool) -> None:
    config = tiny_config(pre_norm=pre_norm)
    layer, x = EncoderLayer(config).double(), torch.randn(2, 3, 8).double()
    attend = lambda y: layer.self_attn(y, layer.self_attn.project(y, y), None)  # noqa: E731
    feed = lambda y: layer.fc2(layer.fc1(y).relu())  # noqa: E731
    first, second = layer.self_attn_layer_norm, layer.final_layer_norm
    if pre_norm:
        middle = x + attend(first(x))
        expected = middle + feed(second(middle))
    else:
        middle = first(x + attend(x))
        expected = second(middle + feed(middle))
    torch.testing.assert_close(layer(x, None), expected)


def test_positional_attention_goes_by_position_alone() -> None:
    """Its weights do not depend on the states: the sub-layer is linear in its values."""
    layer = DecoderLayer(tiny_config(), positional_attention=True).double()
    attention = layer.positional_attn
    assert attention is not None
    positions, x, y = (torch.randn(1, 4, 8).double() for _ in range(3))
    apply = lambda values: attention(positions, attention.project(positions, values), None)  # noqa: E731
    torch.testing.assert_close(apply(x + y) - apply(y), apply(x) - apply(torch.zeros_like(x)))


def test_sinusoids_by_hand() -> None:
    table = sinusoids(3, 4)
    expected = [math.sin(2), math.sin(2e-4), math.cos(2), math.cos(2e-4)]
    torch.testing.assert_close(table[2], torch.tensor(expected))


@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
def test_positions_count_real_tokens(kind: str) -> None:
    positions = Positions(tiny_config(positions=kind))
    with torch.no_grad():
        positions.weight[1:] = torch.randn_like(positions.weight[1:])
    left = positions(torch.tensor([[False, False, True, True]]))
    right = positions(torch.tensor([[True, True, False, False]]))
    torch.testing.assert_close(left[:, 2:], right[:, :2])
    torch.testing.assert_close(right[0, :2], positions.weight[1:3])
    assert not left[:, :2].any()
    assert not right[:, 2:].any()


def test_too_long() -> None:
    with pytest.raises(ValueError, match=r"at most 40 tokens \(max_positions\), got 41"):
        Positions(tiny_config())(torch.ones(1, 41, dtype=torch.bool))
