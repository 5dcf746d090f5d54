"""The published views (6.1), batched on the device, with torchvision's distributions.

Random resized crop, horizontal flip, colour jitter in a random order, grey. All that is random about a view comes from
a row of numbers in [0, 1) that depends on (seed, epoch, view, index of the image) alone, on any device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ATTEMPTS = 10
"""How often torchvision tries to find a crop that fits, before it takes the middle."""

DRAWS = 2 * ATTEMPTS + 10
"""Numbers a view: area and ratio of each attempt; row, column, flip, whether to jitter, four strengths, order, grey."""

ORDERS = torch.tensor(list(itertools.permutations(range(4))))
"""In which order brightness (0), contrast (1), saturation (2) and hue (3) change; each is equally likely."""

_LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """What a view may look like; the defaults are the published ones for CIFAR.

    Attributes:
        size: side of the view in pixels.
        scale: smallest and largest share of the image's area in the crop.
        ratio: smallest and largest width / height of the crop.
        flip: probability of mirroring left to right.
        brightness, contrast, saturation: strengths; factors are uniform in [max(0, 1 - strength), 1 + strength].
        hue: largest shift, in turns of the colour wheel, 0..0.5.
        jitter: probability of changing colours at all.
        grey: probability of losing them.
    """

    size: int = 32
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter: float = 0.8
    grey: float = 0.2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: expected at least 1 pixel, got {self.size}")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}: expected 0 < smallest <= largest, got {low} and {high}")
        for name in ("flip", "jitter", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a probability, got {getattr(self, name)}")
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise ValueError("brightness, contrast, saturation: expected at least 0; hue: expected 0..0.5")


SUPERVISED = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
"""The published one of supervised pre-training on CIFAR: jitter at half strength."""


class Draws:
    """The random numbers of all views of a data set; those of one epoch and view are kept until another is asked for.

    Args:
        seed: at least 0.
        images: how many there are; an image's numbers do not depend on it.
        width: numbers an image.
    """

    def __init__(self, seed: int, images: int, width: int = DRAWS) -> None:
        if seed < 0 or images < 1 or width < 1:
            raise ValueError(f"expected seed >= 0, images >= 1, width >= 1, got {seed}, {images}, {width}")
        self.seed, self.images, self.width = seed, images, width
        self._epoch = -1
        self._tables: dict[int, Tensor] = {}

    def rows(self, epoch: int, view: int, rows: Tensor) -> Tensor:
        """Numbers in [0, 1) of some images, float32 [len(rows), width], on the CPU."""
        if epoch != self._epoch:
            self._epoch, self._tables = epoch, {}
        if view not in self._tables:
            words = np.random.Philox(key=self.seed, counter=[0, 1, view, epoch]).random_raw(self.images * self.width)
            table = (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
            self._tables[view] = torch.from_numpy(table).view(self.images, self.width)
        return self._tables[view][rows.cpu()]


def augment(images: Tensor | Sequence[Tensor], draws: Tensor, config: Augmentation) -> Tensor:
    """Views float32 [n, 3, size, size] in 0..1 of images as stored.

    Args:
        images: uint8 [n, h, w, 3]; or a list of uint8 [h, w, 3] where sizes differ.
        draws: [n, DRAWS] in [0, 1), on the CPU, of `Draws`.
        config: distributions.

    Raises:
        ValueError: images that are not uint8 RGB, or another number of rows in `draws`.
    """
    check_images(images)
    if draws.shape != (len(images), DRAWS):
        raise ValueError(f"draws: expected [{len(images)}, {DRAWS}], got {list(draws.shape)}")
    sizes = torch.tensor([list(image.shape[:2]) for image in images])
    boxes = crop_boxes(draws[:, : 2 * ATTEMPTS + 2], sizes, config.scale, config.ratio)
    mirrored, jittered, *strengths, order, grey = draws[:, 2 * ATTEMPTS + 2 :].unbind(1)
    mirrored = mirrored < config.flip
    if isinstance(images, Tensor):
        views = resized_crop(images, boxes, config.size, mirrored)
    else:
        parts = zip(images, boxes.split(1), mirrored.split(1), strict=True)
        views = torch.cat([resized_crop(image[None], box, config.size, flip) for image, box, flip in parts])
    rows = (jittered < config.jitter).nonzero()[:, 0]
    factors = jitter_factors(torch.stack(strengths, dim=1)[rows], config)
    orders = ORDERS[(order[rows] * len(ORDERS)).long()]
    chosen = rows.to(views.device)
    views[chosen] = jitter(views[chosen], factors, orders)
    rows = (grey < config.grey).nonzero()[:, 0].to(views.device)
    views[rows] = luma(views[rows]).expand(-1, 3, -1, -1)
    return views


def check_images(images: Tensor | Sequence[Tensor]) -> None:
    """Raise ValueError unless images are uint8 with three channels, the last dimension."""
    for image in (images,) if isinstance(images, Tensor) else images:
        if image.dtype != torch.uint8 or image.ndim != (4 if isinstance(images, Tensor) else 3) or image.shape[-1] != 3:
            raise ValueError(
                f"images: expected uint8 RGB, [n, h, w, 3] or a list of [h, w, 3], got {image.dtype} "
                f"{list(image.shape)}; convert grey or transparent images to RGB first"
            )


def crop_boxes(draws: Tensor, sizes: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Boxes (top, left, height, width), int64 [n, 4], as torchvision's RandomResizedCrop draws them.

    Args:
        draws: [n, 2 * ATTEMPTS + 2] in [0, 1): areas, ratios, row, column.
        sizes: [n, 2] heights and widths of the images.
        scale, ratio: see `Augmentation`.
    """
    height, width = sizes.double()[:, :1], sizes.double()[:, 1:]
    areas, ratios, corner = draws.double().split([ATTEMPTS, ATTEMPTS, 2], dim=1)
    # [n, ATTEMPTS] each
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * areas)
    ratios = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratios)
    heights, widths = (areas / ratios).sqrt().round(), (areas * ratios).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.double().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1, keepdim=True)
    # Where nothing fits: as much of the middle as the ratio allows
    whole = width / height
    middle_h = torch.where(whole < ratio[0], (width / ratio[0]).round(), height)
    middle_w = torch.where(whole > ratio[1], (height * ratio[1]).round(), width)
    h = torch.where(found, heights.gather(1, first), middle_h)
    w = torch.where(found, widths.gather(1, first), middle_w)
    top = torch.where(found, (corner[:, :1] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(found, (corner[:, 1:] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return torch.cat([top, left, h, w], dim=1).long()


def resized_crop(images: Tensor, boxes: Tensor, size: int, mirrored: Tensor) -> Tensor:
    """Boxes of images as float32 [n, 3, size, size] in 0..1, bilinear and antialiased as PIL does it.

    Args:
        images: uint8 [n, h, w, 3].
        boxes: [n, 4] of `crop_boxes`.
        size: side of the output.
        mirrored: [n] bool, which ones to flip left to right.
    """
    boxes, mirrored = boxes.to(images.device), mirrored.to(images.device)
    rows = resampling(boxes[:, 0], boxes[:, 2], images.shape[1], size)
    columns = resampling(boxes[:, 1], boxes[:, 3], images.shape[2], size)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    # [n, 1, size, h] @ [n, 3, h, w] @ [n, 1, w, size]
    return rows[:, None] @ pixels @ columns[:, None].transpose(2, 3)


def resampling(start: Tensor, length: Tensor, total: int, size: int) -> Tensor:
    """Weights [n, size, total] of a triangle filter that takes pixels start .. start + length - 1 to `size` pixels."""
    scale = length.float()[:, None, None] / size
    support = scale.clamp(min=1)
    target = torch.arange(size, device=start.device)[None, :, None] + 0.5
    centre = start[:, None, None] + target * scale
    source = torch.arange(total, device=start.device)[None, None, :]
    weights = (1 - (source + 0.5 - centre).abs() / support).clamp(min=0)
    inside = (source >= start[:, None, None]) & (source < (start + length)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(dim=2, keepdim=True)


def jitter_factors(draws: Tensor, config: Augmentation) -> Tensor:
    """Factors of brightness, contrast and saturation, and the shift of hue, [n, 4], of draws [n, 4]."""
    strength = torch.tensor([config.brightness, config.contrast, config.saturation])
    low = torch.cat([(1 - strength).clamp(min=0), torch.tensor([-config.hue])])
    high = torch.cat([1 + strength, torch.tensor([config.hue])])
    return low + (high - low) * draws


def jitter(images: Tensor, factors: Tensor, orders: Tensor) -> Tensor:
    """Images [n, 3, h, w] in 0..1 with brightness, contrast, saturation and hue changed, each in an order of its own.

    Args:
        images: float.
        factors: [n, 4] of `jitter_factors`, on the CPU.
        orders: [n, 4] which change comes first, second, ...; on the CPU, so that a GPU need not be waited for.
    """
    images, strengths = images.clone(), factors.to(images)
    for kinds in orders.unbind(1):
        for kind, adjust in enumerate(ADJUSTMENTS):
            rows = (kinds == kind).nonzero()[:, 0].to(images.device)
            if len(rows):
                images[rows] = adjust(images[rows], strengths[rows, kind, None, None, None])
    return images


def luma(images: Tensor) -> Tensor:
    """Grey values [n, 1, h, w] of [n, 3, h, w]."""
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return (factor * images).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the image's grey values."""
    mean = luma(images).mean(dim=(1, 2, 3), keepdim=True)
    return (factor * images + (1 - factor) * mean).clamp(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    return (factor * images + (1 - factor) * luma(images)).clamp(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the colour wheel by `shift` of a turn, through hue, saturation and value."""
    value, brightest = images.max(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    safe = chroma.where(chroma > 0, 1.0)
    # In sixths of a turn: 0 red, 2 green, 4 blue
    sixths = torch.cat([(green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4], dim=1)
    sixths = sixths.gather(1, brightest) + 6 * shift
    distance = (torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None] + sixths).remainder(6)
    return value - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1)


ADJUSTMENTS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue,
)  # fmt: skip


class Views:
    """Augmented, normalised views of a data set held in memory; what the trainer asks for.

    Args:
        images: uint8 [n, h, w, 3], on the CPU or the device; or a list of uint8 [h, w, 3].
        augmentation: of each view.
        seed: of the augmentation.
        count: views an image, 2; 1 for supervised training.
        labels: [n] int64, for supervised training.
        mean, std: of the channels, on the scale 0..1.
        device: where views are made; that of the images by default.
    """

    def __init__(
        self,
        images: Tensor | Sequence[Tensor],
        augmentation: Augmentation,
        *,
        seed: int,
        count: int = 2,
        labels: Tensor | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        device: torch.device | None = None,
    ) -> None:
        check_images(images)
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"labels: expected {len(images)}, one an image, got {len(labels)}")
        self.images, self.augmentation, self.count, self.labels = images, augmentation, count, labels
        self.device = device or (images.device if isinstance(images, Tensor) else torch.device("cpu"))
        self.draws = Draws(seed, len(images))
        self.mean, self.std = (torch.tensor(value, device=self.device)[:, None, None] for value in (mean, std))

    def __len__(self) -> int:
        return len(self.images)

    def views(self, rows: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """`count` views float32 [len(rows), 3, size, size] of the images `rows` in an epoch."""
        if isinstance(self.images, Tensor):
            images = self.images[rows.to(self.images.device)].to(self.device)
        else:
            images = [self.images[int(row)].to(self.device) for row in rows]
        drawn = (self.draws.rows(epoch, view, rows) for view in range(self.count))
        return tuple((augment(images, each, self.augmentation) - self.mean) / self.std for each in drawn)
