import json
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sextet.data import CIFAR10, CIFAR100, DataError, DataMissing, adopt, content_hash, load
from sextet.data.cifar import (
    decode_cifar10,
    decode_cifar100,
    read_cifar_binary,
    read_cifar_pickle,
    read_cifar_sheet,
)

BATCHES = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]


def batches(classes, count, rows):
    """Random images and balanced labels, in `count` parts of `rows` and one more."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count + 1, rows, 32, 32, 3), np.uint8)
    labels = np.concatenate([rng.permutation(count * rows) % classes, rng.permutation(rows) % classes])
    return [(part, labels[i * rows : (i + 1) * rows]) for i, part in enumerate(images)]


@pytest.fixture
def cifar10():
    return dict(zip(BATCHES, batches(10, 5, 20), strict=True))


@pytest.fixture
def cifar100():
    return dict(zip(["train", "test"], batches(100, 1, 100), strict=True))


def planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def write_binary(folder, sets, coarse=False):
    for name, (images, labels) in sets.items():
        columns = [labels[:, None] // 5] * coarse + [labels[:, None], planes(images)]
        (folder / f"{name}.bin").write_bytes(np.hstack(columns).astype(np.uint8).tobytes())


def write_pickles(folder, sets, key="labels"):
    for name, (images, labels) in sets.items():
        batch = {"data": planes(images), key: labels.tolist(), "filenames": ["x.png"] * len(labels)}
        (folder / name).write_bytes(pickle.dumps(batch, 2))


def write_sheets(folder, sets):
    for name, (images, _) in sets.items():
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(folder / f"{name}.png")
    labels = [sets[name][1].tolist() for name in BATCHES]
    (folder / "train_lables.json").write_text(json.dumps([label for part in labels[:5] for label in part]))
    (folder / "test_lables.json").write_text(json.dumps(labels[5]))


def test_binary_rows_are_label_then_planes(tmp_path):
    row = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes([3]) * 1023 + bytes([4])
    (tmp_path / "f").write_bytes(row * 2)
    images, labels = read_cifar_binary(tmp_path / "f")
    assert labels.tolist() == [7, 7]
    assert images[0, 0, 0].tolist() == [1, 2, 3]
    assert images[1, 31, 31].tolist() == [1, 2, 4]


def test_fine_labels_stand_second(tmp_path):
    (tmp_path / "f").write_bytes(bytes([3, 61]) + bytes(3072))
    assert read_cifar_binary(tmp_path / "f", label_bytes=2)[1].tolist() == [61]


@pytest.mark.parametrize("write", [write_binary, write_pickles, write_sheets])
def test_every_layout_of_cifar10_decodes_to_the_same(tmp_path, cifar10, write):
    write(tmp_path, cifar10)
    arrays = decode_cifar10(tmp_path)
    assert arrays["train_images"].shape == (100, 32, 32, 3)
    assert np.array_equal(arrays["train_images"][20:40], cifar10["data_batch_2"][0])
    assert np.array_equal(arrays["train_labels"][80:], cifar10["data_batch_5"][1])
    assert np.array_equal(arrays["test_images"], cifar10["test_batch"][0])
    assert arrays["test_labels"].tolist() == cifar10["test_batch"][1].tolist()
    assert [arrays[name].dtype for name in sorted(arrays)] == [np.uint8, np.int64] * 2
    assert all(array.flags.c_contiguous for array in arrays.values())


def test_both_layouts_of_cifar100_decode_to_the_same(tmp_path, cifar100):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_binary(tmp_path / "a", cifar100, coarse=True)
    write_pickles(tmp_path / "b", cifar100, "fine_labels")
    first, second = decode_cifar100(tmp_path / "a"), decode_cifar100(tmp_path / "b")
    assert content_hash(first) == content_hash(second)
    assert first["train_labels"].tolist() == cifar100["train"][1].tolist()


def test_the_official_archive_is_adopted(tmp_path, cifar10, monkeypatch):
    from dataclasses import replace

    write_pickles(tmp_path, cifar10)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        for name in BATCHES:
            tar.add(tmp_path / name, f"cifar-10-batches-py/{name}")
    digest = content_hash(decode_cifar10(tmp_path))
    passport = replace(CIFAR10, content_sha256=digest, counts={"train_labels": 100})
    adopt(passport, tmp_path / "cifar-10-python.tar.gz", tmp_path / "root")
    assert content_hash(load(passport, tmp_path / "root", download=False)) == digest


def test_class_names():
    assert len(CIFAR100.class_names) == 100
    assert list(CIFAR100.class_names) == sorted(CIFAR100.class_names)


def test_unequal_classes_are_refused(tmp_path, cifar10):
    images, labels = cifar10["data_batch_1"]
    cifar10["data_batch_1"] = images, np.where(labels == 9, 0, labels)
    write_binary(tmp_path, cifar10)
    with pytest.raises(DataError, match="the training classes have"):
        decode_cifar10(tmp_path)


def test_an_incomplete_set_is_missing(tmp_path, cifar10):
    write_binary(tmp_path, cifar10)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(DataMissing):
        decode_cifar10(tmp_path)
    with pytest.raises(DataMissing):
        decode_cifar100(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3), st.integers(-2, 2), st.integers(1, 2))
def test_binary_files_of_any_size(tmp_path, rows, more, label_bytes):
    body = bytes(max(0, rows * (label_bytes + 3072) + more))
    (tmp_path / "f").write_bytes(body)
    if body and more == 0 and rows < 3:
        assert len(read_cifar_binary(tmp_path / "f", label_bytes, max_rows=2)[1]) == rows
    else:
        with pytest.raises(DataError):
            read_cifar_binary(tmp_path / "f", label_bytes, max_rows=2)


@pytest.mark.parametrize(
    "batch",
    [
        [1],
        {"data": np.zeros((1, 3072), np.uint8)},
        {"data": np.zeros((1, 3071), np.uint8), "labels": [1]},
        {"data": np.zeros((1, 3072), np.int16), "labels": [1]},
        {"data": [0] * 3072, "labels": [1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": {}},
        {"data": np.zeros((1, 3072), np.uint8), "labels": ["1"]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [-1]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [10**30]},
    ],
)
def test_bad_pickles(tmp_path, batch):
    (tmp_path / "f").write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError):
        read_cifar_pickle(tmp_path / "f")


@pytest.mark.parametrize(
    "labels", [b"", b"[", b"{}", b"[1]", b"[1, null]", b"[" * 100_000, b'"ab"', b"[1, 100]", b"\xff"]
)
def test_bad_labels_of_a_sheet(tmp_path, labels):
    Image.new("RGB", (1024, 2)).save(tmp_path / "test_batch.png")
    (tmp_path / "test_lables.json").write_bytes(labels)
    with pytest.raises(DataError):
        read_cifar_sheet(tmp_path / "test_batch.png")


def test_bad_sheets(tmp_path):
    (tmp_path / "test_lables.json").write_text("[1, 2]")
    whole = tmp_path / "whole.png"
    Image.effect_noise((1024, 2), 99).convert("RGB").save(whole)
    bodies = [b"", b"\x89PNG\r\n\x1a\n", whole.read_bytes()[:-100]]
    Image.new("RGB", (1023, 2)).save(whole)
    bodies.append(whole.read_bytes())
    Image.new("L", (1024, 2)).save(whole)
    bodies.append(whole.read_bytes())
    Image.new("RGB", (1024, 2)).save(whole, "BMP")
    bodies.append(whole.read_bytes())
    Image.new("L", (15_000, 13_000)).save(whole, "PNG")
    bodies.append(whole.read_bytes())
    for body in bodies:
        (tmp_path / "test_batch.png").write_bytes(body)
        with pytest.raises(DataError, match="test_batch"):
            read_cifar_sheet(tmp_path / "test_batch.png")
    (tmp_path / "data_batch_x.png").write_bytes(bodies[0])
    with pytest.raises(DataError):
        read_cifar_sheet(tmp_path / "data_batch_x.png")
