"""Parsers of the packages."""

from __future__ import annotations

import argparse
import json
import pickle
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.fuzz.engine import Target
from benchmarks.fuzz.files import IMAGES, NPZ, photographs, put, torch_file, write

CATEGORY = {"data": IMAGES, "labels": [0, 0, 1, 1], "catname2label": {"a": 0, "b": 1}}
CACHE = {"image_data": IMAGES, "class_dict": {"a": [0, 1], "b": [2, 3]}}


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

    config = NatConfig(dim=8, heads=2, ffn_dim=8, encoder_layers=1, decoder_layers=1)
    save_model(Nat(config, 12, 12), folder)


def parse_translation_model(folder: Path) -> None:
    """It."""
    from nat_crf.model_folder import load_model

    load_model(folder)


def iwslt_files(folder: Path) -> None:
    """The official files, a few lines each."""
    from nat_crf.translation_sets import IWSLT14_TEST

    for language in ("en", "de"):
        lines = "<url>x</url>\n<title>T</title>\n one\n two\n"
        put(folder / f"train.tags.de-en.{language}", lines)
        for name in IWSLT14_TEST:
            put(folder / f"IWSLT14.{name}.de-en.{language}.xml", '<doc>\n<seg id="1"> one </seg>\n</doc>\n')


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
    put(folder / "novel.json", json.dumps({"label_names": ["a"], "image_names": names, "image_labels": [0, 0]}))


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


def coco_annotations(folder: Path) -> None:
    """Both files, with one image and one object."""
    for split in ("train", "val"):
        (folder / f"{split}2017").mkdir()
        content = {
            "images": [{"id": 7, "file_name": "7.jpg"}], "categories": [{"id": 3}],
            "annotations": [{
                "image_id": 7, "category_id": 3, "iscrowd": 0, "bbox": [1, 2, 3, 4],
                "segmentation": [[1, 2, 4, 2, 4, 6]],
            }],
        }  # fmt: skip
        path = folder / f"annotations/instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def parse_coco_annotations(folder: Path) -> None:
    """All of it; no image is opened."""
    from lmim.coco import decode_coco

    decode_coco(folder)


def released_lmim(folder: Path) -> None:
    """A released checkpoint of a very small ViT."""
    from lmim.config import MimConfig
    from lmim.conversion import make_pretrained

    sizes = MimConfig(image=32, patch=16, dim=16, depths=(7,), heads=(2,), decoder_dims=(8,), decoder_heads=2)
    put(
        folder / "a.pth",
        torch_file({"model": make_pretrained(sizes).state_dict(), "epoch": 1, "args": argparse.Namespace(lr=1)}),
    )


def parse_released_lmim(folder: Path) -> None:
    """It."""
    from lmim.conversion import load_released

    load_released(folder / "a.pth", heads=2)


TARGETS = (
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
    Target("coco-annotations", coco_annotations, parse_coco_annotations),
    Target("released-lmim", released_lmim, parse_released_lmim),
)
