"""Sparse Swin: windows, packing, geometry, sizes (sections 5 and 13)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformer
from torch.nn import functional as F

from lmim import SparseSwin, SwinLocalMim
from lmim.config import MimConfig
from lmim.swin import WindowAttention
from lmim.windows import (
    StageShape,
    first_fit,
    group_windows,
    knapsack,
    one_each,
    stage_windows,
    unit_coordinates,
    window_numbers,
)

PACKINGS = (None, one_each, first_fit, knapsack)


def small(**changes):
    torch.manual_seed(0)
    return SparseSwin(1, 4, (2, 2, 2, 2), (1, 2, 2, 4), **changes).double()


def images(height, width=None, count=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, height, width or height, generator=generator, dtype=torch.float64)


def mask_of(units, *visible):
    mask = torch.ones(units, dtype=torch.bool)
    mask[list(visible)] = False
    return mask


def test_worked_example_of_coordinates():
    units = torch.tensor([0, 8])
    assert unit_coordinates(units, 2).tolist() == [
        [0, 0], [0, 1], [1, 0], [1, 1], [2, 2], [2, 3], [3, 2], [3, 3],
    ]  # fmt: skip
    # The published code lays a unit's four tokens out as a strip of the 14 x 14 grid
    assert unit_coordinates(units, 2, published=True).tolist() == [
        [0, 0], [0, 1], [0, 2], [0, 3], [2, 4], [2, 5], [2, 6], [2, 7],
    ]  # fmt: skip
    assert unit_coordinates(torch.tensor([5]), 1, columns=3).tolist() == [[1, 2]]


def test_worked_example_of_windows():
    coordinates = torch.tensor([[0, 0], [0, 6], [0, 7], [6, 6], [7, 7]])
    assert window_numbers(coordinates, 7, 0).tolist() == [0, 0, 1, 0, 3]
    numbers = window_numbers(coordinates, 7, 3)  # the first windows are 3 wide
    assert numbers[1] == numbers[2]
    assert len(set(numbers.tolist())) == 3
    assert window_numbers(coordinates, 7, (0, 3)).tolist()[:3] == [0, 1, 1]


@given(counts=st.lists(st.integers(1, 49), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_packings_fill_groups_and_forget_no_window(counts):
    capacity = max(counts)
    used = {}
    for packing in (one_each, first_fit, knapsack):
        groups = packing(counts, capacity)
        sizes = [0] * (max(groups) + 1)
        for group, size in zip(groups, counts, strict=True):
            sizes[group] += size
        assert len(groups) == len(counts)
        assert max(sizes) <= capacity
        assert min(sizes) > 0
        used[packing] = len(sizes)
    assert used[one_each] == len(counts)
    # First-fit decreasing needs at most 11/9 of the fewest possible groups and two thirds of one
    assert used[first_fit] <= 11 / 9 * used[knapsack] + 2 / 3


def test_the_knapsack_fills_the_first_group_as_far_as_it_goes():
    assert sum(count for count, group in zip([6, 5, 4, 3], knapsack([6, 5, 4, 3], 9), strict=True) if group == 0) == 9
    assert sum(count for count, group in zip([7, 4, 4, 3], knapsack([7, 4, 4, 3], 8), strict=True) if group == 0) == 8


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(("window", "shift"), [(7, 0), (7, 3), (4, 2), (14, 0)])
def test_attention_is_softmax_over_the_visible_tokens_of_the_window(packing, window, shift):
    """Against one masked softmax over all tokens with -inf outside the window (section 13)."""
    torch.manual_seed(0)
    coordinates = unit_coordinates(torch.tensor([0, 3, 8, 9, 24, 40, 48]), 2)
    model, x = WindowAttention(6, 2, window).double(), torch.randn(2, len(coordinates), 6, dtype=torch.float64)
    torch.nn.init.normal_(model.relative_position_bias_table)
    numbers = window_numbers(coordinates, window, shift)
    query, key, value = model.qkv(x).unflatten(2, (3, 2, 3)).permute(2, 0, 3, 1, 4)
    step = coordinates[:, None] - coordinates[None] + window - 1
    inside = numbers[:, None] == numbers[None]
    index = (step[..., 0] * (2 * window - 1) + step[..., 1]).where(inside, torch.tensor(0))
    bias = model.relative_position_bias_table[index].permute(2, 0, 1)
    scores = query @ key.transpose(-2, -1) / 3**0.5 + bias.masked_fill(~inside, float("-inf"))
    expected = model.proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    found = model(x, group_windows(coordinates, window, shift, packing))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_gradients_of_attention():
    torch.manual_seed(0)
    windows = group_windows(unit_coordinates(torch.tensor([0, 8]), 2), 3, 1, one_each)
    model = WindowAttention(4, 2, 3).double()
    x = torch.randn(1, 8, 4, dtype=torch.float64, requires_grad=True)
    table = torch.randn(25, 2, dtype=torch.float64, requires_grad=True)

    def attend(x, table):
        return torch.func.functional_call(model, {"relative_position_bias_table": table}, (x, windows))

    assert torch.autograd.gradcheck(attend, (x, table))


@pytest.mark.parametrize("geometry", ["correct", "published"])
def test_any_packing_gives_the_same_output(geometry):
    x, mask = images(56), mask_of(49, 0, 1, 8, 17, 23, 24, 31, 40, 41, 46, 47, 48)
    outputs = [small(packing=packing, geometry=geometry)(x, mask) for packing in PACKINGS]
    for others in outputs[1:]:
        for stage, output in enumerate(others):
            torch.testing.assert_close(output, outputs[0][stage], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "window"), [(56, 7), (56, 14), (112, 7), (64, 8)])
def test_nothing_masked_is_the_dense_swin_of_timm(size, window):
    torch.manual_seed(0)
    plain = SwinTransformer(
        img_size=size, patch_size=1, embed_dim=4, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), window_size=window,
        num_classes=0,
    ).double().eval()  # fmt: skip
    model = small(image=size, window=window)
    for module in plain.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[2:3] == ["downsample"]:
            parts[1] = str(int(parts[1]) + 1)
        if parts[0] == "norm":
            if parts[1] != "3":
                continue
            parts = ["norm", parts[2]]
        plain.get_parameter(".".join(parts)).data.copy_(value)
    x, units = images(size), (size // 8) ** 2
    found = model(x, torch.zeros(units, dtype=torch.bool))[-1]
    torch.testing.assert_close(found, plain.forward_features(x).flatten(1, 2), rtol=1e-9, atol=1e-9)


def test_hidden_content_has_no_influence():
    model, mask = small(), mask_of(49, 3, 10, 11, 12, 30)
    x = images(56).requires_grad_()
    (gradient,) = torch.autograd.grad(sum(output.square().sum() for output in model(x, mask)), x)
    hidden = mask.view(7, 7).repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert float(gradient[:, :, hidden].abs().max()) == 0
    assert float(gradient[:, :, ~hidden].abs().min()) > 0
    changed = torch.where(hidden, torch.randn(2, 3, 56, 56, dtype=torch.float64), x)
    for one, other in zip(model(x, mask), model(changed, mask), strict=True):
        assert torch.equal(one, other)


def test_units_that_no_window_joins_do_not_see_each_other():
    """Alone in the first stage's windows, a unit gives what it gives by itself."""
    model = small()
    x, corner = images(56), mask_of(49, 0)
    both = mask_of(49, 0, 48)
    alone, together = model(x, corner)[0], model(x, both)[0]
    torch.testing.assert_close(together[:, :16], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (56, 80), (24, 72)])
