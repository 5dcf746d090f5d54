"""A small vision transformer for 28x28 images: its pre-training, and a forward pass without what adapters leave alone.

AdaptFormer modules sit beside each MLP, so the first block's attention and MLP see the same input in every epoch and
are computed once; and of the last block only the class token is read. Both are exact and leave about half the work.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bi_adapter.hosts import ParallelMlp
from bi_adapter.training import batch_rows, check_rates
from sextet.data import to_float
from sextet.training import Training, warmup_cosine


@dataclass(frozen=True)
class PretrainingConfig:
    """Ordinary supervised training with AdamW, linear warm-up over a tenth of the steps and a cosine to zero.

    Attributes:
        images: so many of the source's training images; the others stay unseen.
        epochs, batch_size: length of the run.
        lr, weight_decay: of AdamW.
        seed: of order and initial weights; all seeds of a table share one backbone, as in the paper.
    """

    images: int = 40_000
    epochs: int = 5
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("images", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.batch_size > self.images:
            raise ValueError(f"batch_size: expected at most the {self.images} images, got {self.batch_size}")
        check_rates(self.lr, self.weight_decay)


def grey(pixels: Tensor) -> Tensor:
    """Images float32 [batch, 1, h, w] in [-1, 1] of pixels uint8 [batch, h, w, 1]."""
    return to_float(pixels, (0.5,), (0.5,))


def pretrain(
    model: nn.Module, pixels: Tensor, labels: Tensor, config: PretrainingConfig, folder: Path, *, device: torch.device
) -> None:
    """Train `model` in place on images uint8 [n, h, w, 1] and labels int64 [n]; resumes from `folder`."""
    model.to(device).train()
    total = len(labels) // config.batch_size * config.epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step + 1, warmup=max(1, total // 10), total=total + 1)
    )

    rows_of = partial(batch_rows, len(labels), config.batch_size, config.seed)
    with Training(
        folder,
        steps=total,
        state={"model": model, "optimizer": optimizer, "schedule": schedule},
        config=asdict(config),
        save_every=500,
        log_every=50,
        device=device,
        progress="pre-training",
        rows=rows_of,
    ) as training:
        for step in training:
            rows = rows_of(step)
            loss = F.cross_entropy(model(grey(pixels[rows].to(device))), labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            training.log(loss=loss)


class ClassTokenTransformer(nn.Module):
    """A timm `VisionTransformer`, adapted or not, of whose last block only the class token is computed.

    Args:
        model: without stochastic depth, global pooling or layer scale.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of images [batch, channels, h, w]."""
        tokens = embedded(self.model, images)
        for block in self.model.blocks[:-1]:
            tokens = block(tokens)
        return self.classify(tokens)

    def classify(self, tokens: Tensor) -> Tensor:
        """Logits [batch, classes] of what enters the last block, [batch, tokens, dim]."""
        block = self.model.blocks[-1]
        stream = tokens[:, 0] + class_token_attention(block.attn, block.norm1(tokens))
        stream = stream + block.mlp(block.norm2(stream))
        return self.model.head(self.model.norm(stream))


class AdaptedTail(ClassTokenTransformer):
    """The same for a model with AdaptFormer modules, from what `first_block` has computed."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of what `first_block` gives for images, [batch, 2, tokens, dim]."""
        stream, output = images.unbind(1)
        tokens = output + adapter_of(self.model.blocks[0])(stream)
        for block in self.model.blocks[1:-1]:
            tokens = block(tokens)
        return self.classify(tokens)


def embedded(model: Any, images: Tensor) -> Tensor:
    """Patches with class token and positions, [batch, tokens, dim]: what enters the first block."""
    patches = model.patch_embed(images)
    return torch.cat([model.cls_token.expand(len(patches), -1, -1), patches], dim=1) + model.pos_embed


def class_token_attention(attention: Any, tokens: Tensor) -> Tensor:
    """What attention adds to the class token, [batch, dim], of normalised tokens [batch, tokens, dim]."""
    batch, n, dim = tokens.shape
    heads = attention.num_heads
    weight, bias = attention.qkv.weight, attention.qkv.bias
    # [batch, heads, 1, head dim]
    query = F.linear(tokens[:, 0], weight[:dim], bias[:dim]).view(batch, heads, 1, -1)
    # [batch, heads, tokens, head dim] each
    key, value = F.linear(tokens, weight[dim:], bias[dim:]).view(batch, n, 2, heads, -1).permute(2, 0, 3, 1, 4)
    weights = (query * attention.scale @ key.transpose(-2, -1)).softmax(dim=-1)
    return attention.proj((weights @ value).reshape(batch, dim))


@torch.no_grad()
def first_block(model: Any, images: Tensor) -> Tensor:
    """What the first block computes of images whatever its adapter, [batch, 2, tokens, dim].

    The stream that enters its second half, and that stream with the MLP's output added.

    Args:
        model: with AdaptFormer modules.
        images: [batch, channels, h, w].
    """
    tokens = embedded(model, images)
    block = model.blocks[0]
    stream = tokens + block.attn(block.norm1(tokens))
    host = block.mlp
    assert isinstance(host, ParallelMlp)
    return torch.stack([stream, stream + host.mlp(host.norm(stream))], dim=1)


def adapter_of(block: Any) -> nn.Module:
    """The active AdaptFormer module of a block."""
    host = block.mlp
    assert isinstance(host, ParallelMlp)
    return host.current
