from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from bi_adapter_testing.official_data import small_few_shot, write_few_shot

from bi_adapter.fewshot import FEW_SHOT, FEW_SHOT_PASSPORTS, FewShot, decode_few_shot, list_names, published_lists
from sextet.data import DataError, DataMissing, adopt, load

SMALL = FewShot("pets", "oxford-pets", "Small pets", 4, "https://example.org", "none")


@pytest.fixture
def folder(tmp_path):
    return write_few_shot(tmp_path / "raw", SMALL)


def test_a_dataset_is_adopted_with_all_its_lists(folder, tmp_path):
    passport = small_few_shot(FEW_SHOT_PASSPORTS["pets"], SMALL)
    adopt(passport, tmp_path / "raw", tmp_path / "root")
    arrays = load(passport, tmp_path / "root")
    for shots in (2, 4, 8, 16):
        for seed in (0, 1, 2):
            labels = arrays["labels"][arrays[f"train_{shots}_{seed}"]]
            assert np.bincount(labels).tolist() == [shots] * 4
    assert arrays["labels"][arrays["test"]].tolist() == [0, 1, 2, 3]


def test_an_image_counts_as_often_as_its_list_names_it(folder):
    arrays = decode_few_shot(folder, SMALL, {})
    assert set(Counter(arrays["train_1_0"].tolist()).values()) == {2}
    assert len(set(arrays["train_1_0"].tolist())) == 4


def test_the_published_lists():
    names = set(list_names().values())
    assert len(names) == 17
    for dataset in FEW_SHOT.values():
        lists = published_lists()[dataset.folder]
        assert names <= set(lists)
        assert all(facts["classes"] == dataset.n_classes for facts in lists.values())
        for name in names - {"val_meta.list", "test_meta.list"}:
            shots = int(name.split("_shot_")[1].split(".")[0])
            twice = dataset.name == "pets" and shots == 1
            assert lists[name]["unique"] == shots * dataset.n_classes
            assert lists[name]["lines"] == lists[name]["unique"] * (1 + twice)
    assert sum(map(len, published_lists().values())) == 86
    sizes = {name: (p.counts["val"], p.counts["test"]) for name, p in FEW_SHOT_PASSPORTS.items()}
    assert sizes == {
        "fgvc-aircraft": (3333, 3333), "food101": (20200, 30300), "flowers102": (1633, 2463), "pets": (736, 3669),
        "cars": (1635, 8041),
    }  # fmt: skip


def rewrite(path, change):
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


DAMAGE = {
    "shots": (("train_meta.list.num_shot_2.seed_1", lambda lines: lines[1:]), r"1\.\.2 images a class, not 2"),
    "overlap": (("test_meta.list", lambda lines: [line.replace("_18", "_17") for line in lines]), "val and test lists"),
    "leak": (("test_meta.list", lambda lines: [line.replace("_18", "_3") for line in lines]), "train and test lists"),
    "label": (("val_meta.list", lambda lines: [*lines, "class 0_3.jpg 1\n"]), "in one list and"),
    "image": (("val_meta.list", lambda lines: [*lines, "gone.jpg 1\n"]), "is not read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_the_benchmark_is_refused(folder, damage):
    (name, change), message = DAMAGE[damage]
    rewrite(folder / "annotations" / name, change)
    with pytest.raises(DataError, match=message):
        decode_few_shot(folder, SMALL, {})


def test_lists_are_checked_against_the_published_hashes(folder):
    with pytest.raises(DataError, match=r"val_meta\.list is not the published list"):
        decode_few_shot(folder, SMALL)


def test_other_folders_are_missing_and_not_broken(folder, tmp_path):
    with pytest.raises(DataMissing, match="no folder annotations"):
        decode_few_shot(tmp_path, SMALL, {})
    with pytest.raises(DataMissing, match="another dataset"):
        decode_few_shot(folder, FEW_SHOT["cars"])
    (folder / "images").rename(folder / "elsewhere")
    with pytest.raises(DataMissing, match=r"no image class 0_17\.jpg"):
        decode_few_shot(folder, SMALL, {})
    (folder / "annotations/test_meta.list").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="is not read"):
        decode_few_shot(folder, SMALL, {})
    with pytest.raises(DataMissing, match="adopt that folder as 'fewshot-cars'"):
        load(FEW_SHOT_PASSPORTS["cars"], tmp_path / "root")
