"""ImageNet in every layout that it circulates in, its shards, and batches from it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from lmim_testing.official_files import (
    CLASSES,
    devkit,
    photograph,
    tar_of,
    train_photographs,
    val_photographs,
    write,
    write_imagenet,
    write_official_tars,
)
from torch import nn

from lmim.config import FineTuningConfig
from lmim.image_index import Entry, ImageIndex, index_arrays
from lmim.imagenet import IMAGENET, decode_imagenet
from lmim.loading import (
    Augmented,
    Share,
    Stream,
    evaluation_transform,
    fine_tuning_transform,
    normalised,
    pretraining_transform,
    right_answers,
)
from lmim.shards import write_shards
from sextet.data import DataError, DataMissing, adopt, load

CPU = torch.device("cpu")
decode = partial(decode_imagenet, n_classes=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same images in four layouts."""
    root = tmp_path_factory.mktemp("imagenet")
    plain = write_imagenet(root / "plain")
    tars = write_official_tars(root / "tars")
    files, labels = val_photographs(6)
    flat = root / "flat"
    write(flat / "train", train_photographs(8))
    write(flat / "val", files)
    write(flat / "ILSVRC2012_devkit_t12", devkit(labels))
    kaggle = root / "kaggle"
    shutil.copytree(flat, kaggle)
    shutil.rmtree(kaggle / "ILSVRC2012_devkit_t12")
    lines = [f"{name[:-5]},{CLASSES[label]} 1 2 3 4 " for name, label in zip(files, labels, strict=True)]
    (kaggle / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(lines) + "\n")
    shards, arrays = root / "shards", decode(plain)
    for split in ("train", "val"):
        write_shards(ImageIndex(arrays, split), split, list(CLASSES), shards, shard_bytes=20_000)
    return {"plain": plain, "tars": tars, "flat": flat, "kaggle": kaggle, "shards": shards}


@pytest.mark.parametrize("layout", ["plain", "tars", "flat", "kaggle", "shards"])
def test_every_layout_holds_the_same_images_and_labels(folders, layout):
    arrays = decode(folders[layout])
    assert [name.decode() for name in arrays["classes"]] == list(CLASSES)
    files, labels = val_photographs(6)
    wanted = {
        "train": {content: CLASSES.index(name.split("/")[0]) for name, content in train_photographs(8).items()},
        "val": dict(zip(files.values(), labels, strict=True)),
    }
    for split, contents in wanted.items():
        index = ImageIndex(arrays, split)
        found = {index.read(row): int(index.labels[row]) for row in range(len(index))}
        assert found == contents
        assert len(index) == len(contents)
        assert index.open(0).size == (40, 32)


def test_the_archives_are_read_where_they_lie(folders):
    arrays = decode(folders["tars"])
    assert arrays["files"].tolist() == [b"ILSVRC2012_img_train.tar", b"ILSVRC2012_img_val.tar"]
    assert len(list(folders["shards"].glob("train-*.tar"))) > 1


def test_the_store_keeps_an_index(folders, tmp_path):
    toy = replace(IMAGENET, decode=decode, counts={})
    adopt(toy, folders["tars"], tmp_path)
    arrays = load(IMAGENET, tmp_path)
    assert len(ImageIndex(arrays, "train")) == 24
    assert sum(array.nbytes for array in arrays.values()) < 5000
    with pytest.raises(DataError, match="1000 classes to train on, found 3"):
        adopt(IMAGENET, folders["plain"], tmp_path / "other")
    with pytest.raises(DataMissing, match=r"ILSVRC2012_img_train\.tar"):
        load(IMAGENET, tmp_path / "nothing")


def test_shards_go_on_after_a_stop(folders, tmp_path):
    index = ImageIndex(decode(folders["plain"]), "train")
    whole = write_shards(index, "train", list(CLASSES), tmp_path / "a", shard_bytes=20_000)
    for path in whole[:2]:
        (tmp_path / "b").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "b" / path.name)
    (tmp_path / "b" / ".train-000002.tar.partial").write_bytes(b"cut short")
    again = write_shards(index, "train", list(CLASSES), tmp_path / "b", shard_bytes=20_000)
    assert [path.name for path in again] == [path.name for path in whole]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(whole, again, strict=True))
    write_shards(index, "train", list(CLASSES), tmp_path / "one")
    assert len(list((tmp_path / "one").iterdir())) == 2


