from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from sextet.data import DataError, DataMissing
from sextet.data import photographs as module
from sextet.data.photographs import (
    PhotographList,
    decode_photographs,
    fitted,
    list_class_folders,
    open_photograph,
    pack_photographs,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, three photographs of different sizes, a file that is none."""
    folder = tmp_path / "photographs"
    rng = np.random.default_rng(0)
    for name, size in (("cat/b.png", (20, 30)), ("cat/a.png", (24, 16)), ("dog/x.JPEG", (17, 17))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name, quality=95)
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "empty").mkdir()
    return folder


def test_class_folders_in_the_order_of_their_names(root: Path) -> None:
    found = list_class_folders(root)
    assert found.files == ("cat/a.png", "cat/b.png", "dog/x.JPEG")
    assert found.labels.tolist() == [0, 0, 1]
    assert found.class_names == ("cat", "dog")
    assert found[0].size == (16, 24)
    assert found.subset([2]).files == ("dog/x.JPEG",)
    assert found.subset([2]).digest != found.digest == list_class_folders(root).digest


def test_named_classes_keep_their_order(root: Path) -> None:
    found = list_class_folders(root, ["dog", "cat"])
    assert found.class_names == ("dog", "cat")
    assert found.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("names", [["dog", "bird"], ["empty"]])
def test_missing_classes_are_named(root: Path, names: list[str]) -> None:
    with pytest.raises(DataMissing, match=names[-1]):
        list_class_folders(root, names)


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="sub-folder a class"):
        list_class_folders(tmp_path / "absent")
    with pytest.raises(DataMissing, match="no sub-folder holds an image"):
        list_class_folders(tmp_path)


@pytest.mark.parametrize("size", [(31, 20), (20, 31), (16, 16), (33, 64)])
def test_crop_is_torchvisions(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
    theirs = v2.Compose([v2.Resize(18), v2.CenterCrop(16)])(image)
    np.testing.assert_array_equal(np.asarray(fitted(image, 16, "crop", resize=18)), np.asarray(theirs))


def test_squash_keeps_everything() -> None:
    image = Image.fromarray(np.tile(np.uint8([[[0] * 3], [[255] * 3]]), (1, 8, 1)))
    assert np.asarray(fitted(image, 2, "squash"))[:, 0, 0].tolist() == [0, 255]


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
def test_decoding_in_memory_and_packed_agree(root: Path, tmp_path: Path, resample: str) -> None:
    found = list_class_folders(root)
    images, rows, failed = decode_photographs(found, 8, resample=resample)
    assert images.shape == (3, 8, 8, 3)
    assert (rows.tolist(), failed) == ([0, 1, 2], ())
    np.testing.assert_array_equal(images[1], np.asarray(fitted(found[1], 8, resample=resample)))
    packed, rows, failed = pack_photographs(found, 8, tmp_path / "packed.npy", resample=resample)
    assert (rows.tolist(), failed) == ([0, 1, 2], ())
    np.testing.assert_array_equal(images, packed)


def test_a_packed_file_is_used_again_only_for_the_same_request(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found = tmp_path / "packed.npy", list_class_folders(root)
    pack_photographs(found, 8, path)
    (root / "cat" / "a.png").write_bytes(b"gone bad")
    assert pack_photographs(found, 8, path)[0].shape == (3, 8, 8, 3)
    with pytest.raises(DataError, match=r"a\.png is not read"):
        pack_photographs(found, 9, path)


def test_packing_that_was_stopped_goes_on_where_it_was(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = PhotographList(root, ("cat/a.png", "cat/b.png", "dog/x.JPEG") * 2, np.zeros(6, np.int64), ("all",))
    whole = decode_photographs(found, 8)[0]
    monkeypatch.setattr(module, "_CHUNK", 2)
    opened: list[str] = []

    def dies(path: Path) -> Image.Image:
        opened.append(path.name)
        if len(opened) == 5:
            raise KeyboardInterrupt
        return open_photograph(path)

    monkeypatch.setattr(module, "open_photograph", dies)
    path = tmp_path / "packed.npy"
    with pytest.raises(KeyboardInterrupt):
        pack_photographs(found, 8, path)
    assert not path.exists()
    before = len(opened)
    packed, _, _ = pack_photographs(found, 8, path)
    assert len(opened) - before == 2
    np.testing.assert_array_equal(packed, whole)
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_file()) == ["packed.npy", "packed.npy.json"]


def test_unreadable_files_are_named_and_counted(root: Path, tmp_path: Path) -> None:
    (root / "cat" / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
    (root / "cat" / "d.jpg").write_bytes((root / "dog" / "x.JPEG").read_bytes()[:200])
    found = list_class_folders(root)
    with pytest.raises(DataError, match=r"c\.png is not read .*; 2 of 5 files"):
        decode_photographs(found, 8)
    images, rows, failed = decode_photographs(found, 8, unreadable="skip")
    assert rows.tolist() == [0, 1, 4]
    assert failed == ("cat/c.png", "cat/d.jpg")
    packed, rows_packed, failed_packed = pack_photographs(found, 8, tmp_path / "p.npy", unreadable="skip")
    np.testing.assert_array_equal(packed[rows_packed], images)
    assert failed_packed == failed
    with pytest.raises(DataError, match="2 of 5"):
        pack_photographs(found, 8, tmp_path / "p.npy")


def test_nothing_readable(root: Path, tmp_path: Path) -> None:
    (root / "dog" / "x.JPEG").write_bytes(b"")
    only = list_class_folders(root, ["dog"])
    with pytest.raises(DataError, match="none of 1"):
        decode_photographs(only, 8, unreadable="skip")
    with pytest.raises(DataError, match="none of 0"):
        pack_photographs(only.subset([]), 8, tmp_path / "p.npy")


def test_too_many_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 300)
    with pytest.raises(DataError, match="pixels are too many"):
        list_class_folders(root)[0]


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "a//b.png", "a/./b.png", "a\\b.png", "", "a\0.png"])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no name of a file inside"):
        PhotographList(tmp_path, (name,), np.zeros(1, np.int64), ("all",))


@pytest.mark.parametrize("labels", [np.zeros(2, np.int64), np.zeros(1, np.int32), np.full(1, 3), np.full(1, -1)])
def test_labels_fit_files_and_classes(tmp_path: Path, labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="labels: expected"):
        PhotographList(tmp_path, ("a.png",), labels, ("all",))
