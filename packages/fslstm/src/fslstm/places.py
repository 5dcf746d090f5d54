"""Pre-training on Places365-Standard (sections 9.3 and 9.5): 1.8 million photographs that stay files in folders.

The dataset's passport stores an index (file names and labels), not pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fslstm.backbones import Backbone, PretrainingClassifier
from fslstm.networks import IMAGENET, make_backbone
from fslstm.selection import Selection
from sextet.cuda import select_device
from sextet.data import Arrays, DataError, DataMissing, Passport, load
from sextet.data.errors import naming_image
from sextet.recipe import RunContext
from sextet.training import Training

if TYPE_CHECKING:
    from PIL.Image import Image

N_CLASSES = 365


def decode_places(folder: Path, n_classes: int = N_CLASSES) -> Arrays:
    """Index of the class folders in `folder/train` and `folder/val`.

    `train_files`, `val_files` bytes `[n]` as `class/name.jpg`, `train_labels`, `val_labels` int64 `[n]` in the
    alphabetical order of the classes, `classes` bytes `[365]`, and `folder` text `[1]`, where the photographs stay.

    Raises:
        DataMissing: there are no folders `train` and `val`.
        DataError: not the same 365 classes in both, or a class without photographs.
    """
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise DataMissing(f"{folder} has no folders train and val")
    arrays: Arrays = {"folder": np.array([str(folder.resolve())])}
    try:
        classes = sorted(entry.name for entry in os.scandir(folder / "train") if entry.is_dir())
        if len(classes) != n_classes:
            raise DataError(f"{folder}/train has {len(classes)} class folders instead of {n_classes}")
        for split in ("train", "val"):
            files = [_photographs(folder / split / name) for name in classes]
            arrays[f"{split}_files"] = np.array([file.encode("ascii") for part in files for file in part])
            arrays[f"{split}_labels"] = np.arange(n_classes).repeat([len(part) for part in files])
        arrays["classes"] = np.array([name.encode("ascii") for name in classes])
    except (OSError, UnicodeEncodeError) as error:
        raise DataError(f"{folder} is not read ({error})") from error
    return arrays


def _photographs(folder: Path) -> list[str]:
    """The JPEG files of one class as `class/name.jpg`, sorted."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith((".jpg", ".jpeg")))
    if not names:
        raise DataError(f"{folder} has no JPEG files")
    return [f"{folder.name}/{name}" for name in names]


PLACES365 = Passport(
    name="places365",
    title="Places365-Standard: 1.8 million photographs of 365 scenes",
    homepage="http://places2.csail.mit.edu",
    licence="terms at the homepage; research use",
    size="24 GB",
    sources=(),
    decode=decode_places,
    # An index of files has no pixels to hash; the counts identify the set
    content_sha256=None,
    instructions=(
        "Get places365standard_easyformat.tar and unpack it; give the folder that holds train and val. The photographs "
        "stay there: do not give the archive, and keep the folder."
    ),
    counts={"train_labels": 1_803_460, "val_labels": 36_500, "classes": N_CLASSES},
)


@dataclass(frozen=True)
class PlacesConfig:
    """The published recipe of pre-training.

    Attributes:
        epochs, batch_size: length of the run.
        steps_per_epoch: 0 for all photographs.
        lr, momentum, weight_decay: of stochastic gradient descent, without Nesterov.
        drop_every: epochs after which the learning rate is divided by 10, again and again.
        seed: of this run, whose result all seeds of a table share, as in the paper.
        workers: processes that decode photographs.
    """

    epochs: int = 90
    batch_size: int = 256
    steps_per_epoch: int = 0
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    drop_every: int = 30
    seed: int = 0
    workers: int = 16


