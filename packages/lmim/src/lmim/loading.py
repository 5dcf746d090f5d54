"""Batches of photographs, decoded ahead by worker processes; everything random depends on seed, batch and image alone.

Pre-training: random resized crops and flips (section 6). Fine-tuning: timm's RandAugment and random erasing besides
(section 7). Evaluation: the short side resized, the centre.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms as T
from torchvision.transforms.functional import InterpolationMode

from lmim.augmentation import EpochOrder
from lmim.config import FineTuningConfig
from lmim.image_index import ImageIndex
from sextet.cuda import seed_everything

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL.Image import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Transform = Callable[["Image"], Tensor]
_BICUBIC = InterpolationMode.BICUBIC


def pretraining_transform(size: int, scale: tuple[float, float] = (0.2, 1.0)) -> Transform:
    """RandomResizedCrop, bicubic, and a flip: an image -> uint8 [3, size, size]."""
    return T.Compose([
        T.RandomResizedCrop(size, scale, (3 / 4, 4 / 3), interpolation=_BICUBIC), T.RandomHorizontalFlip(),
        T.PILToTensor(),
    ])  # fmt: skip


def fine_tuning_transform(size: int, config: FineTuningConfig) -> Transform:
    """The same with RandAugment and random erasing: an image -> float32 [3, size, size], normalised."""
    from timm.data.transforms_factory import create_transform

    no_jitter: Any = None
    transform: Any = create_transform(
        size, is_training=True, color_jitter=no_jitter, auto_augment=config.rand_augment or None,
        interpolation="bicubic", scale=config.crop_scale, re_prob=config.erasing, re_mode="pixel", re_count=1,
        mean=MEAN, std=STD,
    )  # fmt: skip
    return transform


def evaluation_transform(size: int) -> Transform:
    """The short side resized to 256 / 224 of `size`, bicubic, the centre: an image -> uint8 [3, size, size]."""
    return T.Compose([T.Resize(size * 256 // 224, _BICUBIC), T.CenterCrop(size), T.PILToTensor()])


def normalised(images: Tensor) -> Tensor:
    """uint8 [batch, 3, height, width] to float32 with ImageNet's mean and deviation; floats are left as they are."""
    if images.is_floating_point():
        return images
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


@dataclass(frozen=True)
class Share:
    """What part of a run's batches a process makes (see `lmim.pretraining.pretrain` for the numbers).

    Attributes:
        images: of the set.
        batch: images a step, over all processes and micro-batches.
        parts: micro-batches a step, over all processes.
        processes: how many; this one asks for every `processes`-th number.

    Raises:
        ValueError: parts that do not divide the batch.
    """

    images: int
    batch: int
    parts: int
    processes: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.parts or self.parts % self.processes:
            raise ValueError(
                f"batch: {self.batch} images do not fall into {self.parts} equal micro-batches of {self.processes} "
                "processes"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the set; the rest is left out, another one each epoch."""
        return self.images // self.batch


class Addressed(Protocol):
    """A set whose items are addressed by (number of the batch, row); `seed` orders it."""

    seed: int

    def __len__(self) -> int: ...

    def __getitem__(self, item: tuple[int, int], /) -> tuple[Tensor, Any]: ...


class Augmented(Dataset[tuple[Tensor, int]]):
    """Images addressed by (number of the batch, row); an image's random transform depends on the seed and both."""

    def __init__(self, index: ImageIndex, transform: Transform, seed: int) -> None:
        self.index, self.transform, self.seed = index, transform, seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        seed_everything(int(np.random.SeedSequence([self.seed, *item]).generate_state(1)[0]))
        return self.transform(self.index.open(item[1])), int(self.index.labels[item[1]])


class Stream:
    """(images, labels) of a micro-batch by its number, the next ones being decoded meanwhile.

    Asked for the numbers in their order, it goes on; asked for another one, it starts again from there.

    Args:
        dataset: what is loaded.
        share: how numbers become rows.
        device: where the batches go.
        workers: processes that decode; 0 for none.
    """

    collate: Callable[[list[Any]], Any] | None = None
    """How items become a micro-batch; stacked by default."""

    def __init__(self, dataset: Addressed, share: Share, device: torch.device, workers: int = 0) -> None:
        self.dataset, self.share, self.device, self.workers = dataset, share, device, workers
        self.order = EpochOrder(share.images, share.batch, dataset.seed)
        self._next, self._batches = -1, iter(())

    def __call__(self, number: int) -> Any:
        """Images [micro-batch, 3, size, size], normalised, and labels [micro-batch], on the device."""
        if number != self._next:
            self._batches = iter(self.batches(number))
        batch = next(self._batches)
        self._next = number + self.share.processes
        return self.moved(batch)

    def batches(self, first: int) -> DataLoader[Any]:
        """The process's micro-batches from number `first` on."""
        dataset: Any = self.dataset
        return DataLoader(
            dataset, batch_sampler=Numbered(self, first), num_workers=self.workers, collate_fn=self.collate,
            pin_memory=self.device.type == "cuda",
        )  # fmt: skip

    def moved(self, batch: Any) -> Any:
        """A micro-batch on the device, its images normalised."""
        images, labels = batch
        return normalised(images.to(self.device, non_blocking=True)), labels.to(self.device, non_blocking=True)

    def images(self, number: int) -> Tensor:
        """The images alone, for pre-training."""
        return self(number)[0]

    def rows(self, number: int) -> list[int]:
        """The rows of a micro-batch."""
        step, part = divmod(number, self.share.parts)
        return self.order(step).chunk(self.share.parts)[part].tolist()


class Numbered(Sampler[list[tuple[int, int]]]):
    """(number, row) of each image of a batch, for a process's batches from number `first` on, endlessly."""

    def __init__(self, stream: Stream, first: int) -> None:
        self.stream, self.first = stream, first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in itertools.count(self.first, self.stream.share.processes):
            yield [(number, row) for row in self.stream.rows(number)]


class Plain(Dataset[tuple[Tensor, int]]):
    """Images by row, transformed without chance; with the row instead of the label."""

    def __init__(self, index: ImageIndex, transform: Transform) -> None:
        self.index, self.transform = index, transform

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.index.open(row)), row


@torch.no_grad()
def right_answers(
    model: nn.Module,
    index: ImageIndex,
    transform: Transform,
    device: torch.device,
    *,
    batch: int = 256,
    workers: int = 0,
    accelerator: Accelerator | None = None,
) -> np.ndarray:
    """Whether the model's first answer is right, bool [n], one for each image in its order, the same in all processes.

    Args:
        model: images -> logits [batch, classes], in evaluation mode.
        index, transform: the images.
        device: where to compute.
        batch: images at once.
        workers: processes that decode.
        accelerator: for several processes, which share the images.
    """
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine = range(rank, len(index), processes)
    loader = DataLoader(Plain(index, transform), batch, sampler=mine, num_workers=workers)
    answers = [(rows, model(normalised(images.to(device))).argmax(dim=1).cpu()) for images, rows in loader]
    pairs = [(torch.cat(parts).tolist() if parts else []) for parts in zip(*answers, strict=True)] or [[], []]
    if accelerator is not None:
        from accelerate.utils import gather_object

        gathered = gather_object([pairs])
        pairs = [list(itertools.chain.from_iterable(each[part] for each in gathered)) for part in range(2)]
    found = np.empty(len(index), np.int64)
    found[pairs[0]] = pairs[1]
    return found == np.asarray(index.labels)
