"""Backbones for dense heads: four maps, 4, 8, 16 and 32 pixels a cell (section 8).

Both have `channels`, of their maps, and return a list of four maps, as segmentation and detection frameworks expect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn

from lmim.blocks import Block, PatchEmbed
from lmim.config import MimConfig
from lmim.conversion import GeometryError
from lmim.positions import interpolate_positions, position_table
from lmim.swin import SparseSwin
from lmim.vit import default_taps

STRIDES = (4, 8, 16, 32)


class RelativeAttention(nn.Module):
    """Self-attention of a class token and a grid with a learned bias by relative position, zero at first.

    Args:
        dim, heads: of the tokens.
        grid: tokens a side.
    """

    bias_index: Tensor

    def __init__(self, dim: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        # The last three: class token to patches, patches to class token, class token to itself
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, heads))
        self.register_buffer("bias_index", relative_index(grid), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1 + grid^2, dim] to the same shape."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.bias_index].permute(2, 0, 1).to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        return self.proj(out.transpose(1, 2).flatten(2))


def relative_index(grid: int) -> Tensor:
    """Entries of the table for each pair of tokens, class token first, int64 [1 + grid^2, 1 + grid^2]."""
    at = torch.cartesian_prod(torch.arange(grid), torch.arange(grid))
    step = at[:, None] - at[None] + grid - 1
    index = F.pad(step[..., 0] * (2 * grid - 1) + step[..., 1], (1, 0, 1, 0))
    last = (2 * grid - 1) ** 2
    index[0], index[:, 0], index[0, 0] = last, last + 1, last + 2
    return index


class DenseBlock(nn.Module):
    """A transformer block with relative positions and layer scale.

    Args:
        dim, heads, grid: see `RelativeAttention`.
        drop_path: share of images that skip a branch in training.
        layer_scale: what the learned scales of both branches start at.
    """

    def __init__(self, dim: int, heads: int, grid: int, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        plain = Block(dim, heads)
        self.norm1, self.norm2, self.mlp = plain.norm1, plain.norm2, plain.mlp
        self.attn, self.drop_path = RelativeAttention(dim, heads, grid), DropPath(drop_path)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((dim,), layer_scale)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1 + grid^2, dim] to the same shape."""
        x = x + self.drop_path(self.gamma_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))


