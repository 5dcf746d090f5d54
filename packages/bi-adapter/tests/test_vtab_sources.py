from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from bi_adapter_testing.official_data import (
    norb_matrix,
    small_task,
    write_cifar100,
    write_class_folders,
    write_clevr,
    write_dsprites,
    write_dtd,
    write_pets,
    write_smallnorb,
)
from PIL import Image

from bi_adapter.image_files import open_packed
from bi_adapter.vtab import PASSPORTS, TASKS
from bi_adapter.vtab_sources import SOURCES, build, read_norb, unbuilt
from sextet.data import DataError, DataMissing, adopt, load

WRITE = {
    "cifar": write_cifar100,
    "dtd": write_dtd,
    "oxford_iiit_pet": write_pets,
    "eurosat": partial(write_class_folders, n_classes=10, per_class=30),
    "resisc45": partial(write_class_folders, n_classes=45, per_class=30),
    "clevr_count": write_clevr,
    "clevr_dist": write_clevr,
    "dsprites_loc": write_dsprites,
    "dsprites_ori": write_dsprites,
    "smallnorb_azi": partial(write_smallnorb, test=180),
    "smallnorb_ele": write_smallnorb,
}
N_TEST = {
    "cifar": 200, "dtd": 47, "oxford_iiit_pet": 74, "eurosat": 60, "resisc45": 270, "clevr_count": 40, "clevr_dist": 40,
    "dsprites_loc": 64, "dsprites_ori": 64, "smallnorb_azi": 90, "smallnorb_ele": 36,
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_every_built_task_is_adopted(name, tmp_path):
    source = WRITE[name](tmp_path / "source")
    folder = build(name, source, tmp_path / "vtab", train=16, val=6)
    passport = small_task(PASSPORTS[name], TASKS[name], 16, 6, N_TEST[name])
    adopt(passport, tmp_path / "vtab", tmp_path / "root")
    arrays = load(passport, tmp_path / "root")
    assert [len(arrays[split]) for split in ("train800", "val200", "test")] == [16, 6, N_TEST[name]]
    record = (tmp_path / "root" / f"vtab-{name}" / "passport.json").read_text()
    assert "bi_adapter.vtab_sources" in record
    assert "JPEG, quality 75" in record
    assert json.loads((folder / "built.json").read_text())["jpeg75"] is True


def decoded(name, folder, root, **sizes):
    passport = small_task(PASSPORTS[name], TASKS[name], **sizes)
    adopt(passport, folder, root)
    arrays = load(passport, root)
    rows = range(len(arrays["labels"]))
    return [np.asarray(open_packed(arrays["packed"], arrays["offsets"], row)) for row in rows], arrays


def test_lossless_images_are_those_of_the_source(tmp_path):
    write_smallnorb(tmp_path / "source", test=180)
    build("smallnorb_azi", tmp_path / "source", tmp_path / "vtab", jpeg75=False, train=36, val=6)
    found, arrays = decoded("smallnorb_azi", tmp_path / "vtab", tmp_path / "root", train=36, val=6, test=90)
    files = "smallnorb-5x46789x9x18x6x2x96x96-training-{}.mat"
    images, info = (read_norb(tmp_path / "source" / files.format(part)) for part in ("dat", "info"))
    azimuth_of = {image.tobytes(): azimuth // 2 for image, azimuth in zip(images[:, 0], info[:, 2], strict=True)}
    for row in arrays["train800"]:
        assert (found[row] == found[row][..., :1]).all()
        assert azimuth_of[found[row][..., 0].tobytes()] == arrays["labels"][row]


def test_dsprites_are_black_and_white_and_all_parts_differ(tmp_path):
    build("dsprites_loc", write_dsprites(tmp_path / "source"), tmp_path / "vtab", jpeg75=False, train=512, val=64)
    found, arrays = decoded("dsprites_loc", tmp_path / "vtab", tmp_path / "root", train=512, val=64, test=64)
    assert set(np.unique(np.stack(found))) == {0, 255}
    assert len({image.tobytes() for image in found}) == 640 == len(arrays["labels"])


def test_the_draw_depends_on_the_seed_alone(tmp_path):
    source = write_class_folders(tmp_path / "source", 10, 10)
    lists = [
        (build("eurosat", source, tmp_path / str(i), seed=seed, train=16, val=6) / "train800.txt").read_text()
        for i, seed in enumerate((0, 0, 1))
    ]
    assert lists[0] == lists[1] != lists[2]


def test_eight_tasks_are_only_read():
    assert set(unbuilt()) == {
        "caltech101", "oxford_flowers102", "svhn", "sun397", "patch_camelyon", "diabetic_retinopathy", "dmlab", "kitti",
    }  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_without_the_official_files(name, tmp_path):
    with pytest.raises(DataMissing):
        build(name, tmp_path, tmp_path / "vtab")
    assert not (tmp_path / "vtab" / name).exists()


def test_bad_requests(tmp_path):
    with pytest.raises(ValueError, match="got 'kitti'; the others are only read"):
        build("kitti", tmp_path, tmp_path)
    source = write_class_folders(tmp_path / "source", 10, 2)
    with pytest.raises(DataError, match="12 images to draw 800 from"):
        build("eurosat", source, tmp_path / "vtab")
    (tmp_path / "vtab/eurosat").mkdir(parents=True)
    with pytest.raises(ValueError, match="exists"):
        build("eurosat", source, tmp_path / "vtab")


def test_damaged_sources(tmp_path):
    source = write_clevr(tmp_path / "clevr")
    scenes = source / "scenes/CLEVR_val_scenes.json"
    for content in (b"{", b"[]", b'{"scenes": [{}]}', b'{"scenes": [{"image_filename": "a", "objects": []}]}', b"\xff"):
        scenes.write_bytes(content)
        for name in ("clevr_count", "clevr_dist"):
            with pytest.raises(DataError):
                build(name, source, tmp_path / "out", train=4, val=4)
    dtd = write_dtd(tmp_path / "dtd")
    (dtd / "labels/test1.txt").write_text("unknown/a.jpg\n")
    with pytest.raises(DataError, match="'unknown', which has no folder"):
        build("dtd", dtd, tmp_path / "out")
    (dtd / "labels/test1.txt").write_text("../a.jpg\n")
    with pytest.raises(DataError, match="outside its folder"):
        build("dtd", dtd, tmp_path / "out")
    pets = write_pets(tmp_path / "pets")
    (pets / "annotations/test.txt").write_text("a 38 1 1\n")
    with pytest.raises(DataError, match="expected lines like"):
        build("oxford_iiit_pet", pets, tmp_path / "out")
    (tmp_path / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="is not read"):
        build("dsprites_loc", tmp_path, tmp_path / "out")
    eurosat = write_class_folders(tmp_path / "eurosat", 10, 5)
    next((eurosat / "Class00").iterdir()).write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="is not read"):
        build("eurosat", eurosat, tmp_path / "out", train=30, val=10)


def test_norb_matrices(tmp_path):
    path = tmp_path / "m.mat"
    array = np.arange(6, dtype=np.int32)
    path.write_bytes(norb_matrix(array))
    assert np.array_equal(read_norb(path), array)
    whole = path.read_bytes()
    for body, message in (
        (whole[:-1], "found 23"),
        (whole + b"0", "found more"),
        (whole[:6], "is not read"),
        (b"\0" * 40, "is no matrix"),
        (whole[:8] + b"\xff" * 12 + whole[20:], "more than the"),
    ):
        path.write_bytes(body)
        with pytest.raises(DataError, match=message):
            read_norb(path)
    Image.new("L", (2, 2)).save(tmp_path / "m.mat.gz", "PNG")
    with pytest.raises(DataError, match="is not read"):
        read_norb(tmp_path / "m.mat.gz")
