"""Small backbones."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer

from bi_adapter import BiAdapterConfig, adapter_matrices, attach


def vit(seed: int = 0, classes: int = 5, **changes: object) -> VisionTransformer:
    """A ViT for 3 x 16 x 16 images: 5 tokens of width 24, two blocks."""
    torch.manual_seed(seed)
    settings = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": classes}
    return VisionTransformer(**(settings | changes)).eval()  # pyright: ignore[reportArgumentType]


def adapted(config: BiAdapterConfig, *, seed: int = 0, spread: float = 0.3, **kwargs: object) -> VisionTransformer:
    """The same with an adapter whose latents are not small."""
    model = attach(vit(seed), config, **kwargs)  # pyright: ignore[reportArgumentType]
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for matrix in adapter_matrices(model).values():
            matrix.set_latent(spread * torch.randn_like(matrix.weight))
    return model.eval()


def images(count: int = 4) -> torch.Tensor:
    """Images [count, 3, 16, 16]."""
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(7))
