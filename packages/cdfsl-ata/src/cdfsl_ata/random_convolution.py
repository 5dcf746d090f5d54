"""One random convolution for a whole task: the start of the ascent away from the source images (the paper, section 3).

A filter [3, 3, k, k] with Xavier-normal weights, no bias, stride 1 and zero padding floor(k / 2) keeps the image size
and the shapes in it, and changes colours and local texture. It is not blended with the original nor renormalised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

KERNEL_SIZES = (1, 3, 5, 7, 11, 15)


def check_kernel_sizes(kernel_sizes: Sequence[int]) -> tuple[int, ...]:
    """The pool K as a tuple.

    Raises:
        ValueError: an empty pool, or a size that is not odd and positive (an even one would change the image size).
    """
    sizes = tuple(kernel_sizes)
    if not sizes or any(size < 1 or size % 2 == 0 for size in sizes):
        raise ValueError(f"kernel_sizes: expected odd positive sizes, at least one, got {sizes}")
    return sizes


def random_filter(
    kernel_size: int, generator: torch.Generator, channels: int = 3, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Weights [channels, channels, k, k] ~ N(0, 2 / (fan_in + fan_out)) = N(0, 1 / (channels k^2)).

    Args:
        kernel_size: k, odd.
        generator: a CPU generator; the numbers are the same whatever device they are used on.
        channels: of the images.
        dtype: of the result; the numbers are drawn in float32.

    Raises:
        ValueError: an even or non-positive `kernel_size`.
    """
    check_kernel_sizes((kernel_size,))
    deviation = 1.0 / math.sqrt(channels * kernel_size**2)
    weight = torch.randn(channels, channels, kernel_size, kernel_size, generator=generator, dtype=torch.float32)
    return (weight * deviation).to(dtype)


def convolve_task(images: Tensor, weight: Tensor) -> Tensor:
    """All images of a task through one filter, without gradient.

    Args:
        images: [..., channels, height, width]; every leading dimension is a batch dimension.
        weight: [channels, channels, k, k], k odd.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: another number of channels than the filter's, or an even kernel.
    """
    if images.ndim < 3 or images.shape[-3] != weight.shape[1]:
        raise ValueError(f"images: expected [..., {weight.shape[1]}, height, width], got {list(images.shape)}")
    check_kernel_sizes(tuple(weight.shape[2:]))
    flat = images.detach().reshape(-1, *images.shape[-3:])
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    convolved = functional.conv2d(flat, weight.to(flat), padding=padding)
    return convolved.reshape(*images.shape[:-3], *convolved.shape[-3:])


@dataclass(frozen=True)
class Start:
    """Where the ascent of one task begins: the images themselves (`kernel_size` 0) or a convolution of them."""

    images: Tensor
    kernel_size: int


def random_start(
    images: Tensor, p_original: float, kernel_sizes: Sequence[int], generator: torch.Generator | None
) -> Start:
    """Keep the images with probability `p_original`, else convolve the whole task with one random filter.

    Nothing is drawn when `p_original` is 1, so that training without convolution uses no random numbers. Otherwise
    one uniform number decides, and two further draws (size, weights) follow only where the task is convolved.

    Args:
        images: [..., channels, height, width].
        p_original: probability of NOT convolving, in [0, 1].
        kernel_sizes: the pool K.
        generator: CPU generator; None for torch's default one.
    """
    if p_original >= 1.0:
        return Start(images.detach(), 0)
    generator = torch.default_generator if generator is None else generator
    if float(torch.rand((), generator=generator)) <= p_original:
        return Start(images.detach(), 0)
    position = int(torch.randint(len(kernel_sizes), (), generator=generator))
    weight = random_filter(kernel_sizes[position], generator, channels=images.shape[-3])
    return Start(convolve_task(images, weight), kernel_sizes[position])
