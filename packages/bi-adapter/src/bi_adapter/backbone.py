"""The frozen backbone: ViT-B/16 of the original ImageNet-21k training, and no other weights of the same shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from sextet.checkpoint import load_foreign
from sextet.data import Arrays, DataError, DataMissing, Passport, SourceUnavailable, load

TIMM_NAME = "vit_base_patch16_224.orig_in21k"


@dataclass(frozen=True)
class Architecture:
    """Shape of a vision transformer without head; ViT-B/16 at 224x224 by default.

    Attributes:
        image_size, patch_size: in pixels.
        in_chans: channels of the image.
        dim, depth, heads: width, blocks, attention heads.
    """

    image_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "in_chans", "dim", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size: expected a divisor of {self.image_size} pixels, got {self.patch_size}")
        if self.dim % self.heads:
            raise ValueError(f"heads: expected a divisor of the width {self.dim}, got {self.heads}")


def make_backbone(architecture: Architecture, drop_path: float = 0.0) -> Any:
    """A timm `VisionTransformer` without head, fresh weights; output [batch, dim] is the class token after LayerNorm.

    Args:
        architecture: its shape.
        drop_path: rate of the last block while training; rises linearly from 0 at the first.
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=architecture.image_size,
        patch_size=architecture.patch_size,
        in_chans=architecture.in_chans,
        num_classes=0,
        embed_dim=architecture.dim,
        depth=architecture.depth,
        num_heads=architecture.heads,
        drop_path_rate=drop_path,
    )


