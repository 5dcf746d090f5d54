"""VTAB-1K: its 19 tasks, 1,000 training images each, in the layout that circulates (passports for `sextet.data`).

`<task>/images/<split>/000000.jpg` beside `<task>/{train800,val200,train800val200,test}.txt` with one
`images/<split>/000000.jpg label` a line. A task decodes to `packed` and `offsets` (see `image_files.py`), `labels`
int64 [n], and rows of them: `train800`, `val200`, `test`. The image files are kept as they are: `preprocessing.py`
decodes them, at the backbone's size.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bi_adapter.image_files import file_digests, pack_files, read_list
from sextet.data import Arrays, DataError, DataMissing, Passport

GROUPS = ("natural", "specialized", "structured")
LISTS = ("train800", "val200", "test", "train800val200")
TRAIN, VAL = 800, 200


@dataclass(frozen=True)
class Task:
    """One of the 19 tasks.

    Attributes:
        name: of its folder.
        title: for people.
        group: `natural`, `specialized` or `structured`.
        n_classes: labels are 0..n_classes-1.
        pools: images that training and validation images are drawn from, and of the test set.
        homepage, licence: of the source.
    """

    name: str
    title: str
    group: str
    n_classes: int
    pools: tuple[int, int, int]
    homepage: str
    licence: str

    @property
    def n_test(self) -> int:
        """Test images."""
        return self.pools[2]


_TERMS = "terms at the homepage; research use"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_CIFAR = ("https://www.cs.toronto.edu/~kriz/cifar.html", "none stated; research use customary")
_SVHN = ("http://ufldl.stanford.edu/housenumbers", "non-commercial use")
_SUN = ("https://vision.princeton.edu/projects/2010/SUN", _TERMS)
_PCAM = ("https://github.com/basveeling/pcam", "CC0")
_RETINA = ("https://www.kaggle.com/c/diabetic-retinopathy-detection", "terms of the competition")
_CLEVR = ("https://cs.stanford.edu/people/jcjohns/clevr", "CC BY 4.0")
_DMLAB = ("https://github.com/google-research/task_adaptation", _TERMS)
_KITTI = ("https://www.cvlibs.net/datasets/kitti", "CC BY-NC-SA 3.0")
_DSPRITES = ("https://github.com/google-deepmind/dsprites-dataset", "Apache-2.0")
_NORB = ("https://cs.nyu.edu/~ylclab/data/norb-v1.0-small", _TERMS)
# fmt: off
_TASKS = (
    Task("cifar", "CIFAR-100", "natural", 100, (45000, 5000, 10000), *_CIFAR),
    Task("caltech101", "Caltech-101", "natural", 102, (2754, 306, 6084), "https://data.caltech.edu", "CC BY 4.0"),
    Task("dtd", "Describable Textures", "natural", 47, (1880, 1880, 1880), f"{_VGG}/dtd", _TERMS),
    Task("oxford_flowers102", "Flowers-102", "natural", 102, (1020, 1020, 6149), f"{_VGG}/flowers/102", _TERMS),
    Task("oxford_iiit_pet", "Oxford-IIIT Pet", "natural", 37, (2944, 736, 3669), f"{_VGG}/pets", "CC BY-SA 4.0"),
    Task("svhn", "SVHN", "natural", 10, (65931, 7326, 26032), *_SVHN),
    Task("sun397", "SUN397", "natural", 397, (76128, 10875, 21750), *_SUN),
    Task("patch_camelyon", "Patch Camelyon", "specialized", 2, (262144, 32768, 32768), *_PCAM),
    Task("eurosat", "EuroSAT", "specialized", 10, (16200, 5400, 5400), "https://github.com/phelber/EuroSAT", "MIT"),
    Task("resisc45", "RESISC45", "specialized", 45, (18900, 6300, 6300), "https://gcheng-nwpu.github.io", _TERMS),
    Task("diabetic_retinopathy", "Diabetic Retinopathy", "specialized", 5, (35126, 10906, 42670), *_RETINA),
    Task("clevr_count", "CLEVR, number of objects", "structured", 8, (63000, 7000, 15000), *_CLEVR),
    Task("clevr_dist", "CLEVR, distance of the closest object", "structured", 6, (63000, 7000, 15000), *_CLEVR),
    Task("dmlab", "DMLab", "structured", 6, (65550, 22628, 22735), *_DMLAB),
    Task("kitti", "KITTI, distance of the closest vehicle", "structured", 4, (6347, 423, 711), *_KITTI),
    Task("dsprites_loc", "dSprites, horizontal position", "structured", 16, (589824, 73728, 73728), *_DSPRITES),
    Task("dsprites_ori", "dSprites, orientation", "structured", 16, (589824, 73728, 73728), *_DSPRITES),
    Task("smallnorb_azi", "smallNORB, azimuth", "structured", 18, (24300, 12150, 12150), *_NORB),
    Task("smallnorb_ele", "smallNORB, elevation", "structured", 9, (24300, 12150, 12150), *_NORB),
)
# fmt: on
TASKS: Mapping[str, Task] = {task.name: task for task in _TASKS}


def group_means(values: Mapping[str, float]) -> tuple[float, float, float]:
    """Means over the Natural (7), Specialized (4) and Structured (8) tasks; their mean is VTAB-1K's average.

    Args:
        values: a number for each of the 19 tasks.

    Raises:
        ValueError: other tasks than the 19.
    """
    if set(values) != set(TASKS):
        raise ValueError(
            f"values: expected one for each of the 19 tasks, differs in {sorted(set(values) ^ set(TASKS))}"
        )
    natural, specialized, structured = (
        float(np.mean([values[task.name] for task in _TASKS if task.group == group])) for group in GROUPS
    )
    return natural, specialized, structured


def decode_task(folder: Path, task: Task, train: int = TRAIN, val: int = VAL, test: int | None = None) -> Arrays:
    """One task out of its folder.

    Args:
        folder: a folder of the task's name.
        task: which.
        train, val, test: images expected in each list; the benchmark's by default.

    Raises:
        DataMissing: it is not that task's folder.
        DataError: counts, labels or files are not the benchmark's.
    """
    lists = {name: folder / f"{name}.txt" for name in LISTS}
    if folder.name != task.name or not all(path.is_file() for path in lists.values()):
        raise DataMissing(f"{folder} is no folder {task.name} with {', '.join(path.name for path in lists.values())}")
    read = {name: read_list(path, task.n_classes) for name, path in lists.items()}
    expected = {"train800": train, "val200": val, "test": task.n_test if test is None else test}
    _check_lists(read, expected | {"train800val200": train + val}, task, folder)
    parts = [read[name] for name in expected]
    packed, offsets = pack_files(folder, [name for part in parts for name in part[0]])
    labels = np.concatenate([part[1] for part in parts])
    ends = np.cumsum([0, *expected.values()])
    rows = {name: np.arange(low, high) for name, low, high in zip(expected, ends, ends[1:], strict=False)}
    _check_union(folder, read["train800val200"][:2], packed, offsets[: train + val + 1], labels)
    return {
        "packed": packed,
        "offsets": offsets,
        "labels": labels,
        **rows,
        "lists": np.array([f"{name}:{part[2]}" for name, part in read.items()]),
        "origin": np.array([_origin(folder)]),
    }


def _check_lists(
    read: Mapping[str, tuple[list[str], np.ndarray, str]], expected: Mapping[str, int], task: Task, folder: Path
) -> None:
    """Counts, duplicates, overlaps, classes."""
    for name, count in expected.items():
        names = read[name][0]
        if len(names) != count:
            raise DataError(f"{folder}/{name}.txt has {len(names)} lines instead of {count}")
        twice = [file for file, times in Counter(names).items() if times > 1]
        if twice:
            raise DataError(f"{folder}/{name}.txt names {len(twice)} images twice, such as {twice[0]}")
    for one, other in (("train800", "val200"), ("train800", "test"), ("val200", "test"), ("train800val200", "test")):
        if shared := set(read[one][0]) & set(read[other][0]):
            raise DataError(f"{folder}: {one}.txt and {other}.txt share {len(shared)} images, such as {min(shared)}")
    found = len(np.unique(read["test"][1]))
    if found != task.n_classes:
        raise DataError(f"{folder}/test.txt has {found} classes instead of {task.n_classes}")


def _check_union(
    folder: Path, union: tuple[list[str], np.ndarray], packed: np.ndarray, offsets: np.ndarray, labels: np.ndarray
) -> None:
    """The images of train800val200 are those of train800 and val200, with their labels."""
    apart = Counter(zip(file_digests(packed, offsets), labels.tolist(), strict=False))
    together = Counter(zip(file_digests(*pack_files(folder, union[0])), union[1].tolist(), strict=True))
    if apart != together:
        differing = sum((together - apart).values())
        raise DataError(f"{folder}: {differing} images of train800val200.txt are not in train800.txt or val200.txt")


def _origin(folder: Path) -> str:
    """What `vtab_sources.build` noted when it made the folder; empty for a folder that circulates."""
    path = folder / "built.json"
    if not path.is_file():
        return ""
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True)[:1000]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not read ({error})") from error


def encoding(packed: np.ndarray, offsets: np.ndarray, sample: int = 100) -> str:
    """How the image files are compressed: archives differ in whether images were encoded anew at JPEG quality 75.

    Args:
        packed, offsets: the files.
        sample: so many, evenly spread, are looked at.
    """
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    default = getattr(Image.open(stream), "quantization", None)
    kinds: Counter[str] = Counter()
    for row in np.unique(np.linspace(0, len(offsets) - 2, sample).astype(int)):
        try:
            with Image.open(io.BytesIO(packed[offsets[row] : offsets[row + 1]].tobytes())) as image:
                tables = getattr(image, "quantization", None)
                kinds["JPEG, quality 75" if tables == default else f"{image.format}, other"] += 1
        except (OSError, SyntaxError, ValueError, Warning, MemoryError, Image.DecompressionBombError):
            kinds["damaged"] += 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _facts(arrays: Arrays) -> dict[str, str]:
    lists = dict(str(entry).split(":") for entry in arrays["lists"])
    facts = {f"sha256 of {name}.txt": digest for name, digest in lists.items()}
    origin = str(arrays["origin"][0]) or "as adopted; lists presumably in the order of TensorFlow Datasets"
    return {**facts, "encoding of a sample": encoding(arrays["packed"], arrays["offsets"]), "origin": origin}


def task_passport(task: Task) -> Passport:
    """The passport of one task, `vtab-<task>`."""
    return Passport(
        name=f"vtab-{task.name}",
        title=f"VTAB-1K: {task.title}, {task.n_classes} classes, 1,000 training and {task.n_test:,} test images",
        homepage=task.homepage,
        licence=task.licence,
        size="a few GB for all 19 tasks as they circulate",
        sources=(),
        decode=partial(decode_task, task=task),
        # No copy was at hand to hash; archives differ in how images are encoded. The lists' hashes are recorded
        content_sha256=None,
        instructions=(
            f"Get VTAB-1K in the layout of NOAH (github.com/ZhangYuanhan-AI/NOAH, data/vtab-source): a folder "
            f"{task.name} with images/ and the four lists train800.txt, val200.txt, train800val200.txt and test.txt; "
            "the VPT repository's VTAB_SETUP.md tells of ready-made archives. Any folder above it will do."
        ),
        counts={"train800": TRAIN, "val200": VAL, "test": task.n_test},
        facts=_facts,
    )


PASSPORTS: Mapping[str, Passport] = {task.name: task_passport(task) for task in _TASKS}
