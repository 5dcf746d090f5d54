"""The nine datasets of the cross-domain benchmark: passports, and their images as packed arrays (section 10).

A dataset is stored as `<split>_images` uint8 `[n, 257, 257, 3]`, `<split>_labels` int64 `[n]` counted from 0 in each
split, and `<split>_classes`, their names. 257 is int(1.15 * 224): the published test images are the centres of these,
pixel for pixel. Domains that are only tested store their novel classes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from cdfsl_ata.filelists import filelists_in, split_folders_in
from cdfsl_ata.layouts import LAYOUTS, Photographs
from cdfsl_ata.splits import CHESTX_CLASSES, CROP_CLASSES, EUROSAT_CLASSES, ISIC_CLASSES, MINI_IMAGENET_CLASSES, SPLITS
from sextet.data import Arrays, DataError, Passport, Source, Url
from sextet.data.photographs import decode_photographs

SIDE = 257
Unreadable = Literal["raise", "skip"]


@dataclass(frozen=True)
class Domain:
    """What is known about one dataset of the benchmark.

    Attributes:
        key: short name, as in configs.
        title, homepage, licence, size, instructions, sources: see `sextet.data.Passport`.
        classes: split -> number of its classes.
        images: split -> number of its images, where that is known.
        class_names: split -> names of its classes, where they are known beforehand.
        stored: the splits that are decoded and stored.
    """

    key: str
    title: str
    homepage: str
    licence: str
    size: str
    instructions: str
    classes: Mapping[str, int]
    images: Mapping[str, int] = field(default_factory=dict)
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stored: tuple[str, ...] = ("novel",)
    sources: tuple[Source, ...] = ()

    @property
    def name(self) -> str:
        """Of the passport; the prefix keeps it apart from other people's versions of the same photographs."""
        return f"cdfsl-{self.key}"


def find_photographs(domain: Domain, folder: Path) -> Photographs:
    """Which files of a folder belong to which split and class of a domain; nothing is decoded.

    `base.json`, `val.json`, `novel.json` count first, then folders `base`, `val`, `novel` with a folder a class, then
    the official layout with the published rule.

    Raises:
        DataMissing: the folder does not hold the domain.
        DataError: it holds another number of classes.
    """
    found = filelists_in(folder) or split_folders_in(folder) or LAYOUTS[domain.key](folder)
    for split in domain.stored:
        count = len(set(found[split].labels.tolist())) if split in found else 0
        if count != domain.classes[split]:
            raise DataError(
                f"{folder}: {domain.title.partition(':')[0]} has {count} {split} classes, "
                f"expected {domain.classes[split]}"
            )
    return found


def decode(folder: Path, domain: Domain, side: int = SIDE, unreadable: Unreadable = "raise") -> Arrays:
    """The stored splits of a domain, decoded, resized to `side` x `side` without keeping the aspect.

    Args:
        folder: that holds the files.
        domain: which.
        side: of the images.
        unreadable: `raise` at the first image that cannot be read, or `skip` such images; their names are then in the
            array `unreadable`.

    Raises:
        DataMissing: the folder does not hold the domain.
        DataError: an image cannot be read, or a class has none that can.
    """
    found = find_photographs(domain, folder)
    arrays: Arrays = {}
    failed: list[str] = []
    for split in domain.stored:
        photographs = found[split]
        images, rows, names = decode_photographs(photographs, side, fit="squash", unreadable=unreadable)
        labels = photographs.labels[rows]
        if lost := sorted(set(range(len(photographs.class_names))) - set(labels.tolist())):
            empty = ", ".join(photographs.class_names[label] for label in lost[:5])
            raise DataError(f"{folder}: no readable image of {empty}")
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        arrays[f"{split}_classes"] = np.array(photographs.class_names, dtype=np.str_)
        failed += names
    if failed:
        arrays["unreadable"] = np.array(failed, dtype=np.str_)
    return arrays


