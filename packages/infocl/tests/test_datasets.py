"""Datasets of the evaluation, from small folders laid out as the official ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from infocl_testing.tiny_data import MAKERS, picture, text
from PIL import Image

from infocl.datasets import decode_flowers
from infocl.passports import DATASETS
from infocl.preprocessing import STATISTICS
from infocl.splits import split_by_class
from infocl.stored_images import images_of, packed_pixels
from sextet.data import DataError, DataMissing, adopt, load, verify


@pytest.fixture
def adopted(tmp_path):
    """Adopt a small copy of a dataset; returns its arrays."""

    def make(key):
        maker, passport = MAKERS[key]
        maker(tmp_path / "raw")
        adopt(passport, tmp_path / "raw", tmp_path / "root")
        verify(passport, tmp_path / "root")
        return load(passport, tmp_path / "root", download=False)

    return make


@pytest.mark.parametrize("key", [key for key in MAKERS if key not in ("STL-10", "ImageNet")])
def test_photographs_are_kept_as_they_are(adopted, tmp_path, key):
    arrays = adopted(key)
    for split in ("train", "test"):
        images = images_of(arrays, split, len(arrays["class_names"]))
        assert len(images) == len(arrays[f"{split}_rows"]) == len(images.labels)
        for row in (0, len(images) - 1):
            (file,) = (path for path in (tmp_path / "raw").rglob(Path(images.files[row]).name)
                       if path.as_posix().endswith(images.files[row]))  # fmt: skip
            ours = np.asarray(images[row])
            if "boxes" not in arrays:
                assert np.array_equal(ours, np.asarray(Image.open(file).convert("RGB")))


def test_dtd_trains_on_two_of_its_lists(adopted):
    arrays = adopted("dtd")
    train, test = (images_of(arrays, split, 3) for split in ("train", "test"))
    assert all(name[16] in "01" for name in train.files)
    assert all(name[16] == "2" for name in test.files)
    assert [int(name[6]) for name in train.files] == train.labels.tolist()


def test_cub_has_the_official_split_and_labels_from_0(adopted):
    arrays = adopted("cu_birds")
    train, test = (images_of(arrays, split, 3) for split in ("train", "test"))
    assert [name[-5] for name in train.files] == ["0", "2"] * 3
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_flowers_are_split_by_class_in_order_of_appearance(adopted):
    arrays = adopted("vgg_flower")
    labels = np.array([3] * 5 + [1] * 5 + [2] * 6)
    train, test = split_by_class(labels, [3, 1, 2])
    assert np.array_equal(arrays["train_rows"], train)
    assert images_of(arrays, "test", 102).files == tuple(f"image_{row + 1:05d}.jpg" for row in test)
    assert arrays["labels"].tolist() == (labels - 1).tolist()


def test_flowers_beside_their_unpacked_archive(tmp_path):
    MAKERS["vgg_flower"][0](tmp_path)
    whole = decode_flowers(tmp_path)
    shutil.move(tmp_path / "jpg", tmp_path / "102flowers.tgz.unpacked" / "jpg")
    assert np.array_equal(decode_flowers(tmp_path)["packed"], whole["packed"])


def test_traffic_signs_by_sorted_names(adopted):
    arrays = adopted("traffic_sign")
    train, test = split_by_class(np.repeat(np.arange(3), 5), range(3))
    assert images_of(arrays, "train", 43).files == tuple(f"{row // 5:05d}/00000_{row % 5:05d}.ppm" for row in train)
    assert np.array_equal(arrays["test_rows"], test)


def test_the_official_test_set_of_traffic_signs(adopted):
    arrays = adopted("traffic_sign_official")
    test = images_of(arrays, "test", 43)
    assert test.labels.tolist() == [0, 1, 2, 0]
    assert test.files[0] == "Final_Test/Images/00000.ppm"
    assert len(images_of(arrays, "train", 43)) == 15


def test_aircraft_are_cropped_to_their_boxes(adopted, tmp_path):
    arrays = adopted("aircraft")
    train = images_of(arrays, "train", 100)
    assert train.labels.tolist() == [2, 1]
    (file,) = (tmp_path / "raw").rglob("0000001.jpg")
    assert np.array_equal(np.asarray(train[0]), np.asarray(Image.open(file))[1:11, 2:12])
    assert train[1].size == (20, 16)


def test_stl10_is_stored_column_by_column(adopted, tmp_path):
    arrays = adopted("STL-10")
    planes = np.fromfile(tmp_path / "raw/stl10_binary/train_X.bin", np.uint8).reshape(12, 3, 96, 96)
    assert arrays["train_images"][5, 10, 20, 2] == planes[5, 2, 20, 10]
    assert arrays["train_labels"].tolist() == [*range(10), 0, 1]
    assert images_of(arrays, "unlabeled", 10)[0].size == (96, 96)
    assert packed_pixels(images_of(arrays, "test", 10), 96).base is not None


def test_imagenet_stays_where_it_is(adopted, tmp_path):
    arrays = adopted("ImageNet")
    train, val = (images_of(arrays, split, 3) for split in ("train", "test"))
    assert train.files[0] == "n00000000/train_0.JPEG"
    assert val[3].size == (43, 30)
    assert val.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    (tmp_path / "raw/val").rename(tmp_path / "raw/elsewhere")
    with pytest.raises(DataError, match="adopt the folder"):
        images_of(arrays, "test", 3)


def test_pixels_are_made_as_pillow_makes_them(adopted):
    images = images_of(adopted("dtd"), "train", 3)
    found = packed_pixels(images, 8)
    assert found.shape == (12, 8, 8, 3)
    assert np.array_equal(found[4], np.asarray(images[4].resize((8, 8), Image.Resampling.BILINEAR)))


def test_what_is_known_beforehand():
    assert set(STATISTICS) == {entry.statistics for entry in DATASETS.values()}
    photographs = {
        key: entry.passport.counts for key, entry in DATASETS.items() if "train_rows" in entry.passport.counts
    }
    assert {key: tuple(counts.values()) for key, counts in photographs.items()} == {
        "dtd": (3760, 1880), "cu_birds": (5994, 5794), "traffic_sign": (31_367, 7842),
        "traffic_sign_official": (39_209, 12_630), "aircraft": (6667, 3333),
    }  # fmt: skip
    assert DATASETS["vgg_flower"].passport.counts == {"labels": 8189}


def test_another_number_of_images_is_refused(tmp_path):
    MAKERS["dtd"][0](tmp_path)
    with pytest.raises(DataError, match="train_rows has 12 rows instead of 3760"):
        adopt(DATASETS["dtd"].passport, tmp_path, tmp_path / "root")


DAMAGE = {
    "dtd": ("dtd/labels/train1.txt", b"\xff\xfe"),
    "cu_birds": ("CUB_200_2011/image_class_labels.txt", b"1 7\n"),
    "vgg_flower": ("imagelabels.mat", b"MATLAB 5.0 MAT-file" + b"\0" * 300),
    "traffic_sign_official": ("GTSRB/GT-final_test.csv", b"Filename;Width\n00000.ppm;20\n"),
    "aircraft": ("fgvc-aircraft-2013b/data/images_box.txt", b"0000001 1 2 3\n"),
    "STL-10": ("stl10_binary/train_y.bin", b"\x01\x02"),
    "ImageNet": ("val/n99999999/a.JPEG", b"x"),
}


@pytest.mark.parametrize("key", DAMAGE)
def test_damaged_files_are_named(tmp_path, key):
    maker, passport = MAKERS[key]
    maker(tmp_path / "raw")
    name, content = DAMAGE[key]
    (tmp_path / "raw" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "raw" / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        adopt(passport, tmp_path / "raw", tmp_path / "root")
    assert not isinstance(caught.value, DataMissing)
    assert str(tmp_path / "raw") in str(caught.value)


@pytest.mark.parametrize("key", MAKERS)
def test_an_empty_folder_has_nothing(tmp_path, key):
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataMissing):
        adopt(MAKERS[key][1], tmp_path / "raw", tmp_path / "root")


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    MAKERS["dtd"][0](tmp_path / "raw")
    text(tmp_path / "raw/dtd/labels/test1.txt", ["class_0/../../../secret.jpg"])
    picture(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match="no name of a file inside"):
        adopt(MAKERS["dtd"][1], tmp_path / "raw", tmp_path / "root")


def test_an_image_that_is_none(tmp_path, adopted):
    arrays = dict(adopted("dtd"))
    arrays["packed"] = np.zeros_like(arrays["packed"])
    with pytest.raises(DataError, match=r"class_0/.*is no whole image"):
        packed_pixels(images_of(arrays, "train", 3), 8)
    with pytest.raises(DataError, match="split: expected"):
        images_of(arrays, "validation", 3)
