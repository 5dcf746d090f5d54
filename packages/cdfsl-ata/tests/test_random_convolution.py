"""Random convolution of a task."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdfsl_ata.random_convolution import KERNEL_SIZES, convolve_task, random_filter, random_start


def brute_force(image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Correlation with zero padding, one output pixel at a time."""
    channels, height, width = image.shape
    size = weight.shape[-1]
    padded = torch.zeros(channels, height + size - 1, width + size - 1, dtype=image.dtype)
    half = size // 2
    padded[:, half : half + height, half : half + width] = image
    out = torch.zeros_like(image)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                out[channel, row, column] = (
                    padded[:, row : row + size, column : column + size] * weight[channel]
                ).sum()
    return out


def test_kernel_of_one_mixes_channels() -> None:
    images = torch.arange(12.0).reshape(1, 1, 3, 2, 2)
    swap = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 2]]).reshape(3, 3, 1, 1)
    out = convolve_task(images, swap)
    assert torch.equal(out[0, 0, 0], images[0, 0, 1])
    assert torch.equal(out[0, 0, 2], 2 * images[0, 0, 2])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_equals_brute_force(size: int) -> None:
    images = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    weight = torch.randn(3, 3, size, size, dtype=torch.float64)
    expected = torch.stack([brute_force(image, weight) for image in images.reshape(-1, 3, 4, 5)])
    assert torch.allclose(convolve_task(images, weight).reshape(-1, 3, 4, 5), expected, atol=1e-12)


def test_linear_without_gradient_and_zero_stays_zero() -> None:
    images = torch.randn(2, 3, 3, 8, 8, requires_grad=True)
    weight = random_filter(7, torch.Generator().manual_seed(0))
    out = convolve_task(images, weight)
    assert not out.requires_grad
    assert torch.allclose(convolve_task(3 * images, weight), 3 * out, atol=1e-5)
    assert not convolve_task(torch.zeros(1, 3, 8, 8), weight).any()


@pytest.mark.parametrize("size", KERNEL_SIZES)
def test_weight_variance(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    values = torch.cat([random_filter(size, generator).flatten() for _ in range(400)])
    variance = 1 / (3 * size**2)
    # Standard error of a normal sample variance is sqrt(2 / n) of it
    assert abs(float(values.var()) / variance - 1) < 5 * math.sqrt(2 / len(values))


def test_frequency_of_keeping_and_of_sizes() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.ones(1, 1, 3, 2, 2)
    sizes = torch.tensor([random_start(images, 0.8, KERNEL_SIZES, generator).kernel_size for _ in range(3000)])
    assert abs(float((sizes == 0).double().mean()) - 0.8) < 4 * math.sqrt(0.16 / 3000)
    for size in KERNEL_SIZES:
        assert abs(float((sizes == size).double().mean()) - 0.2 / 6) < 4 * math.sqrt(0.033 / 3000)


def test_keeping_always_draws_nothing() -> None:
    state = torch.random.get_rng_state()
    images = torch.randn(1, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(random_start(images, 1.0, (3,), None).images, images)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_filter_a_task() -> None:
    image = torch.randn(3, 6, 6)
    out = random_start(image.expand(4, 5, 3, 6, 6), 0.0, (3,), torch.Generator().manual_seed(2)).images
    assert torch.allclose(out, out[:1, :1].expand_as(out), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KERNEL_SIZES), st.integers(1, 17), st.integers(1, 17), st.integers(0, 2**31))
def test_keeps_the_shape(size: int, height: int, width: int, seed: int) -> None:
    images = torch.randn(2, 3, height, width)
    assert convolve_task(images, random_filter(size, torch.Generator().manual_seed(seed))).shape == images.shape


def test_bad_input() -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match="kernel_sizes: expected odd"):
        random_filter(4, generator)
    with pytest.raises(ValueError, match=r"expected \[\.\.\., 3, height, width\]"):
        convolve_task(torch.zeros(2, 1, 8, 8), random_filter(3, generator))
