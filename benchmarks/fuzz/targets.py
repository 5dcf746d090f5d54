"""The parsers that read other people's files, each with whole files to begin from."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from benchmarks.fuzz.engine import Target

RNG = np.random.default_rng(0)
TABLE = Path(__file__).parents[1] / "tables/fslstm/glyphs.yaml"


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    """Prepares a folder with one file."""
    return lambda folder: _put(folder / name, content)


def _put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _png(side: int = 8, width: int | None = None) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = RNG.integers(0, 256, (side, width or side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _jpeg() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, format="JPEG")
    return buffer.getvalue()


def _tensors() -> dict[str, torch.Tensor]:
    return {"features": torch.randn(6, 3), "labels": torch.arange(6)}


def _torch_file(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


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
            import shutil

            shutil.rmtree(into, ignore_errors=True)
        assert set(folder.parent.iterdir()) == before, "something was written beside its root"

    return parse


def stored_dataset(folder: Path) -> None:
    """A dataset as `adopt` stores it."""
    from sextet.data import adopt

    raw = folder.parent / "raw"
    _put(raw / "x.bin", bytes(range(40)))
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
    _put(folder / "cifar10_test_batch_1.png", _png(4, 1024))
    _put(folder / "train_lables.json", json.dumps([1, 2, 3, 4]))


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


def photographs(folder: Path) -> None:
    """A class folder with a PNG and a JPEG."""
    _put(folder / "a/x.png", _png())
    _put(folder / "a/y.jpg", _jpeg())


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
        task, identity, Scores((0.5, 1.0)), wall_s=1.0, device_s=0.0, peak_bytes=1, device="CPU", root=folder
    )
    write_record(folder, record)


def parse_record(folder: Path) -> None:
    """It."""
    from sextet_bench.record import read_records

    read_records(folder, "t/t", "laptop")


def parse_log(folder: Path) -> None:
    """A training log."""
    from sextet.training import read_log

    read_log(folder)


@cache
def _vit() -> Any:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=0).eval()


def adapter_folder(folder: Path) -> None:
    """A saved adapter."""
    import bi_adapter

    model = bi_adapter.attach(_vit(), bi_adapter.BiAdapterConfig(), num_classes=3)
    bi_adapter.save_pretrained(model, folder)
    bi_adapter.delete_adapter(model, "default")


def parse_adapter_folder(folder: Path) -> None:
    """Load it."""
    import bi_adapter

    bi_adapter.from_pretrained(_vit(), folder)
    bi_adapter.delete_adapter(_vit(), "default")


def parse_published_adapter(folder: Path) -> None:
    """The authors' yaml and bin."""
    import bi_adapter
    from bi_adapter.published import load_bin, read_config

    load_bin(_vit(), folder / "a.bin", read_config(folder / "a.yaml"))
    bi_adapter.delete_adapter(_vit(), "default")


def published_adapter(folder: Path) -> None:
    """As the authors released them."""
    import bi_adapter
    from bi_adapter.published import export_bin

    config = bi_adapter.BiAdapterConfig(codebook="as-published")
    model = bi_adapter.attach(_vit(), config, num_classes=3)
    export_bin(model, folder / "a.bin", dataset="toy")
    bi_adapter.delete_adapter(model, "default")


def parse_norb(folder: Path) -> None:
    """smallNORB's matrices."""
    from bi_adapter.vtab_sources import read_norb

    read_norb(folder / "a.mat", max_bytes=1 << 24)


def parse_vtab_list(folder: Path) -> None:
    """VTAB's lists."""
    from bi_adapter.image_files import read_list

    read_list(folder / "train800.txt", 10)


def parse_fslstm(kind: str) -> Callable[[Path], None]:
    """The pickles that circulate, and feature files."""

    def parse(folder: Path) -> None:
        from fslstm import image_files, interop

        if kind == "category":
            image_files.read_category_pickle(folder / "a.pickle", 8)
        elif kind == "cache":
            image_files.read_cache_pickle(folder / "a.pickle", 8)
        else:
            interop.load_features(folder / "a.npz")

    return parse


