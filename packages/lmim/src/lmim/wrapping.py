"""Pre-training any plain ViT of timm in place: the wrapped model's own modules learn, nothing is copied back."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lmim.blocks import init_linear, init_patch_embed
from lmim.positions import position_table
from lmim.vit import LocalMim


def wrap(vit: VisionTransformer, *, initialise: bool = True, **options: Any) -> LocalMim:
    """A pre-training model around timm's ViT, of any size, with or without register tokens.

    Patch embedding, class token, registers and blocks are shared; the ViT's position table becomes the fixed sin-cos
    one, so that after pre-training it is ready for fine-tuning. Registers take part in the encoder alone.

    Args:
        vit: with a class token, of square patches and images, without anything before its first block but positions.
        initialise: start from the paper's initial weights; False continues from the ViT's own.
        options: taps, scales, decoders, target: see `LocalMim`.

    Raises:
        ValueError: a ViT of another kind, or options that do not fit it.
    """
    (height, width), (rows, columns) = vit.patch_embed.img_size or (0, 0), vit.patch_embed.patch_size
    plain = vit.cls_token is not None and isinstance(vit.norm_pre, nn.Identity) and not vit.dynamic_img_size
    if not plain or height != width or rows != columns or vit.pos_embed is None:
        raise ValueError(
            "vit: expected a class token, a position table, square images and patches, a fixed image size and no "
            f"normalisation before the blocks; got {type(vit).__name__} of {height} x {width} pixels"
        )
    blocks: Any = list(vit.blocks)
    channels = vit.patch_embed.proj.in_channels
    model = LocalMim(
        height, rows, vit.embed_dim, len(blocks), blocks[0].attn.num_heads, channels=channels, **options
    )  # fmt: skip
    model.patch_embed, model.blocks = vit.patch_embed, nn.ModuleList(blocks)
    assert vit.cls_token is not None
    model.cls_token, model.reg_token = vit.cls_token, vit.reg_token
    if initialise:
        init_linear(vit.blocks)
        init_patch_embed(vit.patch_embed.proj)
        for tokens in (vit.cls_token, vit.reg_token):
            if tokens is not None:
                nn.init.normal_(tokens, std=0.02)
    with torch.no_grad():
        table = position_table(vit.embed_dim, height // rows)
        extra = vit.pos_embed.shape[1] - len(table)  # rows of class and register tokens, zero
        vit.pos_embed.copy_(nn.functional.pad(table, (0, 0, extra, 0)))
    return model