def pretrain_on_places(
    backbone: Backbone, arrays: Arrays, config: PlacesConfig, folder: Path, *, device: torch.device
) -> Selection:
    """Train `backbone` in place as a classifier of the scenes; it ends with the weights of the best epoch.

    Args:
        backbone: without dropout.
        arrays: the index, as `decode_places` makes it.
        config: the recipe.
        folder: checkpoints and log; a run that is called again there continues.
        device: where to compute.
    """
    torch.manual_seed(config.seed)
    network = PretrainingClassifier(backbone, len(arrays["classes"])).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    train = Photographs(arrays, "train", backbone.image_size, config.seed)
    val = Photographs(arrays, "val", backbone.image_size, config.seed)
    steps = config.steps_per_epoch or len(train) // config.batch_size
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step // steps // config.drop_every))
    selection = Selection()

    def rows_of(step: int) -> list[int]:
        return [row for _, row in next(batches(len(train), config.batch_size, steps, step, step + 1, config.seed))]

    with Training(
        folder,
        steps=config.epochs * steps,
        state={"network": network, "optimizer": optimizer, "schedule": schedule, "selection": selection},
        config=_without_workers(config),
        save_every=1000,
        device=device,
        progress="pre-training on Places365",
        rows=rows_of,
    ) as training:
        order = batches(len(train), config.batch_size, steps, training.step, training.total, config.seed)
        loader = iter(DataLoader(train, batch_sampler=order, num_workers=config.workers))
        network.train()
        for step in training:
            images, labels = next(loader)
            loss = F.cross_entropy(network(normalised(images.to(device))), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            training.log(loss=loss)
            if (step + 1) % steps == 0:
                score = top_1(network, val, config, device)
                selection.offer(network, score, step // steps)
                training.log(validation=score)
    selection.restore(network)
    return selection


@torch.no_grad()
def top_1(network: PretrainingClassifier, val: Photographs, config: PlacesConfig, device: torch.device) -> float:
    """Share of validation photographs classified right; leaves the network in training mode."""
    network.eval()
    order = [[(0, row) for row in part] for part in np.array_split(np.arange(len(val)), -(-len(val) // 256))]
    right = 0
    for images, labels in DataLoader(val, batch_sampler=order, num_workers=config.workers):
        right += int((network(normalised(images.to(device))).argmax(dim=1).cpu() == labels).sum())
    network.train()
    return right / len(val)


def normalised(images: Tensor) -> Tensor:
    """uint8 `[n, h, w, 3]` -> float32 `[n, 3, h, w]` with the statistics of ImageNet, for both networks."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in IMAGENET)
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def batches(
    images: int, batch_size: int, steps_per_epoch: int, first: int, last: int, seed: int
) -> Iterator[list[tuple[int, int]]]:
    """The batches of steps `first` to `last - 1`, as (epoch, row); each epoch is a permutation of (seed, epoch)."""
    order, of_epoch = np.empty(0, np.int64), -1
    for step in range(first, last):
        epoch, position = divmod(step, steps_per_epoch)
        if epoch != of_epoch:
            order, of_epoch = np.random.default_rng([seed, epoch]).permutation(images), epoch
        rows = order.take(range(position * batch_size, (position + 1) * batch_size), mode="wrap")
        yield [(epoch, int(row)) for row in rows]


class Photographs(Dataset[tuple[Tensor, int]]):
    """Photographs of one split; an item is addressed by (epoch, row), and its random crop depends on the seed and both.

    The shorter side is resized to 36 (92 for images of 84). Training: random resized crop and flip; validation:
    the centre. Items are uint8 `[side, side, 3]` with the label.
    """

    def __init__(self, arrays: Arrays, split: str, side: int, seed: int) -> None:
        self.root = Path(str(arrays["folder"][0])) / split
        self.files, self.labels = arrays[f"{split}_files"], arrays[f"{split}_labels"]
        self.train, self.side, self.seed = split == "train", side, seed
        self.resized = side + (8 if side > 32 else 4)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, row = item
        path = self.root / bytes(self.files[row]).decode("ascii")
        photograph = read_photograph(path, self.resized)
        rng = np.random.default_rng([self.seed, epoch, row])
        if self.train:
            box = random_box(photograph.width, photograph.height, rng)
        else:
            left, top = ((length - self.side) // 2 for length in photograph.size)
            box = (left, top, left + self.side, top + self.side)
        pixels = np.array(photograph.resize((self.side, self.side), resample=2, box=box))
        mirrored = self.train and rng.random() < 0.5
        return torch.from_numpy(pixels[:, ::-1].copy() if mirrored else pixels), int(self.labels[row])


def read_photograph(path: Path, shorter: int) -> Image:
    """A photograph in RGB, its shorter side resized to `shorter` pixels (bilinear).

    Raises:
        DataError: it is gone or no whole JPEG file.
    """
    from PIL import Image

    hint = "; the index of Places365 needs the photographs where they were: adopt their folder again if they moved"
    with naming_image(path, hint), Image.open(path, formats=["JPEG"]) as image:
        scale = shorter / min(image.size)
        size = [max(shorter, round(length * scale)) for length in image.size]
        return image.convert("RGB").resize((size[0], size[1]), Image.Resampling.BILINEAR)


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random crop: 8 to 100 % of the area, sides in proportion 3:4 to 4:3.

    Ten attempts, then the largest centred box of a permitted proportion (as torchvision's `RandomResizedCrop`).
    """
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def places_stage(
    config: PlacesConfig, context: RunContext, network: str, widths: Sequence[int], image_size: int
) -> Path:
    """Folder of a pre-trained embedding, `backbone.safetensors`; the classifier is dropped.

    Args:
        config: the recipe.
        context: of the run that needs it; its seed does not matter here.
        network, widths, image_size: see `networks.make_backbone`.
    """

    def build(folder: Path) -> None:
        torch.manual_seed(config.seed)
        backbone = make_backbone(network, image_size, widths, pretraining=True)
        arrays = load(PLACES365, context.data_root)
        selection = pretrain_on_places(backbone, arrays, config, folder, device=select_device(context.device))
        note = {"validation_accuracy": str(selection.score), "epoch": str(selection.epoch)}
        safetensors.torch.save_file(backbone.cpu().state_dict(), folder / "backbone.safetensors", metadata=note)

    return context.stage(
        "places365",
        {**_without_workers(config), "network": network, "widths": list(widths), "image_size": image_size},
        build,
    )


def _without_workers(config: PlacesConfig) -> dict[str, Any]:
    return {key: value for key, value in asdict(config).items() if key != "workers"}
