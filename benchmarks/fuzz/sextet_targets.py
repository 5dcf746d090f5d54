"""Parsers of the shared package and of the bench."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from benchmarks.fuzz.engine import Target
from benchmarks.fuzz.files import IMAGES, NPZ, RNG, idx, photographs, png, put, tensors, torch_file, write

TABLE = Path(__file__).parents[1] / "tables/fslstm/glyphs.yaml"
BATCH = {"data": RNG.integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [1, 2]}


def checkpoint_files(folder: Path) -> None:
    """A checkpoint as training writes it."""
    from sextet import checkpoint

    content = {"parts": {"model": {"w": torch.randn(3)}, "step": 1, "names": ["a", None, 2.5, True]}, "rng": [{}]}
    checkpoint.save(folder, content, 3)


def parse_checkpoint(folder: Path) -> None:
    """Its newest."""
    from sextet import checkpoint

    checkpoint.load(folder / "step-000000003")


def parse_foreign(name: str) -> Callable[[Path], None]:
    """Weights in some format."""

    def parse(folder: Path) -> None:
        from sextet.checkpoint import load_foreign

        load_foreign(folder / name)

    return parse


def zip_file(folder: Path) -> None:
    """A small archive."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("data/one.txt", b"one" * 50)
        archive.writestr("data/two.txt", b"two")


def tar_file(folder: Path) -> None:
    """A small archive, uncompressed so that mutations reach its headers."""
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name in ("data/one.txt", "data/two.txt"):
            item = tarfile.TarInfo(name)
            item.size = 30
            archive.addfile(item, io.BytesIO(b"x" * 30))


def parse_archive(name: str) -> Callable[[Path], None]:
    """Extract, and see that nothing lies outside."""

    def parse(folder: Path) -> None:
        from sextet.data import extract

        before = set(folder.parent.iterdir())
        into = folder.parent / "extracted"
        try:
            extract(folder / name, into, max_bytes=1 << 20, max_files=100)
            assert all(path.resolve().is_relative_to(into.resolve()) for path in into.rglob("*")), "outside of its root"
            assert not any(path.is_symlink() for path in into.rglob("*")), "a link was extracted"
        finally:
            shutil.rmtree(into, ignore_errors=True)
        assert set(folder.parent.iterdir()) == before, "something was written beside its root"

    return parse


def stored_dataset(folder: Path) -> None:
    """A dataset as `adopt` stores it."""
    from sextet.data import adopt

    raw = folder.parent / "raw"
    put(raw / "x.bin", bytes(range(40)))
    adopt(_toy_passport(), raw, folder)


def _toy_passport() -> Any:
    from sextet.data import DataMissing, Passport

    def decode(folder: Path) -> dict[str, np.ndarray]:
        if not (folder / "x.bin").exists():
            raise DataMissing("no x.bin")
        return {"images": np.fromfile(folder / "x.bin", np.uint8), "labels": np.arange(4)}

    return Passport("toy", "Toy", "nowhere", "CC0", "40 B", (), decode, None, "make x.bin.")


def parse_stored(folder: Path) -> None:
    """Open it and read its arrays."""
    from sextet.data import load

    for array in load(_toy_passport(), folder, download=False).values():
        np.asarray(array).sum()


def cifar_sheet(folder: Path) -> None:
    """A sheet of images and its labels."""
    put(folder / "cifar10_test_batch_1.png", png(4, 1024))
    put(folder / "train_lables.json", json.dumps([1, 2, 3, 4]))


def parse_cifar(kind: str) -> Callable[[Path], None]:
    """One of the three formats of CIFAR-10."""

    def parse(folder: Path) -> None:
        from sextet.data import cifar

        if kind == "sheet":
            cifar.read_cifar_sheet(folder / "cifar10_test_batch_1.png")
        elif kind == "pickle":
            cifar.read_cifar_pickle(folder / "data_batch_1")
        else:
            cifar.read_cifar_binary(folder / "data_batch_1.bin")

    return parse


def parse_idx(name: str) -> Callable[[Path], None]:
    """An IDX file."""

    def parse(folder: Path) -> None:
        from sextet.data.mnist import read_idx

        read_idx(folder / name, max_bytes=1 << 24)

    return parse


def parse_photograph(folder: Path) -> None:
    """Two image files."""
    from sextet.data.photographs import list_class_folders

    photographs = list_class_folders(folder)
    for row in range(len(photographs)):
        photographs[row].load()


def parse_table(folder: Path) -> None:
    """A table file."""
    from sextet_bench.tables import read_table

    read_table(folder / "t.yaml")


def record_file(folder: Path) -> None:
    """A result record."""
    from sextet.recipe import Scores
    from sextet_bench.record import Identity, make_record, write_record

    task = {"table": "t/t", "cell": "a/b", "profile": "laptop", "seed": 1, "metric": "m"}
    identity = Identity("r", {"x": 1}, {"mnist": "0"}, {"r": "1"})
    record = make_record(
        task, identity, Scores((0.5, 1.0)), wall_s=1.0, own_s=0.5, stages={"s-0": 2.0}, device_s=0.0, peak_bytes=1,
        device="CPU", root=folder,
    )  # fmt: skip
    write_record(folder, record)


def parse_record(folder: Path) -> None:
    """It."""
    from sextet_bench.record import read_records

    read_records(folder, "t/t", "laptop")


def parse_log(folder: Path) -> None:
    """A training log."""
    from sextet.training import read_log

    read_log(folder)


TARGETS = (
    Target("checkpoint", checkpoint_files, parse_checkpoint),
    Target("safetensors", write("a.safetensors", safetensors.torch.save(tensors())), parse_foreign("a.safetensors")),
    Target("npz", write("a.npz", NPZ), parse_foreign("a.npz")),
    Target("torch-file", write("a.pt", torch_file(tensors())), parse_foreign("a.pt")),
    Target("zip", zip_file, parse_archive("a.zip")),
    Target("tar", tar_file, parse_archive("a.tar")),
    Target("stored-dataset", stored_dataset, parse_stored),
    Target("idx", write("a-idx", idx(IMAGES)), parse_idx("a-idx")),
    Target("idx-gzip", write("a-idx.gz", gzip.compress(idx(IMAGES))), parse_idx("a-idx.gz")),
    Target("cifar-binary", write("data_batch_1.bin", bytes(3073) * 2), parse_cifar("binary")),
    Target("cifar-pickle", write("data_batch_1", pickle.dumps(BATCH, protocol=2)), parse_cifar("pickle")),
    Target("cifar-sheet", cifar_sheet, parse_cifar("sheet")),
    Target("photographs", photographs, parse_photograph),
    Target("log", write("log.jsonl", '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n'), parse_log),
    Target("table", write("t.yaml", TABLE.read_bytes()), parse_table),
    Target("record", record_file, parse_record),
)
