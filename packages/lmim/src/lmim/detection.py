"""Mask R-CNN, torchvision's, on a pre-trained encoder, and COCO's own scores of what it finds (section 8)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lmim.coco import Target
from lmim.features import SwinFeatures
from lmim.loading import MEAN, STD

Found = dict[str, Any]
"""An object as COCO's results have it: `image_id`, `category_id`, `bbox` as left, top, width, height, `score`,
`segmentation` as run lengths."""


class PyramidBackbone(nn.Module):
    """Four maps of an encoder as a feature pyramid, with a fifth, half as fine as the last.

    Args:
        features: the encoder.
        width: channels of all maps of the pyramid.
    """

    def __init__(self, features: SwinFeatures, width: int = 256) -> None:
        super().__init__()
        self.features, self.out_channels = features, width
        self.fpn = FeaturePyramidNetwork(list(features.channels), width, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[batch, 3, height, width] to maps [batch, width, rows, columns] by name, the finest first."""
        maps = self.features(images)
        return self.fpn(OrderedDict((str(level), each) for level, each in enumerate(maps)))


def make_detector(
    features: SwinFeatures, classes: int, *, short_sides: Sequence[int], long_side: int, width: int = 256
) -> MaskRCNN:
    """Mask R-CNN with new heads.

    In training the short side of an image is resized to one of `short_sides` by chance, in evaluation to the last.

    Args:
        features: the encoder.
        classes: of objects; label 0 is the background.
        short_sides: pixels.
        long_side: pixels, which an image keeps to.
        width: of the pyramid.
    """
    sizes: Any = tuple(short_sides)
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    return MaskRCNN(
        PyramidBackbone(features, width), classes + 1, min_size=sizes, max_size=long_side, image_mean=list(MEAN),
        image_std=list(STD), rpn_anchor_generator=anchors,
    )  # fmt: skip


class DetectionLoss(nn.Module):
    """The forward pass of a batch in training as a module, for what wraps modules.

    Args:
        model: see `make_detector`.
    """

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: list[Tensor], targets: list[Target]) -> Tensor:
        """Sum of the losses of proposals, boxes, classes and masks, a scalar."""
        losses: Any = self.model(images, targets)
        return torch.stack([each.float() for each in losses.values()]).sum()


def found_objects(output: Target, image_id: int, categories: np.ndarray, threshold: float = 0.5) -> list[Found]:
    """What a detector says of an image, for `average_precisions`.

    Args:
        output: of torchvision's detector for one image: `boxes`, `labels`, `scores` and `masks` [objects, 1, height,
            width].
        image_id: COCO's.
        categories: COCO's numbers; label k + 1 is the k-th.
        threshold: from which a mask counts.
    """
    from pycocotools import mask

    boxes, labels, scores = (output[name].cpu().double().numpy() for name in ("boxes", "labels", "scores"))
    masks = (output["masks"][:, 0] >= threshold).to(torch.uint8).cpu().numpy()
    found = []
    for box, label, score, shape in zip(boxes, labels, scores, masks, strict=True):
        outline = mask.encode(np.asfortranarray(shape))
        found.append({
            "image_id": image_id, "category_id": int(categories[int(label) - 1]), "score": float(score),
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "segmentation": {"size": outline["size"], "counts": outline["counts"].decode("ascii")},
        })  # fmt: skip
    return found


def average_precisions(annotations: Path, found: Sequence[Found], kind: str) -> Tensor:
    """Average precision of each category that occurs, over overlaps of 0.5 to 0.95 and all sizes, float64 [those].

    Their mean is COCO's AP.

    Args:
        annotations: the official file of the split.
        found: of all its images.
        kind: `bbox` or `segm`.
    """
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # which reports its progress there
        truth = COCO(str(annotations))
        if not found:
            occurring = {each["category_id"] for each in truth.anns.values() if not each.get("iscrowd")}
            return torch.zeros(len(occurring), dtype=torch.float64)
        evaluation = COCOeval(truth, truth.loadRes(list(found)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = torch.from_numpy(evaluation.eval["precision"])[:, :, :, 0, -1]  # all sizes, 100 objects an image
    counted = (precision > -1).flatten(0, 1).any(0)
    return precision[:, :, counted].mean(dim=(0, 1))