def read_backbone(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    """Weights under timm's names, float32, of a file that holds the original ones.

    Args:
        path: Google's `.npz`, or `.safetensors`, `.pth` or `.bin` with timm's names.
        architecture: what they must fit.

    Raises:
        DataMissing: the file holds other tensors than such a backbone's.
        DataError: it is damaged, or of the later AugReg training, which gives other results.
    """
    try:
        weights = load_foreign(path)
    except ValueError as error:
        raise DataError(str(error)) from error
    expected = make_backbone(architecture).state_dict()
    if path.suffix == ".npz":
        if "embedding/kernel" not in weights:
            raise DataMissing(f"{path} holds no vision transformer")
        if "pre_logits/kernel" not in weights:
            raise DataError(f"{path}: these look like AugReg weights (no pre_logits); {_WANTED}")
        try:
            weights = from_google(weights, architecture)
        except (KeyError, RuntimeError, IndexError) as error:
            raise DataError(f"{path} does not fit {architecture} ({type(error).__name__}: {error})") from error
    head = weights.get("head.weight")
    if head is not None and bool(head.count_nonzero()):
        raise DataError(f"{path}: these look like AugReg or fine-tuned weights (they have a head); {_WANTED}")
    if not expected.keys() <= weights.keys():
        raise DataMissing(f"{path} holds no vision transformer with timm's names")
    wrong = [name for name, value in expected.items() if weights[name].shape != value.shape]
    if wrong:
        raise DataError(f"{path}: {wrong[0]} has shape {list(weights[wrong[0]].shape)}, not that of {architecture}")
    chosen = {name: weights[name].float() for name in expected}
    if not all(bool(value.isfinite().all()) for value in chosen.values()):
        raise DataError(f"{path} holds numbers that are not finite")
    return chosen


def from_google(weights: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """The tensors of Google's `.npz` under timm's names; its representation layer and empty head are left out.

    Raises:
        KeyError, RuntimeError, IndexError: tensors are missing or of other shapes.
    """
    dim = architecture.dim
    state = {
        "cls_token": weights["cls"],
        "pos_embed": weights["Transformer/posembed_input/pos_embedding"],
        "patch_embed.proj.weight": weights["embedding/kernel"].permute(3, 2, 0, 1),
        "patch_embed.proj.bias": weights["embedding/bias"],
        "norm.weight": weights["Transformer/encoder_norm/scale"],
        "norm.bias": weights["Transformer/encoder_norm/bias"],
    }
    for i in range(architecture.depth):
        theirs, ours = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        parts = ("query", "key", "value")
        # kernels [dim, heads, head dim] -> rows [q; k; v]
        kernels = [weights[f"{attention}/{part}/kernel"].reshape(dim, dim).T for part in parts]
        state[f"{ours}.attn.qkv.weight"] = torch.cat(kernels)
        state[f"{ours}.attn.qkv.bias"] = torch.cat([weights[f"{attention}/{part}/bias"].reshape(dim) for part in parts])
        state[f"{ours}.attn.proj.weight"] = weights[f"{attention}/out/kernel"].reshape(dim, dim).T
        state[f"{ours}.attn.proj.bias"] = weights[f"{attention}/out/bias"]
        for number in (1, 2):
            dense, norm = f"{theirs}/MlpBlock_3/Dense_{number - 1}", f"{theirs}/LayerNorm_{2 * number - 2}"
            state[f"{ours}.mlp.fc{number}.weight"] = weights[f"{dense}/kernel"].T
            state[f"{ours}.mlp.fc{number}.bias"] = weights[f"{dense}/bias"]
            state[f"{ours}.norm{number}.weight"] = weights[f"{norm}/scale"]
            state[f"{ours}.norm{number}.bias"] = weights[f"{norm}/bias"]
    return {name: value.contiguous() for name, value in state.items()}


_WANTED = f"wanted: the original ViT-B_16.npz of imagenet21k, or timm's {TIMM_NAME}"


def decode_backbone(folder: Path, architecture: Architecture = Architecture()) -> Arrays:
    """`weights` float32 [parameters]: all weights one after another, in the order of timm's names.

    The same whichever file they came from, so the content hash says which weights these are.

    Raises:
        DataMissing: no file in `folder` holds such a backbone.
        DataError: what is there is damaged or other weights of the same shape.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".safetensors", ".pth", ".bin"))
    failure: DataError | None = None
    for path in files:
        try:
            weights = read_backbone(path, architecture)
        except DataMissing:
            continue
        except DataError as error:
            failure = failure or error
            continue
        return {"weights": np.concatenate([weights[name].numpy().reshape(-1) for name in sorted(weights)])}
    raise failure or DataMissing(f"{folder} holds no weights of a vision transformer")


def load_backbone(arrays: Mapping[str, np.ndarray], architecture: Architecture, drop_path: float = 0.0) -> Any:
    """A backbone with the weights that `decode_backbone` returned.

    Raises:
        DataError: their number does not fit the architecture.
    """
    model = make_backbone(architecture, drop_path)
    state = model.state_dict()
    total = sum(value.numel() for value in state.values())
    weights = torch.from_numpy(np.array(arrays["weights"]))
    if len(weights) != total:
        raise DataError(f"{len(weights)} weights do not fit {architecture}, which has {total}")
    parts = weights.split([state[name].numel() for name in sorted(state)])
    model.load_state_dict({name: part.view_as(state[name]) for name, part in zip(sorted(state), parts, strict=True)})
    return model


@dataclass(frozen=True)
class TimmHub:
    """The weights by way of timm, which gets them from its hub."""

    name: str = TIMM_NAME

    def describe(self) -> str:
        """The model's name there."""
        return f"timm's hub, {self.name}"

    def fetch(self, into: Path) -> dict[str, str]:
        """Download and write them into the folder `into`."""
        import timm

        try:
            model = timm.create_model(self.name, pretrained=True, num_classes=0)
        except Exception as error:  # a hub that cannot be reached fails in many ways
            raise SourceUnavailable(f"timm cannot get {self.name} ({type(error).__name__}: {error})") from error
        safetensors.torch.save_file(model.state_dict(), into / "model.safetensors")
        return {"timm": timm.__version__}


def backbone_passport(architecture: Architecture = Architecture()) -> Passport:
    """The passport of the original ImageNet-21k weights, `vit-b16-orig-in21k`; of another shape for tests."""
    standard = architecture == Architecture()
    return Passport(
        name="vit-b16-orig-in21k" if standard else f"vit-{'-'.join(str(v) for v in asdict(architecture).values())}",
        title="ViT-B/16, supervised on ImageNet-21k: the original weights, not AugReg",
        homepage="https://github.com/google-research/vision_transformer",
        licence="Apache-2.0",
        size="393 MB",
        sources=(TimmHub(),) if standard else (),
        decode=partial(decode_backbone, architecture=architecture),
        content_sha256=None,  # no copy was at hand to hash; what AugReg's files lack or have is checked
        instructions=(
            "Get https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz, or model.safetensors of "
            f"timm/{TIMM_NAME}, into a folder. Beware of vit_base_patch16_224_in21k: today that name means AugReg."
        ),
        counts={"weights": 85_798_656} if standard else {},
    )


def load_frozen(architecture: Architecture, drop_path: float, data_root: Path | None) -> Any:
    """The backbone of the data store, which is fetched where it can be.

    Raises:
        DataMissing: it is not here and cannot be fetched; says what to get.
    """
    return load_backbone(load(backbone_passport(architecture), data_root), architecture, drop_path)
