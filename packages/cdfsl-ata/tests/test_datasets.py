from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from cdfsl_ata_testing.official_folders import (
    WRITERS,
    identities,
    write_classes,
    write_cub,
    write_eurosat,
    write_ham10000,
    write_ilsvrc,
    write_isic,
    write_picture,
    write_plantae,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from cdfsl_ata.datasets import DOMAINS, PASSPORTS, decode, find_photographs, passport
from cdfsl_ata.filelists import read_filelist, write_filelists
from cdfsl_ata.layouts import LAYOUTS, find_cub, find_plantae, read_car_annotations
from cdfsl_ata.splits import CROP_CLASSES, EUROSAT_CLASSES, MINI_IMAGENET_CLASSES, modulo_split
from sextet.data import DataError, DataMissing, Images, adopt, load

SIDE = 6


def small(key, **options):
    """The passport of a domain for smaller images and any number of them."""
    return replace(passport(DOMAINS[key], side=SIDE, **options), counts={})


def test_the_rule_of_the_splits():
    """The published counts: CUB and Plantae 100/50/50, Cars 98/49/49, Places 183/91/91."""
    for count, expected in ((200, (100, 50, 50)), (196, (98, 49, 49)), (365, (183, 91, 91))):
        parts = modulo_split(count)
        assert tuple(map(len, parts.values())) == expected
        assert sorted(index for part in parts.values() for index in part) == list(range(count))
    assert modulo_split(200)["novel"][:3] == (3, 7, 11)


def test_passports():
    names = [known.name for known in PASSPORTS.values()]
    assert len(set(names)) == 9
    assert all(name.startswith("cdfsl-") for name in names)
    assert list(PASSPORTS) == list(DOMAINS) == list(LAYOUTS) == list(WRITERS)
    assert PASSPORTS["mini-imagenet"].counts == {"base_labels": 38_400, "val_labels": 9_600, "novel_labels": 12_000}
    assert {key: known.counts.get("novel_labels") for key, known in PASSPORTS.items()} == {
        "mini-imagenet": 12_000, "cub": 2_953, "cars": None, "places": 18_200, "plantae": None,
        "crop-diseases": 43_456, "eurosat": 27_000, "isic": 10_015, "chestx": 25_848,
    }  # fmt: skip
    for known in PASSPORTS.values():
        assert known.homepage.startswith("http")
        assert known.licence
        assert known.instructions
    assert len({name for names in MINI_IMAGENET_CLASSES.values() for name in names}) == 100


@pytest.mark.parametrize("key", DOMAINS)
def test_every_domain_is_adopted_from_its_official_layout(tmp_path, key):
    """The folder above the one that holds the images is enough; every image has the label that its colour tells."""
    adopt(small(key), WRITERS[key](tmp_path / "raw", 2), tmp_path / "data")
    arrays = load(small(key), tmp_path / "data", download=False)
    domain = DOMAINS[key]
    for split in domain.stored:
        images = Images(arrays[f"{split}_images"], arrays[f"{split}_labels"], tuple(arrays[f"{split}_classes"]))
        assert images.images.shape[1:] == (SIDE, SIDE, 3)
        assert np.bincount(images.labels).min() >= 1
        assert len(images.class_names) == domain.classes[split]
        found, numbers = identities(images.images)
        assert len(set(zip(found.tolist(), numbers.tolist(), strict=True))) == len(images)
        expected = EXPECTED.get(key, modulo_novel)(images.labels, domain, split)
        assert np.array_equal(found, expected)


def modulo_novel(labels, domain, split):
    return 4 * labels + 3


def as_they_are(labels, domain, split):
    return labels


EXPECTED = {
    "mini-imagenet": lambda labels, _, split: labels + {"base": 0, "val": 64, "novel": 80}[split],
    # Ascending by number of images, then by name; the four smallest of 204 are left out
    "plantae": lambda labels, _, split: np.array(
        sorted(range(4, 204), key=lambda label: ((label - 4) % 3, label))
    )[4 * labels + 3],
    **dict.fromkeys(("crop-diseases", "eurosat", "isic", "chestx"), as_they_are),
}  # fmt: skip


def test_mini_imagenet_out_of_ilsvrc_by_lists(tmp_path):
    arrays = decode(write_ilsvrc(tmp_path, per_class=3, listed=2), DOMAINS["mini-imagenet"], SIDE)
    for split, first in (("base", 0), ("val", 64), ("novel", 80)):
        classes, numbers = identities(arrays[f"{split}_images"])
        assert np.array_equal(classes, arrays[f"{split}_labels"] + first)
        assert set(numbers.tolist()) == {1, 2}
        assert tuple(arrays[f"{split}_classes"]) == MINI_IMAGENET_CLASSES[split]


def test_isic_and_ham10000_are_the_same_photographs(tmp_path):
    both = [
        decode(write(tmp_path / name, 2), DOMAINS["isic"], SIDE)
        for name, write in (("isic", write_isic), ("ham", write_ham10000))
    ]
    assert all(np.array_equal(both[0][name], both[1][name]) for name in ("novel_images", "novel_labels"))


def test_crop_diseases_without_what_stands_in_brackets(tmp_path):
    names = [name.replace("_(maize)", "").replace("_(including_sour)", "") for name in CROP_CLASSES]
    write_classes(tmp_path, names, [1] * 38)
    arrays = decode(tmp_path, DOMAINS["crop-diseases"], SIDE)
    assert np.array_equal(identities(arrays["novel_images"])[0], arrays["novel_labels"])
    assert tuple(arrays["novel_classes"]) == CROP_CLASSES


def test_places_takes_the_first_200_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("cdfsl_ata.layouts.PLACES_PER_CLASS", 2)
    arrays = decode(WRITERS["places"](tmp_path, 3) / "places365_standard", DOMAINS["places"], SIDE)
    classes, numbers = identities(arrays["novel_images"])
    assert len(classes) == 91 * 2
    assert set(numbers.tolist()) == {0, 1}


def test_plantae_draws_the_same_images_whatever_the_order_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr("cdfsl_ata.layouts.PLANTAE_PER_CLASS", 2)
    folder = write_plantae(tmp_path, 2)
    first = find_plantae(folder)
    assert all(np.bincount(part.labels).max() == 2 for part in first.values())
    assert [len(part.class_names) for part in first.values()] == [100, 50, 50]
    assert {key: part.files for key, part in find_plantae(folder).items()} == {k: p.files for k, p in first.items()}
    later = [name for name in first["novel"].files if not name.endswith(("_0000.jpg", "_0001.jpg"))]
    assert later  # a draw, not the first by name


def test_lists_that_circulate_come_before_the_rule(tmp_path):
    """Paths of another machine, labels among all classes, an order and a choice of their own."""
    write_cub(tmp_path, 3)
    root = "/home/someone/filelists/CUB/CUB_200_2011/images"
    names = [f"{number:03d}.Bird_{number}" for number in range(1, 201)]
    chosen = [199, 5, *range(6, 104, 2), 2][:50]
    content = {
        "label_names": names,
        "image_names": [f"{root}/{names[label]}/{names[label]}_{n:04d}.jpg" for label in chosen for n in (2, 0)],
        "image_labels": [label for label in chosen for _ in range(2)],
    }
    (tmp_path / "novel.json").write_text(json.dumps(content))
    arrays = decode(tmp_path, DOMAINS["cub"], SIDE)
    classes, numbers = identities(arrays["novel_images"])
    assert classes.tolist() == content["image_labels"]
    assert numbers.tolist() == [2, 0] * 50
    assert np.array_equal(arrays["novel_labels"], np.searchsorted(sorted(chosen), content["image_labels"]))
    assert arrays["novel_classes"].tolist() == [names[label] for label in sorted(chosen)]


def test_lists_are_written_as_they_are_read(tmp_path):
    photographs = find_cub(write_cub(tmp_path, 2) / "CUB_200_2011")
    write_filelists(photographs, tmp_path / "CUB_200_2011" / "images")
    for split, before in photographs.items():
        after = read_filelist(tmp_path / "CUB_200_2011" / "images" / f"{split}.json", tmp_path)
        assert [before.root / name for name in before.files] == [after.root / name for name in after.files]
        assert np.array_equal(before.labels, after.labels)
        assert before.class_names == after.class_names


def test_folders_of_the_splits(tmp_path):
    """As some follow-ups circulate them: `novel` with a folder a class."""
    names = [f"{number:03d}.Bird" for number in range(3, 200, 4)]
    write_classes(tmp_path / "novel", names, [2] * 50)
    arrays = decode(tmp_path, DOMAINS["cub"], SIDE)
    assert np.array_equal(identities(arrays["novel_images"])[0], arrays["novel_labels"])


def test_base_and_validation_classes_can_be_found_too(tmp_path):
    photographs = find_photographs(DOMAINS["cub"], write_cub(tmp_path, 1) / "CUB_200_2011")
    assert [len(part) for part in photographs.values()] == [100, 50, 50]
    everything = replace(DOMAINS["cub"], stored=("base", "val", "novel"))
    assert len(decode(tmp_path / "CUB_200_2011", everything, SIDE)["base_images"]) == 100


def test_an_unreadable_image_is_an_error_or_skipped_and_named(tmp_path):
    folder = write_eurosat(tmp_path / "raw", 3)
    broken = [f"{name}/{name}_0001.jpg" for name in ("Forest", "River")]
    for name in broken:
        (folder / "2750" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"Forest_0001.jpg is not read .*; 2 of 30 files"):
        adopt(small("eurosat"), folder, tmp_path / "data")
    lenient = small("eurosat", unreadable="skip")
    stored = adopt(lenient, folder, tmp_path / "data")
    arrays = load(lenient, tmp_path / "data", download=False)
    assert arrays["unreadable"].tolist() == broken
    assert np.bincount(arrays["novel_labels"]).tolist() == [3, 2, 3, 3, 3, 3, 3, 3, 2, 3]
    assert np.array_equal(identities(arrays["novel_images"])[0], arrays["novel_labels"])
    facts = json.loads((stored / "passport.json").read_text())["facts"]
    assert facts == {"unreadable": "2", "unreadable_names": ", ".join(broken)}


def test_a_class_without_any_readable_image_is_an_error(tmp_path):
    write_eurosat(tmp_path, 1)
    (tmp_path / "2750" / "Forest" / "Forest_0000.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="no readable image of Forest"):
        decode(tmp_path / "2750", DOMAINS["eurosat"], SIDE, unreadable="skip")


@pytest.mark.parametrize("key", ["mini-imagenet", "cub", "places", "crop-diseases", "eurosat"])
def test_missing_class_folders_are_named(tmp_path, key):
    folder = WRITERS[key](tmp_path / "raw", 1)
    gone = sorted(path for path in folder.rglob("*") if path.is_dir() and any(path.glob("*.jpg")))[3]
    for path in [path for path in folder.rglob("*") if path.name == gone.name]:
        shutil.rmtree(path)
    name = gone.name[:3].lstrip("0") if key == "cub" else gone.name
    with pytest.raises(DataError, match=rf"lacks 1 classes: {name.replace('(', '.').replace(')', '.')}"):
        adopt(small(key), folder, tmp_path / "data")


@pytest.mark.parametrize(("key", "column"), [("isic", "DF"), ("chestx", "Mass")])
def test_missing_classes_of_a_table_are_named(tmp_path, key, column):
    folder = WRITERS[key](tmp_path, 2)
    path = next(iter([*folder.glob("*.csv"), *folder.glob("*/*.csv")]))
    lines = path.read_text().splitlines()
    position = lines[0].split(",").index(column) if key == "isic" else None
    gone = [line for line in lines[1:] if (line.split(",")[position] == "1.0" if position else column in line)]
    path.write_text("\n".join(line for line in lines if line not in gone))
    with pytest.raises(DataError, match=f"lacks 1 classes: {column}"):
        decode(folder, DOMAINS[key], SIDE)


def test_missing_cars_and_species(tmp_path):
    folder = WRITERS["cars"](tmp_path / "cars", 1)
    (folder / "devkit" / "cars_train_annos.mat").write_bytes(b"MATLAB 5.0 MAT-file, not really")
    with pytest.raises(DataError, match=r"cars_train_annos\.mat is not read"):
        decode(folder, DOMAINS["cars"], SIDE)
    species = write_plantae(tmp_path / "plantae")
    for path in sorted(species.iterdir())[:5]:
        shutil.rmtree(path)
    with pytest.raises(DataMissing, match="199 folders, fewer than 200 species"):
        decode(species, DOMAINS["plantae"], SIDE)


def test_images_that_a_table_names_and_that_are_not_there(tmp_path):
    folder = write_isic(tmp_path, 2)
    (folder / "ISIC2018_Task3_Training_Input" / "ISIC_0024310.jpg").unlink()
    with pytest.raises(DataError, match=r"ISIC_0024310\.jpg is not read"):
        decode(folder, DOMAINS["isic"], SIDE)
    arrays = decode(folder, DOMAINS["isic"], SIDE, unreadable="skip")
    assert arrays["unreadable"].tolist() == ["ISIC2018_Task3_Training_Input/ISIC_0024310.jpg"]


def test_the_wrong_number_of_images_is_refused(tmp_path):
    folder = write_eurosat(tmp_path / "raw", 2)
    with pytest.raises(DataError, match="novel_labels has 20 rows instead of 27000"):
        adopt(passport(DOMAINS["eurosat"], side=SIDE), folder, tmp_path / "data")


@pytest.mark.parametrize("key", DOMAINS)
def test_nothing_of_a_domain_says_what_to_get(tmp_path, key):
    (tmp_path / "raw" / "other").mkdir(parents=True)
    write_picture(tmp_path / "raw" / "other" / "cat.jpg", 0, 0)
    with pytest.raises(DataMissing, match=r"(?s)no .* found in .*(Get|get|Put)"):
        adopt(small(key), tmp_path / "raw", tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object with the lists"),
        ("{", "is not read"),
        ({"label_names": ["a"], "image_names": [], "image_labels": []}, "one label an image"),
        ({"label_names": ["a"], "image_names": ["x.jpg"], "image_labels": [1]}, r"labels in 0\.\.0"),
        ({"label_names": ["a"], "image_names": ["x.jpg"], "image_labels": [True]}, r"labels in 0\.\.0"),
        ({"label_names": [3], "image_names": ["x.jpg"], "image_labels": [0]}, "names as strings"),
        ({"label_names": ["a"], "image_names": ["/p/y.jpg"], "image_labels": [0]}, "no ending of that path is a file"),
        ({"label_names": ["a"], "image_names": ["/p/x.jpg", "/p/../../x.jpg"], "image_labels": [0, 0]}, "no name of"),
    ],
)
def test_lists_that_are_no_lists(tmp_path, content, message):
    write_picture(tmp_path / "x.jpg", 0, 0)
    path = tmp_path / "novel.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_filelist(path, tmp_path)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
@settings(max_examples=50, deadline=None)
def test_only_data_errors_leave_the_reader_of_lists(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("list") / "novel.json"
    for content in (value, {"label_names": ["a"], "image_names": value, "image_labels": value}):
        path.write_text(json.dumps(content))
        with pytest.raises(DataError):
            read_filelist(path, path.parent)


@pytest.mark.parametrize("content", [b"", b"\x0e\x00\x00\x00\xff\xff\xff\x7f", bytes(range(200))])
def test_only_data_errors_leave_the_reader_of_annotations(tmp_path, content):
    path = tmp_path / "cars_train_annos.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + content)
    with pytest.raises(DataError):
        read_car_annotations(path)


def test_annotations_without_the_columns(tmp_path):
    savemat(tmp_path / "cars_train_annos.mat", {"annotations": np.arange(3)})
    with pytest.raises(DataError, match="expected annotations with fname and class"):
        read_car_annotations(tmp_path / "cars_train_annos.mat")


def test_the_stored_images_are_the_published_ones_before_the_crop(tmp_path):
    """Resized to 257 x 257 by bilinear interpolation with the aspect not kept, cut out in the middle, normalised."""
    import torch
    from PIL import Image

    from cdfsl_ata.transforms import MEAN, STD, centred_pixels

    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name in EUROSAT_CLASSES:
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "image.png")
    stored = torch.from_numpy(decode(tmp_path, DOMAINS["eurosat"])["novel_images"][0])
    centre = stored[16:240, 16:240].permute(2, 0, 1) / 255
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    assert torch.allclose((centre - mean) / std, centred_pixels(Image.fromarray(pixels)), atol=1e-6)
