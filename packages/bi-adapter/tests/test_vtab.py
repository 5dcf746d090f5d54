from __future__ import annotations

import shutil

import numpy as np
import pytest
from bi_adapter_testing.official_data import small_task, write_vtab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bi_adapter.image_files import open_packed, read_list
from bi_adapter.vtab import GROUPS, PASSPORTS, TASKS, decode_task, encoding, group_means
from sextet.data import DataError, DataMissing, adopt, load, recorded_hash

KITTI = TASKS["kitti"]
SMALL = {"train": 16, "val": 8, "test": 12}


@pytest.fixture
def folder(tmp_path):
    return write_vtab(tmp_path / "raw", KITTI)


def test_a_task_is_adopted_from_any_folder_above_it(folder, tmp_path):
    write_vtab(tmp_path / "raw", TASKS["dsprites_loc"], test=16)
    passport = small_task(PASSPORTS["kitti"], KITTI)
    adopt(passport, tmp_path, tmp_path / "root")
    arrays = load(passport, tmp_path / "root")
    assert [len(arrays[name]) for name in ("train800", "val200", "test")] == [16, 8, 12]
    names, labels, _ = read_list(folder / "test.txt", 4)
    for row, name, label in zip(arrays["test"], names, labels, strict=True):
        with Image.open(folder / name) as image:
            assert np.array_equal(open_packed(arrays["packed"], arrays["offsets"], row), image.convert("RGB"))
        assert arrays["labels"][row] == label
    record = (tmp_path / "root/vtab-kitti/passport.json").read_text()
    assert "JPEG, quality 75" in record
    assert read_list(folder / "val200.txt", 4)[2] in record
    assert len(recorded_hash(passport, tmp_path / "root")) == 64


def test_the_union_list_may_point_at_the_images_of_its_parts(folder):
    parts = "".join((folder / f"{name}.txt").read_text() for name in ("val200", "train800"))
    expected = decode_task(folder, KITTI, **SMALL)
    (folder / "train800val200.txt").write_text(parts)
    shutil.rmtree(folder / "images/train800val200")
    arrays = decode_task(folder, KITTI, **SMALL)
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected if name != "lists")


def test_the_benchmark_has_19_tasks_in_three_groups():
    assert len(TASKS) == len(PASSPORTS) == 19
    assert [sum(task.group == group for task in TASKS.values()) for group in GROUPS] == [7, 4, 8]
    assert sum(task.n_test for task in TASKS.values()) == 387_904
    assert all(PASSPORTS[name].counts == {"train800": 800, "val200": 200, "test": TASKS[name].n_test} for name in TASKS)
    percent = {"cifar": 50_000, "svhn": 73_257, "clevr_dist": 70_000}
    assert all((n * 9 // 10, n - n * 9 // 10) == TASKS[name].pools[:2] for name, n in percent.items())


@pytest.mark.parametrize(
    ("values", "average"),
    [
        # NOAH and VPT-Deep per task, with the averages that are published for them
        ("69.6 92.7 70.2 99.1 90.4 86.1 53.7 84.4 95.4 83.9 75.8 82.8 68.9 49.9 81.7 81.8 48.3 32.8 44.2", 75.5),
        ("78.8 90.8 65.8 98.0 88.3 78.1 49.6 81.8 96.1 83.4 68.4 68.5 60.0 46.5 72.8 73.6 47.9 32.9 37.8", 72.0),
    ],
)
def test_the_average_is_the_mean_of_the_groups_means(values, average):
    means = group_means(dict(zip(TASKS, map(float, values.split()), strict=True)))
    assert round(sum(means) / 3, 1) == average


def test_encodings_are_told_apart(tmp_path):
    folder = write_vtab(tmp_path, KITTI)
    Image.new("RGB", (9, 9)).save(folder / "images/test/000000.jpg", quality=95)
    Image.new("RGB", (9, 9)).save(folder / "images/test/000001.jpg", "PNG")
    (folder / "images/test/000002.jpg").write_bytes(b"\xff\xd8\xff")
    arrays = decode_task(folder, KITTI, **SMALL)
    assert (
        encoding(arrays["packed"], arrays["offsets"]) == "1 JPEG, other, 33 JPEG, quality 75, 1 PNG, other, 1 damaged"
    )


def rewrite(path, change):
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


DAMAGE = {
    "a line too few": (lambda f: rewrite(f / "test.txt", lambda lines: lines[1:]), "11 lines instead of 12"),
    "twice": (lambda f: rewrite(f / "test.txt", lambda lines: [lines[0], lines[0], *lines[2:]]), "1 images twice"),
    "label": (lambda f: rewrite(f / "val200.txt", lambda lines: [lines[0][:-2] + "4\n", *lines[1:]]), "outside 0..3"),
    "overlap": (
        lambda f: rewrite(f / "val200.txt", lambda lines: [x.replace("val200", "train800") for x in lines]),
        "share 8 images",
    ),
    "classes": (lambda f: rewrite(f / "test.txt", lambda lines: [x[:-2] + "1\n" for x in lines]), "1 classes instead"),
    "union": (
        lambda f: Image.new("RGB", (8, 8)).save(f / "images/train800val200/000003.jpg"),
        "1 images of train800val",
    ),
    "missing": (lambda f: (f / "images/test/000001.jpg").unlink(), "is not read"),
    "empty": (lambda f: (f / "images/test/000001.jpg").write_bytes(b""), "found 0"),
    "note": (lambda f: (f / "built.json").write_text("{"), r"built\.json is not read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_the_benchmark_is_refused(folder, damage):
    spoil, message = DAMAGE[damage]
    spoil(folder)
    with pytest.raises(DataError, match=message):
        decode_task(folder, KITTI, **SMALL)


def test_other_folders_are_missing_and_not_broken(folder, tmp_path):
    for place in (tmp_path, folder / "images"):
        with pytest.raises(DataMissing):
            decode_task(place, KITTI)
    with pytest.raises(DataMissing):
        decode_task(folder, TASKS["dtd"])
    with pytest.raises(DataMissing, match=r"NOAH.*adopt that folder as 'vtab-kitti'"):
        load(PASSPORTS["kitti"], tmp_path)
    with pytest.raises(ValueError, match="each of the 19 tasks"):
        group_means({"kitti": 1.0})


@pytest.mark.parametrize(
    "line",
    [
        "/etc/passwd 0", "../a.jpg 0", "images/../../a.jpg 0", "a.jpg", "a.jpg x", "a.jpg -1", "a.jpg ²", " 0",
        "a//b 0", "a\\b 0",
    ],
)  # fmt: skip
def test_hostile_lines(tmp_path, line):
    (tmp_path / "list").write_text(f"fine.jpg 0\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        read_list(tmp_path / "list", 4)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_as_list_or_image_raise_nothing_but_data_errors(tmp_path, body):
    (tmp_path / "list").write_bytes(body)
    for read in (
        lambda: read_list(tmp_path / "list", 4),
        lambda: open_packed(np.frombuffer(body, np.uint8), np.array([0, len(body)]), 0),
    ):
        try:
            read()
        except DataError:
            continue