def test_images_of_other_sizes_and_shapes(height, width):
    """The same weights, given images of whole units and a mask of them."""
    model = small()
    rows, columns = height // 8, width // 8
    outputs = model(images(height, width), torch.zeros(rows * columns, dtype=torch.bool))
    assert [output.shape[1] for output in outputs] == [rows * columns * side**2 for side in (4, 2, 1, 1)]
    (before, _), *_ = model.stages(images(height, width), torch.arange(rows * columns), (rows, columns))
    assert before.shape == (2, height * width, 4)


def test_pre_training_at_another_size():
    config = MimConfig(
        backbone="swin", image=96, patch=2, channels=1, dim=4, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4),
        scales=(1.0,) * 4, decoder_dims=(8,), decoder_heads=2, target="hog",
    )  # fmt: skip
    model = SwinLocalMim.of(config)
    found = model(torch.randn(2, 1, 96, 96))
    assert [part.shape[1] for part in found.predictions] == [24**2, 12**2, 6**2, 6**2]
    assert int(found.mask.sum()) == int(0.75 * 36) + 1
    found.loss.backward()
    assert model.encoder.layers[0].blocks[0].attn.qkv.weight.grad.abs().max() > 0


def test_isolated_stages_learn_from_their_own_loss():
    torch.manual_seed(0)
    encoder = SparseSwin(1, 4, (2, 2, 2, 2), (1, 2, 2, 4), isolate_stages=True)
    model = SwinLocalMim(encoder, decoder_dims=(8,) * 4, decoder_heads=2, target="pixels").double()
    model(images(56), 0.75, torch.randperm(49)).losses[2].backward()
    reached = [any(p.grad is not None and bool(p.grad.any()) for p in layer.parameters()) for layer in encoder.layers]
    assert reached == [False, False, True, False]


def test_half_precision_stays_near():
    torch.manual_seed(0)
    model, x = small().float(), images(56).float()
    mask = mask_of(49, *range(0, 49, 4))
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, mask)
    for one, other in zip(found, model(x, mask), strict=True):
        assert F.mse_loss(one.float(), other) < 0.01 * other.var()


def test_windows_are_worked_out_once():
    stage_windows.cache_clear()
    model, mask = small(), torch.zeros(49, dtype=torch.bool)
    for _ in range(3):
        model(images(56), mask)
    assert stage_windows.cache_info().misses == 4
    assert StageShape(7, 7, 8, 7).shift == (3, 3)
    assert StageShape(1, 7, 2, 7).shift == (0, 3)


@pytest.mark.parametrize("call", [
    lambda: small()(images(60), torch.zeros(49, dtype=torch.bool)),
    lambda: small(image=60),
    lambda: small(geometry="flat"),
    lambda: SparseSwin(1, 4, (2, 2), (1,)),
    lambda: SparseSwin(1, 4, (1,) * 5, (1,) * 5),
    lambda: SparseSwin(1, 4, (2,), (3,)),
    lambda: small()(images(56), torch.zeros(48, dtype=torch.bool)),
    lambda: small()(images(56), torch.ones(49, dtype=torch.bool)),
    lambda: SwinLocalMim(small(taps=False)),
    lambda: SwinLocalMim(small(), decoder_dims=(8,)),
    lambda: SwinLocalMim(small(), decoder_dims=(8,) * 4)(images(64)),
    lambda: SwinLocalMim.of(MimConfig()),
    lambda: SwinLocalMim.of(MimConfig(backbone="swin", depths=(2, 2), heads=(1, 1))),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"expected|needs taps"):
        call()


def test_a_size_that_units_do_not_divide_is_explained():
    with pytest.raises(ValueError, match=r"multiples of 32 pixels \(mask units of 8 x 8 patches of 4\), got 224 x 230"):
        SparseSwin(dim=4, depths=(1,), heads=(1,))(images(224, 230), torch.zeros(49, dtype=torch.bool))