def unreadable_facts(arrays: Arrays) -> dict[str, str]:
    """For the record beside the stored arrays: how many images were skipped, and the first of their names."""
    names = arrays.get("unreadable", np.array([], dtype=np.str_)).tolist()
    return {"unreadable": str(len(names)), "unreadable_names": ", ".join(names[:20])} if names else {}


def passport(domain: Domain, *, unreadable: Unreadable = "raise", side: int = SIDE) -> Passport:
    """The passport of a domain; with `skip` the number of images is not checked."""
    counts = {f"{split}_labels": domain.images[split] for split in domain.stored if split in domain.images}
    return Passport(
        name=domain.name,
        title=domain.title,
        homepage=domain.homepage,
        licence=domain.licence,
        size=domain.size,
        sources=domain.sources,
        decode=_decoder(domain, side, unreadable),
        # No copy was at hand to hash, and decoders of JPEG differ in the last bit; counts and classes identify a set
        content_sha256=None,
        instructions=domain.instructions,
        class_names=tuple(name for split in domain.stored for name in domain.class_names.get(split, ())),
        counts=counts if unreadable == "raise" else {},
        facts=unreadable_facts,
    )


def _decoder(domain: Domain, side: int, unreadable: Unreadable) -> Callable[[Path], Arrays]:
    return partial(decode, domain=domain, side=side, unreadable=unreadable)


_LISTS = " Lists base.json, val.json and novel.json beside the images are followed where they are there."
_SPLIT_COUNTS: Mapping[str, int] = dict(zip(SPLITS, (100, 50, 50), strict=True))

