from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from fslstm_testing.official_files import (
    patterns,
    write_cifar100_binary,
    write_cifar100_python,
    write_cifar_fs_folders,
    write_cifar_fs_pickles,
    write_ilsvrc,
    write_mini_cache,
    write_mini_pickles,
    write_places,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fslstm.datasets import CIFAR_FS, MINI_IMAGENET, decode_cifar_fs, decode_mini_imagenet
from fslstm.image_files import read_cache_pickle, read_category_pickle, read_images, read_listed_images
from fslstm.places import PLACES365, decode_places
from fslstm.splits import CIFAR_FS_CLASSES, MINI_IMAGENET_CLASSES, SPLITS, names_in_order
from sextet.data import CIFAR100, DataError, DataMissing, Images, adopt, load, recorded_hash

EVENT = ["# an event that must not happen"]


def small(passport, decode, per_class, **more):
    """The passport for a set of fewer images a class."""
    return replace(passport, decode=partial(decode, images_per_class=per_class, **more), counts={})


def original(classes, per_class, side, names):
    """The made-up images of some classes, class by class, each class's images as a set of bytes."""
    images, labels = patterns(100, per_class, side)
    return [{image.tobytes() for image in images[labels == names.index(name)]} for name in classes]


def by_class(arrays, split, per_class):
    images = arrays[f"{split}_images"]
    return [{image.tobytes() for image in images[i : i + per_class]} for i in range(0, len(images), per_class)]


CIFAR_LAYOUTS = {
    "python archive": lambda path: write_cifar100_python(path / "cifar-100-python.tar.gz"),
    "binary folder": lambda path: write_cifar100_binary(path / "cifar-100-binary"),
    "class folders": lambda path: write_cifar_fs_folders(path / "cifar100"),
}


@pytest.mark.parametrize("layout", CIFAR_LAYOUTS)
def test_cifar_fs_from_files_with_class_names(tmp_path, layout):
    passport = small(CIFAR_FS, decode_cifar_fs, 6)
    adopt(passport, CIFAR_LAYOUTS[layout](tmp_path), tmp_path / "root")
    arrays = load(passport, tmp_path / "root")
    for split, first, count in (("train", 0, 64), ("val", 64, 16), ("test", 80, 20)):
        assert arrays[f"{split}_images"].shape == (count * 6, 32, 32, 3)
        assert arrays[f"{split}_labels"].tolist() == np.arange(first, first + count).repeat(6).tolist()
        expected = original(CIFAR_FS_CLASSES[split], 6, 32, CIFAR100.class_names)
        assert by_class(arrays, split, 6) == expected
    whales = Images.of(passport, arrays, "test").select(["whale"])
    assert {image.tobytes() for image in whales.images} == original(["whale"], 6, 32, CIFAR100.class_names)[0]


def test_the_official_training_images_come_first_within_a_class(tmp_path):
    arrays = decode_cifar_fs(write_cifar100_binary(tmp_path / "raw"), 6)
    images, labels = patterns(100, 6, 32)
    last_of_each = images[labels == CIFAR100.class_names.index("apple")][5:]
    assert np.array_equal(arrays["train_images"][5:6], last_of_each)


@pytest.mark.parametrize(
    ("write", "passport", "decode", "side"),
    [
        (write_cifar_fs_pickles, CIFAR_FS, decode_cifar_fs, 32),
        (write_mini_pickles, MINI_IMAGENET, decode_mini_imagenet, 84),
    ],
)
def test_category_pickles(tmp_path, write, passport, decode, side):
    write(tmp_path / "raw")
    passport = small(passport, decode, 6)
    adopt(passport, tmp_path / "raw", tmp_path / "root")
    arrays = load(passport, tmp_path / "root")
    names = [str(label) for label in range(100)]
    for split, first, count in (("train", 0, 64), ("val", 64, 16), ("test", 80, 20)):
        assert by_class(arrays, split, 6) == original(names[first : first + count], 6, side, names)
    assert len(recorded_hash(passport, tmp_path / "root")) == 64


@pytest.mark.parametrize("val", ["val", "validation"])
def test_mini_imagenet_cache_pickles(tmp_path, val):
    arrays = decode_mini_imagenet(write_mini_cache(tmp_path / "raw", val=val), 6)
    names = names_in_order(MINI_IMAGENET_CLASSES)
    assert all(by_class(arrays, s, 6) == original(MINI_IMAGENET_CLASSES[s], 6, 84, names) for s in SPLITS)


def test_mini_imagenet_from_photographs_and_lists(tmp_path):
    arrays = decode_mini_imagenet(write_ilsvrc(tmp_path / "raw"), 2, {})
    images, labels = patterns(100, 3, 84)
    row = 80 * 3 + 1
    assert [arrays[f"{split}_images"].shape for split in SPLITS] == [(n, 84, 84, 3) for n in (128, 32, 40)]
    # The photograph is the picture stretched, compressed and shrunk again: nearer to its own class than to the next
    found = arrays["test_images"][1].astype(float)
    own, other = (np.abs(found - images[i]).mean() for i in (row, row + 3))
    assert labels[row] == 80
    assert own < 0.7 * other


def test_other_lists_than_the_published_ones_are_refused(tmp_path):
    write_ilsvrc(tmp_path / "raw", 1)
    with pytest.raises(DataError, match=r"train\.csv is not the published list"):
        decode_mini_imagenet(tmp_path / "raw", 1)


def test_the_splits_are_disjoint_and_those_of_the_authors():
    for classes in (CIFAR_FS_CLASSES, MINI_IMAGENET_CLASSES):
        assert [len(classes[split]) for split in SPLITS] == [64, 16, 20]
        assert len(set(names_in_order(classes))) == 100
        assert all(list(classes[split]) == sorted(classes[split]) for split in SPLITS)
    assert set(names_in_order(CIFAR_FS_CLASSES)) == set(CIFAR100.class_names)
    for passport in (CIFAR_FS, MINI_IMAGENET):
        assert sum(passport.counts.values()) == 60_000
        assert len(passport.class_names) == 100


def test_names_in_a_pickle_are_checked(tmp_path):
    test = MINI_IMAGENET_CLASSES["test"]
    turned = {name: 99 - i for i, name in enumerate(test)}
    arrays = decode_mini_imagenet(write_mini_pickles(tmp_path / "named", catname2label=turned), 6)
    assert by_class(arrays, "test", 6) == original(
        [str(99 - i) for i in range(20)], 6, 84, [str(i) for i in range(100)]
    )
    others = dict.fromkeys(MINI_IMAGENET_CLASSES["val"], 0)
    with pytest.raises(DataError, match="not the published split"):
        decode_mini_imagenet(write_mini_pickles(tmp_path / "other", catname2label=others), 6)


@pytest.mark.parametrize("decode", [decode_cifar_fs, decode_mini_imagenet, decode_places])
def test_folders_without_the_data_are_missing_and_not_broken(tmp_path, decode):
    with pytest.raises(DataMissing):
        decode(tmp_path)


def test_missing_data_says_what_to_get(tmp_path):
    with pytest.raises(DataMissing, match=r"mini-imagenet-cache-train\.pkl.*adopt that folder as 'mini-imagenet'"):
        load(MINI_IMAGENET, tmp_path)


BAD = [
    {"data": None},
    {"data": np.zeros((120, 32, 32), np.uint8)},
    {"data": np.zeros((120, 32, 32, 3), np.float32)},
    {"data": np.zeros((119, 32, 32, 3), np.uint8)},
    {"labels": [0] * 120},
    {"labels": list(range(120))},
    {"labels": [10**30] * 120},
    {"labels": [True] * 120},
    {"labels": ["a"] * 120},
    {"labels": None},
    {"labels": np.zeros((120, 1), np.int64)},
    {"catname2label": {"a": 0}},
    {"catname2label": {1: 0}},
    {"catname2label": [1]},
    {"catname2label": {"a": "b"}},
]


@pytest.mark.parametrize("change", BAD)
def test_bad_category_pickles(tmp_path, change):
    folder = write_cifar_fs_pickles(tmp_path / "raw", **change)
    with pytest.raises(DataError):
        decode_cifar_fs(folder, 6)


@pytest.mark.parametrize(
    "rows_of",
    [
        None, {}, {1: [0]}, {"a": [0]}, {"a": [0, 0, 1]}, {"a": [0, 1], "b": [1, 2]}, {"a": [0, 1, 3]},
        {"a": [-1, 0, 1]}, {"a": 3}, {"a": [0.0, 1.0, 2.0]},
    ],
)  # fmt: skip
def test_bad_cache_pickles(tmp_path, rows_of):
    content = {"image_data": np.zeros((3, 84, 84, 3), np.uint8), "class_dict": rows_of}
    (tmp_path / "f").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError):
        read_cache_pickle(tmp_path / "f", 84)


