"""HOG and pixels (sections 4 and 13 of the specification)."""

from __future__ import annotations

import math

import pytest
import torch

from lmim import LocalMim, hog_targets, pixel_targets
from lmim.masking import mask_from_noise, masked_mean, rescale_mask, unit_mask, visible_count
from lmim.positions import position_table
from lmim.schedule import learning_rate
from lmim.targets import CustomTarget, make_targets, orientation_map, pixel_vectors, pooled_map, sobel, target_width


def images(count=2, size=32, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hog_by_hand(image, cell, bins):
    """One channel, pixel by pixel, with the mirrored border."""
    size = len(image)

    def at(y, x):
        mirror = [abs(v) if v < size else 2 * size - 2 - v for v in (y, x)]
        return float(image[mirror[0], mirror[1]])

    cells = torch.zeros(size // cell, size // cell, bins, dtype=torch.float64)
    for y in range(size):
        for x in range(size):
            gx = sum(w * (at(y + k, x - 1) - at(y + k, x + 1)) for k, w in ((-1, 1), (0, 2), (1, 1)))
            gy = sum(w * (at(y - 1, x + k) - at(y + 1, x + k)) for k, w in ((-1, 1), (0, 2), (1, 1)))
            index = math.floor(math.atan2(gx, gy) / math.pi * bins) % bins
            cells[y // cell, x // cell, index] += math.hypot(gx, gy) / cell**2
    return cells / cells.norm(dim=2, keepdim=True).clamp_min(1e-12)


@pytest.mark.parametrize("bins", [9, 18])
def test_against_loops(bins):
    image = images(1, 16)
    (found,) = hog_targets(image, (8,), bins)
    for channel in range(3):
        wanted = hog_by_hand(image[0, channel], 8, bins).flatten(0, 1)
        torch.testing.assert_close(found[0, :, channel * bins : (channel + 1) * bins], wanted)


def test_scale_offset_and_sign_do_not_matter():
    image = images()
    wanted = hog_targets(image, (4, 16), 9)
    for changed in (image * 4, image * 0.25, -image):
        for one, other in zip(hog_targets(changed, (4, 16), 9), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_symmetries():
    image = images()
    cells = hog_targets(image, (8,), 9)[0].unflatten(1, (4, 4))
    turned = hog_targets(image.flip(2, 3), (8,), 9)[0].unflatten(1, (4, 4))
    torch.testing.assert_close(turned, cells.flip(1, 2))
    mirrored = hog_targets(image.flip(3), (8,), 9)[0].unflatten(1, (4, 4)).unflatten(3, (3, 9))
    wanted = cells.flip(2).unflatten(3, (3, 9)).flip(4)
    torch.testing.assert_close(mirrored[:, 1:3, 1:3], wanted[:, 1:3, 1:3])


def test_transposition():
    """For an even number of bins n, bin k becomes (n / 2 - 1 - k) mod n, away from the border."""
    image, bins = images(), 8
    cells = hog_targets(image, (8,), bins)[0].unflatten(1, (4, 4))
    turned = hog_targets(image.transpose(2, 3), (8,), bins)[0].unflatten(1, (4, 4)).unflatten(3, (3, bins))
    order = [(bins // 2 - 1 - k) % bins for k in range(bins)]
    wanted = cells.transpose(1, 2).unflatten(3, (3, bins))[..., order]
    torch.testing.assert_close(turned[:, 1:3, 1:3], wanted[:, 1:3, 1:3])


def test_an_angle_of_pi_belongs_to_bin_0():
    """Bright below: gx = 0 and gy < 0, so that atan2 is pi and its bin n mod n."""
    image = torch.arange(8.0, dtype=torch.float64)[:, None].expand(1, 1, 8, 8)
    assert orientation_map(image, 9)[0, 0].sum(dim=(1, 2)).nonzero().flatten().tolist() == [0]


def test_the_border_is_exactly_zero_where_reflection_makes_it_so():
    gx, gy = sobel(images())
    assert int(gx[..., 0].count_nonzero()) == int(gx[..., -1].count_nonzero()) == 0
    assert int(gy[..., 0, :].count_nonzero()) == int(gy[..., -1, :].count_nonzero()) == 0


def test_bins_sum_to_the_mean_magnitude():
    image = images()
    magnitude = torch.stack(sobel(image)).square().sum(dim=0).sqrt()
    found = pooled_map(orientation_map(image, 9), 8).sum(dim=2)
    torch.testing.assert_close(found, torch.nn.functional.avg_pool2d(magnitude, 8))


@pytest.mark.parametrize("cells", [(4, 8, 16, 32), (8, 32), (16,), (8, 4), (2, 6, 3), (1, 4)])
def test_all_sizes_share_one_map(cells):
    """Any set of sizes in any order gives what each size gives alone."""
    image = images(size=96 if 6 in cells else 32)
    for found, cell in zip(hog_targets(image, cells, 9), cells, strict=True):
        torch.testing.assert_close(found, hog_targets(image, (cell,), 9)[0])


def test_a_bias_gives_flat_areas_a_direction():
    flat = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    assert int(hog_targets(flat, (8,), 9)[0].count_nonzero()) == 0
    (found,) = hog_targets(flat, (8,), 9, [(1.0, 1.0)])  # 45 degrees: bin floor(9 / 4)
    assert found[0, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_lengths_and_pooling():
    image = images()
    image[:, :, :12, :12] = 1.0
    maps = orientation_map(image, 9)
    torch.testing.assert_close(pooled_map(pooled_map(maps, 4), 2), pooled_map(maps, 8))
    lengths = hog_targets(image, (4,), 9)[0].unflatten(2, (3, 9)).norm(dim=3)
    assert bool(((lengths - 1).abs().lt(1e-12) | lengths.eq(0)).all())
    assert bool(lengths[:, 0].eq(0).all())
    biased = hog_targets(image, (4,), 9, [(0.1, -0.2)])[0].unflatten(2, (3, 9)).norm(dim=3)
    torch.testing.assert_close(biased, torch.ones_like(biased))


def test_half_precision_is_computed_in_full():
    (found,) = hog_targets(images().half(), (8,), 9)
    assert found.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        inside = hog_targets(images().float(), (8,), 9)[0]
    torch.testing.assert_close(inside, hog_targets(images().float(), (8,), 9)[0], rtol=0, atol=0)


def test_gradients_that_overflow_in_half_precision_do_not():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 300.0  # its gradient squared is 1,440,000, beyond float16
    wanted = hog_targets(image, (8,), 9)[0]
    with torch.autocast("cpu", torch.float16):
        assert hog_targets(image.half(), (8,), 9)[0].equal(wanted)
    assert bool(wanted.isfinite().all())
    assert float(wanted.norm()) == pytest.approx(1)


@pytest.mark.parametrize("bins", [9, 18])
def test_float32_is_near_float64_but_for_pixels_on_an_edge_between_bins(bins):
    exact, single = hog_targets(images(), (8,), bins)[0], hog_targets(images().float(), (8,), bins)[0]
    assert float(((exact - single).abs() > 1e-4).double().mean()) < 0.01


def test_compiled_hog_is_the_same():
    compiled = torch.compile(lambda x: hog_targets(x, (4, 8), 9), fullgraph=True, backend="aot_eager")
    image = images().float()
    for one, other in zip(compiled(image), hog_targets(image, (4, 8), 9), strict=True):
        torch.testing.assert_close(one, other)


def test_images_in_parts_have_the_targets_of_all_at_once(monkeypatch):
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = hog_targets(images, (4, 8), 9)
    for at_once in (1, 2 * 3 * 32 * 32, 4 * 3 * 32 * 32 + 1):
        monkeypatch.setattr("lmim.targets.PIXELS_AT_ONCE", at_once)
        torch.testing.assert_close(hog_targets(images, (4, 8), 9), whole)
    assert [list(each.shape) for each in hog_targets(images[:0], (4, 8), 9)] == [[0, 64, 27], [0, 16, 27]]


def test_targets_have_no_gradient():
    image = images().requires_grad_()
    assert not any(part.requires_grad for part in hog_targets(image, (8,), 9))
    assert not any(part.requires_grad for part in pixel_targets(image, (8,)))


def test_a_target_of_ones_own():
    """Mean colours, at three scales."""
    colours = CustomTarget(lambda x, cell: torch.nn.functional.avg_pool2d(x, cell).flatten(2).mT, lambda _: 3)
    found = make_targets(images(), (4, 8, 16), colours)
    assert [part.shape for part in found] == [(2, 64, 3), (2, 16, 3), (2, 4, 3)]
    model = LocalMim(32, 8, 8, 7, 2, decoder_dim=8, decoder_heads=2, target=colours).double()
    result = model(images())
    assert [part.shape[2] for part in result.predictions] == [3] * 4
    assert bool(result.loss.isfinite())


def test_widths():
    assert [target_width("hog", 8, 9), target_width("pixels", 8, 9), target_width("hog", 8, 18, 1)] == [27, 192, 18]


def test_pixels():
    image = images(1, 8)
    vectors = pixel_vectors(image, 4)
    torch.testing.assert_close(vectors[0, 1].view(4, 4, 3), image[0, :, :4, 4:].permute(1, 2, 0))
    (found,) = pixel_targets(image, (4,))
    torch.testing.assert_close(found.mean(dim=2), torch.zeros(1, 4, dtype=torch.float64))
    assert pixel_targets(image, (4,), normalise=False)[0].equal(vectors)


def test_masks():
    mask = mask_from_noise(torch.rand(3, 196), 0.75)
    assert mask.mask.sum(dim=1).tolist() == [147, 147, 147]
    assert mask.keep.shape == (3, 49)
    for scale in (4, 2, 1, 0.5):
        torch.testing.assert_close(rescale_mask(mask.mask, scale).sum(), mask.mask.sum() * scale**2)
    assert set(rescale_mask(mask.mask, 0.5).unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
    assert int(unit_mask(torch.randperm(49), 0.75).sum()) == 37
    error = torch.rand(3, 196)
    by_hand = sum(float(error[b, i]) for b in range(3) for i in range(196) if mask.mask[b, i]) / 441
    assert float(masked_mean(error, mask.mask)) == pytest.approx(by_hand, rel=1e-5)


def test_schedule():
    assert learning_rate(0, 1e-3, 1e-6, 10, 100) == 0
    assert learning_rate(10, 1e-3, 1e-6, 10, 100) == pytest.approx(1e-3)
    assert learning_rate(100, 1e-3, 1e-6, 10, 100) == pytest.approx(1e-6)


@pytest.mark.parametrize("call", [
    lambda: hog_targets(images(), (5,), 9),
    lambda: hog_targets(images()[0], (4,), 9),
    lambda: pixel_targets(images(), (7,)),
    lambda: hog_targets(images(), (4,), 0),
    lambda: make_targets(images(), (4,), "edges"),
    lambda: make_targets(images(), (4,), CustomTarget(lambda x, _: x, lambda _: 3)),
    lambda: visible_count(16, 1.0),
    lambda: visible_count(4, 0.9),
    lambda: position_table(6, 4),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"expected|do not divide|leaves none"):
        call()