def test_broken_folders_are_explained(folders, tmp_path):
    with pytest.raises(DataMissing, match="no folder train"):
        decode(tmp_path)
    write(tmp_path / "train", train_photographs(1))
    with pytest.raises(DataMissing, match="no folder val"):
        decode(tmp_path)
    files, labels = val_photographs(3)
    write(tmp_path / "val", files)
    with pytest.raises(DataMissing, match="expected ILSVRC2012_devkit_t12"):
        decode(tmp_path)
    write(tmp_path / "ILSVRC2012_devkit_t12", devkit(labels[:2]))
    with pytest.raises(DataError, match="ILSVRC2012_val_00000003 has no class"):
        decode(tmp_path)
    write(tmp_path / "ILSVRC2012_devkit_t12", {"data/meta.mat": b"no matrix"})
    with pytest.raises(DataError, match="is not read"):
        decode(tmp_path)
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val-0.tar").write_bytes(tar_of({"1.jpg": photograph(0, 0)}))
    with pytest.raises(DataError, match=r"one is missing for 1"):
        decode(tmp_path)
    (tmp_path / "val-0.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match="is not read"):
        decode(tmp_path)


def test_broken_images_are_named(tmp_path):
    write_imagenet(tmp_path, per_class=1, val=3)
    index = ImageIndex(decode(tmp_path), "train")
    path = tmp_path / "train/n01443537/n01443537_0.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"n01443537_0\.JPEG, image 1 is not read"):
        index.open(1)
    path.unlink()
    with pytest.raises(DataError, match="adopt their folder again"):
        index.open(1)
    (tmp_path / "short.tar").write_bytes(b"12345")
    index = ImageIndex(index_arrays(tmp_path, {"val": [Entry("short.tar", 2, 9, 0)]}, ["a"]), "val")
    with pytest.raises(DataError, match=r"image 0 should have 9 bytes, has 3"):
        index.read(0)
    index = ImageIndex(index_arrays(tmp_path, {"val": [Entry("../secret", 0, 0, 0)]}, ["a"]), "val")
    with pytest.raises(DataError, match="no name of a file inside"):
        index.read(0)


def stream(folder, share, workers=0, seed=0, transform=None):
    transform = transform or pretraining_transform(16)
    return Stream(Augmented(ImageIndex(decode(folder), "train"), transform, seed), share, CPU, workers)


def test_batches_are_numbered(folders):
    share = Share(24, 8, 4)
    assert share.steps_per_epoch == 3
    first = stream(folders["plain"], share)
    seen = [first(number) for number in range(13)]
    assert seen[0][0].shape == (2, 3, 16, 16)
    assert torch.equal(stream(folders["tars"], share)(9)[0], seen[9][0])
    assert torch.equal(first(2)[0], seen[2][0])
    assert not torch.equal(stream(folders["plain"], share, seed=1)(0)[0], seen[0][0])
    rows = [row for number in range(12) for row in first.rows(number)]
    assert sorted(rows) == list(range(24))
    assert first.rows(12) != first.rows(0)
    # The same image is cut otherwise in the next epoch
    again = next(number for number in range(12, 24) if first.rows(0)[0] in first.rows(number))
    place = first.rows(again).index(first.rows(0)[0])
    assert not torch.equal(first(again)[0][place], seen[0][0][0])


def test_processes_share_what_one_does(folders):
    alone = stream(folders["plain"], Share(24, 8, 4))
    for rank in range(2):
        mine = stream(folders["plain"], Share(24, 8, 4, 2))
        for number in range(rank, 8, 2):
            assert torch.equal(mine(number)[0], alone(number)[0])


# Python 3.12 and later warn of any fork beside threads
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_change_nothing(folders):
    share, config = Share(24, 8, 2), FineTuningConfig()
    transform = fine_tuning_transform(16, config)
    with_workers = stream(folders["plain"], share, workers=2, transform=transform)
    without = stream(folders["plain"], share, transform=transform)
    for number in (3, 4, 0):
        for one, other in zip(with_workers(number), without(number), strict=True):
            assert torch.equal(one, other)


def test_normalisation_and_evaluation(folders):
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    torch.testing.assert_close(normalised(pixels)[0, :, 0, 0], (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    ))  # fmt: skip
    index = ImageIndex(decode(folders["plain"]), "val")
    image = evaluation_transform(224)(index.open(0))
    assert image.shape == (3, 224, 224)
    assert image.dtype == torch.uint8

    class Brightest(nn.Module):
        """Classifies by the channel that the made-up images of a class are bright in."""

        def forward(self, images):
            return images.mean(dim=(2, 3))

    right = right_answers(Brightest(), index, evaluation_transform(32), CPU, batch=4)
    assert right.tolist() == [True] * 6
    rows = np.array(index.labels)
    index.labels = (rows + 1) % 3
    assert not right_answers(Brightest(), index, evaluation_transform(32), CPU, batch=4).any()


@pytest.mark.parametrize("call", [
    lambda: Share(24, 8, 3),
    lambda: Share(24, 8, 4, 3),
    lambda: Stream(Augmented(None, None, 0), Share(4, 8, 2), CPU),
])  # fmt: skip
def test_bad_shares(call):
    with pytest.raises(ValueError, match="batch"):
        call()