MINI_IMAGENET = Domain(
    key="mini-imagenet",
    title="mini-ImageNet at full size: 100 classes of ILSVRC2012, 64 base, 16 validation, 20 novel",
    homepage="https://image-net.org",
    licence="ImageNet terms: non-commercial research only",
    size="12 GB stored and as much memory to adopt (from ILSVRC2012: 140 GB)",
    instructions=(
        "Put one of these in a folder: train, val and test with a folder a WordNet id, 600 images each "
        "(mini_imagenet_full_size.tar.bz2 of CrossDomainFewShot, unpacked), or the class folders of ILSVRC2012's "
        "training images with train.csv, val.csv and test.csv of easy-few-shot-learning." + _LISTS
    ),
    classes={split: len(names) for split, names in MINI_IMAGENET_CLASSES.items()},
    images={split: 600 * len(names) for split, names in MINI_IMAGENET_CLASSES.items()},
    class_names=MINI_IMAGENET_CLASSES,
    stored=SPLITS,
)
CUB = Domain(
    key="cub",
    title="CUB-200-2011: 200 birds, every fourth class novel",
    homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    licence="non-commercial research and education",
    size="1.2 GB, 0.6 GB stored",
    instructions="Get CUB_200_2011.tgz (https://data.caltech.edu/records/65de6-vp158), unpacked or not." + _LISTS,
    classes=_SPLIT_COUNTS,
    images=dict(zip(SPLITS, (5885, 2950, 2953), strict=True)),
    sources=(
        Url(
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "CUB_200_2011.tgz",
            md5="97eceeb196236b17998738112f37df78",
            max_bytes=2 << 30,
        ),
    ),
)
CARS = Domain(
    key="cars",
    title="Stanford Cars: 196 models, training images only, every fourth class novel",
    homepage="http://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    licence="non-commercial research",
    size="0.9 GB, 0.4 GB stored",
    instructions=(
        "The official host is gone. Get cars_train and the devkit with cars_train_annos.mat from a mirror into one "
        "folder; a folder a class does not do, its order of classes is another." + _LISTS
    ),
    classes=dict(zip(SPLITS, (98, 49, 49), strict=True)),
)
PLACES = Domain(
    key="places",
    title="Places365-Standard: 365 scenes, the first 200 training images of each, every fourth class novel",
    homepage="http://places2.csail.mit.edu",
    licence="terms at the homepage; research use",
    size="24 GB, 3.6 GB stored",
    instructions=(
        "Get places365standard_easyformat.tar and unpack it; give the folder that holds train. The archive itself is "
        "too large to be adopted." + _LISTS
    ),
    classes=dict(zip(SPLITS, (183, 91, 91), strict=True)),
    images=dict(zip(SPLITS, (36_600, 18_200, 18_200), strict=True)),
)
PLANTAE = Domain(
    key="plantae",
    title="Plantae of iNaturalist 2017: the 200 species with most images, every fourth novel",
    homepage="https://github.com/visipedia/inat_comp/tree/master/2017",
    licence="each photograph's own; non-commercial research",
    size="40 GB, up to 6 GB stored",
    instructions=(
        "Get plantae.tar.gz of CrossDomainFewShot, or train_val_images/Plantae of iNaturalist 2017 (species folders). "
        "The published choice among equally frequent species and of 600 images each is in no record: for exactly that "
        "one, put the lists that follow-ups circulate beside the images." + _LISTS
    ),
    classes=_SPLIT_COUNTS,
)
CROP_DISEASES = Domain(
    key="crop-diseases",
    title="CropDiseases (PlantVillage): 38 crops and diseases, the training images of the Kaggle version",
    homepage="https://www.kaggle.com/datasets/saroz014/plant-disease",
    licence="CC BY-SA 3.0 (PlantVillage); see the homepage",
    size="1 GB, 8.6 GB stored and as much memory to adopt",
    instructions="Get saroz014/plant-disease from Kaggle; its folder dataset/train has 38 class folders.",
    classes={"novel": 38},
    images={"novel": 43_456},
    class_names={"novel": CROP_CLASSES},
)
EUROSAT = Domain(
    key="eurosat",
    title="EuroSAT RGB: 10 kinds of land use from Sentinel-2",
    homepage="https://zenodo.org/records/7711810",
    licence="MIT",
    size="90 MB, 5.4 GB stored and as much memory to adopt",
    instructions="Get EuroSAT.zip or EuroSAT_RGB.zip, unpacked or not; its folder 2750 has a folder a class.",
    classes={"novel": 10},
    images={"novel": 27_000},
    class_names={"novel": EUROSAT_CLASSES},
    sources=(
        Url(
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
            "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
            "EuroSAT.zip",
            md5="c8fa014336c82ac7804f0398fcb19387",
        ),
    ),
)
ISIC = Domain(
    key="isic",
    title="ISIC 2018 task 3 (HAM10000): 7 kinds of skin lesions",
    homepage="https://challenge.isic-archive.com/data/#2018",
    licence="CC BY-NC 4.0",
    size="2.8 GB, 2 GB stored",
    instructions=(
        "Get ISIC2018_Task3_Training_Input.zip and ISIC2018_Task3_Training_GroundTruth.zip and unpack both into one "
        "folder; or HAM10000 with HAM10000_metadata.csv."
    ),
    classes={"novel": 7},
    images={"novel": 10_015},
    class_names={"novel": ISIC_CLASSES},
)
CHESTX = Domain(
    key="chestx",
    title="ChestX-ray14: X-rays with exactly one of 7 findings",
    homepage="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    licence="NIH: free use with attribution",
    size="42 GB, 5.1 GB stored and as much memory to adopt",
    instructions=(
        "Get Data_Entry_2017.csv and the images (images_001 to images_012), or nih-chest-xrays/data of Kaggle."
    ),
    classes={"novel": 7},
    images={"novel": 25_848},
    class_names={"novel": CHESTX_CLASSES},
)

DOMAINS: Mapping[str, Domain] = {
    domain.key: domain for domain in (MINI_IMAGENET, CUB, CARS, PLACES, PLANTAE, CROP_DISEASES, EUROSAT, ISIC, CHESTX)
}
PASSPORTS: Mapping[str, Passport] = {key: passport(domain) for key, domain in DOMAINS.items()}
