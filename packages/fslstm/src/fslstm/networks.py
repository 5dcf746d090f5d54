"""The embedding networks and base learners as the published runs configure them (sections 4 and 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from fslstm.backbones import Backbone, Conv4, ResNet12
from fslstm.modules import LSSVM, CrammerSingerSVM, Head, Prototype, Ridge
from fslstm.transduction import InverseAttention

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISATION: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "conv4": IMAGENET,
    "resnet12": (
        (129.37731888 / 255, 124.10583864 / 255, 112.47758569 / 255),
        (68.20947949 / 255, 65.43124043 / 255, 70.45866994 / 255),
    ),
}
"""Mean and standard deviation of the channels; they go with the network, not with the data."""

CONV4_WIDTHS, RESNET12_WIDTHS = (128, 192, 256, 512), (64, 160, 320, 640)


def make_backbone(
    name: str, image_size: int, widths: Sequence[int] = (), *, drop_block: float = 0.0, pretraining: bool = False
) -> Backbone:
    """A `conv4` or `resnet12` with fresh weights.

    Args:
        name: which.
        image_size: side of the images.
        widths: of the four stages; empty for the published ones.
        drop_block: DropBlock's final rate in ResNet12.
        pretraining: without ResNet12's dropout, as in pre-training.

    Raises:
        ValueError: another name.
    """
    if name == "conv4":
        return Conv4(3, widths or CONV4_WIDTHS, image_size)
    if name == "resnet12":
        dropout, rate = (0.0, 0.0) if pretraining else (0.1, drop_block)
        return ResNet12(3, widths or RESNET12_WIDTHS, image_size, dropout=dropout, drop_block=rate)
    raise ValueError(f"backbone: expected conv4 or resnet12, got {name!r}")


def make_base_learner(name: str, ridge: float, cost: float, code: str = "ova") -> Head:
    """A base learner by name; its checks of values are off, since they wait for the device.

    Args:
        name: `prototype`, `ridge`, `svm` or `ls_svm`.
        ridge: regulariser of `ridge` and `ls_svm`.
        cost: C of `svm`.
        code: output code of `ls_svm`.

    Raises:
        ValueError: another name.
    """
    heads: dict[str, Head] = {
        "prototype": Prototype(validate=False),
        "ridge": Ridge(ridge, validate=False),
        "svm": CrammerSingerSVM(cost, validate=False),
        "ls_svm": LSSVM(ridge, code=code, validate=False),
    }
    if name not in heads:
        raise ValueError(f"head: expected one of {', '.join(heads)}, got {name!r}")
    return heads[name]


def load_matching(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy all tensors whose name and shape the network has.

    Raises:
        ValueError: none of them fits.
    """
    own = network.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise ValueError("none of the pre-trained tensors fits the embedding; they are of another network")
    network.load_state_dict({**own, **fitting})


def load_attention(folder: Path, dim: int, reduction: int) -> nn.Module:
    """The Inverse Attention Module of a learning stage."""
    attention = InverseAttention(dim, reduction)
    attention.load_state_dict(safetensors.torch.load_file(folder / "attention.safetensors"))
    return attention