class VitFeatures(nn.Module):
    """A ViT, its taps brought to four resolutions by small learned maps.

    The tokens of the taps of pre-training, as they are; two transposed convolutions make the first map four times as
    fine as tokens, one the second twice as fine, the third is left alone, pooling halves the last.

    Args:
        image, patch, dim, depth, heads: of the backbone; images have exactly `image` pixels a side.
        taps: 0-based blocks; those of pre-training by default.
        drop_path: rate of the last block; it rises linearly from 0 at the first.
        layer_scale: see `DenseBlock`.

    Raises:
        ValueError: a patch that does not divide the image, or other than four taps.
    """

    def __init__(
        self,
        image: int = 512,
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        *,
        taps: Sequence[int] = (),
        drop_path: float = 0.1,
        layer_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.taps = tuple(taps) or default_taps(depth)
        if image % patch or len(self.taps) != 4:
            raise ValueError(f"image: expected whole patches and four taps, got {image}, {patch}, {self.taps}")
        self.image, self.grid, self.depth, self.channels = image, image // patch, depth, (dim,) * 4
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.patch_embed = PatchEmbed(patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(position_table(dim, self.grid, class_token=True).float()[None])
        self.blocks = nn.ModuleList(DenseBlock(dim, heads, self.grid, rate, layer_scale) for rate in rates)
        up = [nn.ConvTranspose2d(dim, dim, 2, 2) for _ in range(3)]
        self.pyramid = nn.ModuleList([
            nn.Sequential(up[0], nn.BatchNorm2d(dim), nn.GELU(), up[1]), nn.Sequential(up[2]), nn.Identity(),
            nn.AvgPool2d(2),
        ])  # fmt: skip

    def forward(self, images: Tensor) -> list[Tensor]:
        """[batch, 3, image, image] to four maps [batch, dim, rows, columns].

        Raises:
            ValueError: images of another size.
        """
        if images.shape[-2:] != (self.image, self.image):
            raise ValueError(f"images: expected {self.image} x {self.image} pixels, got {list(images.shape[-2:])}")
        tokens = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        maps = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            if number in self.taps:
                grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
                maps.append(self.pyramid[len(maps)](grid))
        return maps


class SwinFeatures(SparseSwin):
    """A dense Swin: the tokens of each stage, normalised, before they are merged.

    Args:
        patch, dim, depths, heads, window, image, drop_path: see `SparseSwin`; images of any size may be given.
    """

    def __init__(
        self,
        patch: int = 4,
        dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: int = 7,
        *,
        image: int | None = None,
        drop_path: float = 0.3,
    ) -> None:
        super().__init__(
            patch, dim, depths, heads, window, taps=False, second_eps=1e-5, image=image, drop_path=drop_path
        )
        self.channels = tuple(dim * 2**stage for stage in range(len(depths)))
        self.norm = nn.ModuleList(nn.LayerNorm(width) for width in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[batch, 3, height, width] to maps [batch, channels, rows, columns].

        Images that units do not divide are filled up with zeros below and on the right, maps cut to what they cover.
        """
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.unit, 0, -height % self.unit))
        rows, columns = self.units_of(*images.shape[-2:])
        maps = []
        assert isinstance(self.norm, nn.ModuleList)
        for stage, (tokens, _) in enumerate(self.stages(images, torch.arange(rows * columns), (rows, columns))):
            side = self.sides[stage]
            whole = raster(self.norm[stage](tokens), side, rows, columns)
            stride = self.unit // side
            maps.append(whole[:, :, : -(-height // stride), : -(-width // stride)])
        return maps


def raster(tokens: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """Tokens of all units, [batch, units side^2, dim] unit by unit, as a map [batch, dim, rows side, columns side]."""
    parts = tokens.unflatten(1, (rows, columns, side, side))
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def make_features(config: MimConfig, image: int, drop_path: float) -> VitFeatures | SwinFeatures:
    """The dense backbone of a pre-training model's encoder, with weights of its own.

    Args:
        config: of the pre-training model.
        image: pixels a side that it will be given (a ViT's exactly).
        drop_path: rate of the last block.
    """
    if config.backbone == "vit":
        return VitFeatures(
            image, config.patch, config.dim, config.depth, config.heads[0], taps=config.taps, drop_path=drop_path
        )  # fmt: skip
    return SwinFeatures(
        config.patch, config.dim, config.depths, config.heads, config.window, image=config.image, drop_path=drop_path
    )  # fmt: skip


def start_features(backbone: VitFeatures | SwinFeatures, state: Mapping[str, Tensor]) -> None:
    """Put pre-trained weights into a backbone, in place; positions of a ViT are interpolated, the rest stays new.

    Args:
        backbone: see `make_features`.
        state: of `conversion.encoder_state`.

    Raises:
        GeometryError: an encoder of other sizes, or another kind.
    """
    state = dict(state)
    if isinstance(backbone, VitFeatures) and "pos_embed" in state:
        state["pos_embed"] = interpolate_positions(state["pos_embed"], backbone.grid)
    own = backbone.state_dict()
    new = ("norm.", "pyramid.")
    wanted = {
        name
        for name in own
        if not name.startswith(new) and "gamma_" not in name
        and not (isinstance(backbone, VitFeatures) and "relative_position" in name)
    }  # fmt: skip
    differing = sorted(wanted ^ set(state)) or [name for name in sorted(wanted) if own[name].shape != state[name].shape]
    if differing:
        raise GeometryError(f"encoder: expected the weights of this backbone, differing: {differing[:4]}")
    backbone.load_state_dict(state, strict=False)