class Hostile:
    def __reduce__(self):
        return EVENT.append, ("it happened",)


@pytest.mark.parametrize("read", [partial(read_category_pickle, side=32), partial(read_cache_pickle, side=84)])
def test_pickles_that_call_something_are_not_obeyed(tmp_path, read):
    for content in (Hostile(), {"data": Hostile(), "labels": [], "image_data": Hostile(), "class_dict": {}}):
        (tmp_path / "f").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError):
            read(tmp_path / "f")
    assert len(EVENT) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pickles_raise_nothing_but_data_errors(tmp_path, data):
    content = {"data": np.zeros((2, 4, 4, 3), np.uint8), "labels": [0, 1], "catname2label": {"a": 0, "b": 1}}
    whole = pickle.dumps(content, protocol=data.draw(st.integers(0, 4)))
    position = data.draw(st.integers(0, len(whole) - 1))
    body = whole[:position] + data.draw(st.binary(max_size=3)) + whole[position + data.draw(st.integers(0, 3)) :]
    (tmp_path / "f").write_bytes(body)
    for read in (read_category_pickle, read_cache_pickle):
        try:
            read(tmp_path / "f", 4)
        except DataError:
            continue


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff\xfe", b"class_name,image_name\n", b"a,b\nc,d\n", b"class_name,image_name\n../..,passwd\n",
        b"class_name,image_name\n..,passwd\n", b"class_name,image_name\nn1,../n2/a.JPEG\n",
        b"class_name,image_name\nn1\n", b"class_name,image_name\nn1,gone.JPEG\n", b"class_name,image_name\nn\0,a\n",
        b"class_name,image_name\n" + b"n" * 5000 + b",a\n",
    ],
)  # fmt: skip
def test_bad_lists(tmp_path, body):
    (tmp_path / "n1").mkdir()
    (tmp_path / "train.csv").write_bytes(body)
    with pytest.raises(DataError):
        read_listed_images(tmp_path, tmp_path / "train.csv", 84)