def message_catalogue() -> bytes:
    """A compiled catalogue of three messages."""
    pairs = [(b"", b"Content-Type: text/plain; charset=UTF-8\n"), (b"File", b"Datei"), (b"one\0many", b"eins\0viele")]
    start = 28 + 16 * len(pairs)
    tables: list[list[bytes]] = [[], []]
    body = b""
    for side in (0, 1):
        for pair in pairs:
            tables[side].append(struct.pack("<II", len(pair[side]), start + len(body)))
            body += pair[side] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 28 + 16 * len(pairs))
    return head + b"".join(tables[0]) + b"".join(tables[1]) + body


def parse_messages(folder: Path) -> None:
    """It."""
    from nat_crf.gettext_catalogue import read_messages

    read_messages((folder / "a.mo").read_bytes())


def parse_vocabulary(folder: Path) -> None:
    """fairseq's dict.txt."""
    from nat_crf.vocabulary import Vocabulary

    Vocabulary.load(folder / "dict.txt")


def codec_folder(folder: Path) -> None:
    """A codec in words."""
    from nat_crf.codecs import MosesCodec
    from nat_crf.vocabulary import Vocabulary

    MosesCodec("en", Vocabulary(["a", "file"], [2, 1]), None).save(folder)


def parse_codec(folder: Path) -> None:
    """It."""
    from nat_crf.codecs import load_codec

    load_codec(folder)


def translation_model(folder: Path) -> None:
    """A model as small as it can be."""
    from nat_crf.config import NatConfig
    from nat_crf.model_folder import save_model
    from nat_crf.models import Nat

    sizes = {"dim": 8, "heads": 2, "ffn_dim": 8, "encoder_layers": 1, "decoder_layers": 1}
    known = {name: value for name, value in sizes.items() if name in NatConfig.__dataclass_fields__}
    save_model(Nat(NatConfig(**known), 12, 12), folder)


def parse_translation_model(folder: Path) -> None:
    """It."""
    from nat_crf.model_folder import load_model

    load_model(folder)


def iwslt_files(folder: Path) -> None:
    """The official files, a few lines each."""
    from nat_crf.translation_sets import IWSLT14_TEST

    for language in ("en", "de"):
        lines = "<url>x</url>\n<title>T</title>\n one\n two\n"
        _put(folder / f"train.tags.de-en.{language}", lines)
        for name in IWSLT14_TEST:
            _put(folder / f"IWSLT14.{name}.de-en.{language}.xml", '<doc>\n<seg id="1"> one </seg>\n</doc>\n')


def parse_iwslt(folder: Path) -> None:
    """Them."""
    from nat_crf.translation_sets import decode_iwslt14

    decode_iwslt14(folder)


def parse_file_list(folder: Path) -> None:
    """CloserLook's lists."""
    from cdfsl_ata.filelists import read_filelist

    read_filelist(folder / "novel.json", folder)


def file_list(folder: Path) -> None:
    """One with two images."""
    photographs(folder)
    names = [f"/somewhere/a/{name}" for name in ("x.png", "y.jpg")]
    _put(folder / "novel.json", json.dumps({"label_names": ["a"], "image_names": names, "image_labels": [0, 0]}))


def parse_car_annotations(folder: Path) -> None:
    """Stanford Cars' MATLAB file."""
    from cdfsl_ata.layouts import read_car_annotations

    read_car_annotations(folder / "cars_train_annos.mat")


def car_annotations(folder: Path) -> None:
    """One with two images."""
    from scipy.io import savemat

    kind = [("fname", object), ("class", object)]
    rows = np.array([("00001.jpg", 1), ("00002.jpg", 2)], dtype=kind)
    savemat(folder / "cars_train_annos.mat", {"annotations": rows})


