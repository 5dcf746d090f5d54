"""Transformer blocks, timm's with the paper's settings, and how weights start (sections 3.1 and 3.3)."""

from __future__ import annotations

from functools import partial

import timm.layers.patch_embed
import timm.models.vision_transformer as timm_vit
from timm.layers.mlp import Mlp
from torch import Tensor, nn

__all__ = ["Block", "Mlp", "PatchEmbed", "check_images", "init_linear", "init_patch_embed"]


class Block(timm_vit.Block):
    """Pre-norm attention and MLP of four times the width, [batch, tokens, dim] to the same shape.

    Args:
        dim, heads: of the tokens.
        drop_path: probability that a branch is left out in training.

    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, dim: int, heads: int, drop_path: float = 0.0) -> None:
        if dim % heads:
            raise ValueError(f"heads: expected a divisor of the width {dim}, got {heads}")
        norm = partial(nn.LayerNorm, eps=1e-6)
        super().__init__(dim, heads, qkv_bias=True, drop_path=drop_path, norm_layer=norm)  # pyright: ignore[reportArgumentType]


class PatchEmbed(timm.layers.patch_embed.PatchEmbed):
    """A convolution of the patch's size and stride: [batch, channels, height, width] -> [batch, tokens, dim], raster
    order."""

    def __init__(self, patch: int, dim: int, channels: int = 3) -> None:
        super().__init__(None, patch, channels, dim, strict_img_size=False)


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero bias, in place, recursively; convolutions keep PyTorch's default."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_patch_embed(projection: nn.Conv2d) -> None:
    """Xavier-uniform on the weight as a matrix [dim, channels patch^2], in place."""
    nn.init.xavier_uniform_(projection.weight.data.flatten(1))


def check_images(images: Tensor, channels: int, size: int) -> None:
    """Raise ValueError unless images are [batch, channels, size, size]."""
    if images.ndim != 4 or tuple(images.shape[1:]) != (channels, size, size):
        raise ValueError(f"images: expected [batch, {channels}, {size}, {size}], got {list(images.shape)}")
