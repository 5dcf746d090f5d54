"""Encoders for torchvision, timm, the Hugging Face hub's folder layout, and ONNX (section 11)."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from infocl.networks import Encoder
from infocl.preprocessing import statistics_of
from sextet.files import write_atomic


def torchvision_state(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's weights under torchvision's names, which are timm's, too; no `fc`.

    An `imagenet` stem fits `torchvision.models.resnet50()` after its `fc` is replaced by an identity. The small stems
    fit after `small_stem` as well.
    """
    return {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}


def small_stem(resnet: nn.Module, stride: int = 1) -> nn.Module:
    """Give a torchvision or timm ResNet, in place, the stem for small images: 3x3, stride 1 (CIFAR) or 2 (STL-10)."""
    resnet.conv1 = nn.Conv2d(3, 64, 3, stride, 1, bias=False)
    resnet.maxpool = nn.Identity()
    return resnet


def save_folder(encoder: Encoder, folder: Path, dataset: str, arch: str, size: int) -> None:
    """`model.safetensors` and `config.json` as timm's models lie on the Hugging Face hub.

    `timm.create_model("resnet50", num_classes=0)` loads the first; the second names architecture, image size and
    normalisation.

    Args:
        encoder: which.
        folder: made where absent.
        dataset: that it was pre-trained on, a key of `preprocessing.STATISTICS`.
        arch: such as `resnet50`.
        size: side of its images.

    Raises:
        ValueError: an unknown dataset.
    """
    mean, std = statistics_of(dataset)
    settings = {"input_size": [3, size, size], "mean": mean, "std": std, "num_classes": 0, "first_conv": "conv1"}
    config = {
        "architecture": arch,
        "num_classes": 0,
        "num_features": encoder.dim,
        "pretrained_cfg": {**settings, "interpolation": "bilinear", "crop_pct": 1.0, "fixed_input_size": False},
    }
    write_atomic(folder / "model.safetensors", safetensors.torch.save(torchvision_state(encoder)))
    write_atomic(folder / "config.json", json.dumps(config, indent=1).encode())


class Representation(nn.Module):
    """An encoder that gives the representation h [batch, dim] alone.

    Args:
        encoder: images -> pooled outputs of its stages.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """h of normalised images [batch, 3, h, w]."""
        return self.encoder(images)[-1]


def save_onnx(encoder: nn.Module, path: Path, size: int) -> None:
    """Write the encoder as ONNX: `images` float32 [batch, 3, size, size], normalised -> `h` [batch, dim].

    Needs the packages onnx and onnxscript. The number of images is free.
    """
    model = Representation(encoder).eval()
    device = next(encoder.parameters()).device
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, size, size, device=device),),
        path,
        input_names=["images"],
        output_names=["h"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