def test_bad_images(tmp_path):
    stream = io.BytesIO()
    Image.effect_noise((32, 32), 99).convert("RGB").save(stream, "JPEG")
    whole = stream.getvalue()
    stream = io.BytesIO()
    Image.new("L", (15_000, 13_000)).save(stream, "PNG")
    for body in (b"", b"\x89PNG\r\n\x1a\n", whole[:-300], stream.getvalue(), b"GIF89a"):
        (tmp_path / "f.png").write_bytes(body)
        with pytest.raises(DataError, match=r"f\.png"):
            read_images([tmp_path / "f.png"], 32)
    (tmp_path / "f.png").write_bytes(whole)
    with pytest.raises(DataError, match="32x32 pixels"):
        read_images([tmp_path / "f.png"], 31, resize=False)
    with pytest.raises(DataError, match="gone"):
        read_images([tmp_path / "gone.png"], 32)


def test_class_folders_in_a_zip(tmp_path):
    folder = write_cifar_fs_folders(tmp_path / "cifar100", 1)
    with zipfile.ZipFile(tmp_path / "cifar100.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path))
    passport = small(CIFAR_FS, decode_cifar_fs, 1)
    adopt(passport, tmp_path / "cifar100.zip", tmp_path / "root")
    expected = original(CIFAR_FS_CLASSES["val"], 1, 32, CIFAR100.class_names)
    assert by_class(load(passport, tmp_path / "root"), "val", 1) == expected


def test_too_few_images_of_a_class(tmp_path):
    folder = write_cifar_fs_folders(tmp_path / "raw", 2)
    next((folder / "data/worm").iterdir()).unlink()
    with pytest.raises(DataError, match=r"test has 20 classes of 1\.\.2 images instead of 20 classes of 2"):
        decode_cifar_fs(folder, 2)


def test_places_is_an_index_of_files_that_stay(tmp_path):
    folder = write_places(tmp_path / "places365_standard")
    passport = replace(PLACES365, decode=partial(decode_places, n_classes=3), counts={"train_labels": 18})
    adopt(passport, tmp_path, tmp_path / "root")
    arrays = load(passport, tmp_path / "root")
    assert arrays["folder"].tolist() == [str(folder.resolve())]
    assert arrays["classes"].tolist() == [b"scene-a", b"scene-b", b"scene-c"]
    assert arrays["val_labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert all((folder / "train" / name.decode()).is_file() for name in arrays["train_files"])
    assert PLACES365.counts == {"train_labels": 1_803_460, "val_labels": 36_500, "classes": 365}


@pytest.mark.parametrize("damage", ["class too few", "class of val gone", "no photographs", "strange name"])
def test_bad_places(tmp_path, damage):
    folder = write_places(tmp_path / "raw")
    if damage == "class of val gone":
        for path in (folder / "val/scene-b").iterdir():
            path.unlink()
        (folder / "val/scene-b").rmdir()
    elif damage == "no photographs":
        for path in (folder / "train/scene-b").iterdir():
            path.unlink()
    elif damage == "strange name":
        (folder / "train/scene-b/ä.jpg").touch()
    with pytest.raises(DataError):
        decode_places(folder, 4 if damage == "class too few" else 3)