def released_lmim(folder: Path) -> None:
    """A released checkpoint of a very small ViT."""
    from lmim.config import MimConfig
    from lmim.conversion import make_pretrained

    sizes = MimConfig(image=32, patch=16, dim=16, depths=(7,), heads=(2,), decoder_dims=(8,), decoder_heads=2)
    _put(
        folder / "a.pth",
        _torch_file({"model": make_pretrained(sizes).state_dict(), "epoch": 1, "args": argparse.Namespace(lr=1)}),
    )


def parse_released_lmim(folder: Path) -> None:
    """It."""
    from lmim.conversion import load_released

    load_released(folder / "a.pth", heads=2)


NPZ = _npz(features=np.ones((6, 3), np.float32), labels=np.arange(6))
IMAGES = RNG.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
CATEGORY = {"data": IMAGES, "labels": [0, 0, 1, 1], "catname2label": {"a": 0, "b": 1}}
CACHE = {"image_data": IMAGES, "class_dict": {"a": [0, 1], "b": [2, 3]}}
BATCH = {"data": RNG.integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [1, 2]}

TARGETS = (
    Target("checkpoint", checkpoint_files, parse_checkpoint),
    Target("safetensors", write("a.safetensors", safetensors.torch.save(_tensors())), parse_foreign("a.safetensors")),
    Target("npz", write("a.npz", NPZ), parse_foreign("a.npz")),
    Target("torch-file", write("a.pt", _torch_file(_tensors())), parse_foreign("a.pt")),
    Target("zip", zip_file, parse_archive("a.zip")),
    Target("tar", tar_file, parse_archive("a.tar")),
    Target("stored-dataset", stored_dataset, parse_stored),
    Target("idx", write("a-idx", _idx(IMAGES)), parse_idx("a-idx")),
    Target("idx-gzip", write("a-idx.gz", gzip.compress(_idx(IMAGES))), parse_idx("a-idx.gz")),
    Target("cifar-binary", write("data_batch_1.bin", bytes(3073) * 2), parse_cifar("binary")),
    Target("cifar-pickle", write("data_batch_1", pickle.dumps(BATCH, protocol=2)), parse_cifar("pickle")),
    Target("cifar-sheet", cifar_sheet, parse_cifar("sheet")),
    Target("photographs", photographs, parse_photograph),
    Target("log", write("log.jsonl", '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n'), parse_log),
    Target("table", write("t.yaml", TABLE.read_bytes()), parse_table),
    Target("record", record_file, parse_record),
    Target("adapter-folder", adapter_folder, parse_adapter_folder),
    Target("published-adapter", published_adapter, parse_published_adapter),
    Target("norb", write("a.mat", struct.pack("<II4I", 0x1E3D4C55, 4, 1, 2, 3, 3) + bytes(18)), parse_norb),
    Target("vtab-list", write("train800.txt", "images/train/1.jpg 3\nimages/train/2.jpg 9\n"), parse_vtab_list),
    Target("category-pickle", write("a.pickle", pickle.dumps(CATEGORY, protocol=2)), parse_fslstm("category")),
    Target("cache-pickle", write("a.pickle", pickle.dumps(CACHE, protocol=2)), parse_fslstm("cache")),
    Target("features", write("a.npz", NPZ), parse_fslstm("npz")),
    Target("message-catalogue", write("a.mo", message_catalogue()), parse_messages),
    Target("vocabulary", write("dict.txt", "the 10\nof 5\nand 3\n"), parse_vocabulary),
    Target("codec", codec_folder, parse_codec),
    Target("translation-model", translation_model, parse_translation_model),
    Target("iwslt14", iwslt_files, parse_iwslt),
    Target("file-list", file_list, parse_file_list, fixed=("x.png", "y.jpg")),
    Target("car-annotations", car_annotations, parse_car_annotations),
    Target("released-lmim", released_lmim, parse_released_lmim),
)  # fmt: skip
