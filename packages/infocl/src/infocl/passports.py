"""What is known about each dataset of the evaluation before it is here (6.2).

No copy of the photographs was at hand to hash, so their passports have counts and no content hash; what is adopted is
remembered with its own hash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infocl import datasets
from sextet.data import CIFAR10, CIFAR100, FASHION_MNIST, MNIST, AllOf, Arrays, Passport, Source, Url

_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_RESEARCH = "terms at the homepage; research use"


def _photographs(
    name: str,
    title: str,
    decode: Callable[[Path], Arrays],
    counts: dict[str, int],
    *,
    homepage: str,
    size: str,
    instructions: str,
    licence: str = _RESEARCH,
    sources: tuple[Source, ...] = (),
) -> Passport:
    return Passport(
        name=f"infocl-{name}",
        title=title,
        homepage=homepage,
        licence=licence,
        size=size,
        sources=sources,
        decode=decode,
        content_sha256=None,
        instructions=instructions,
        counts=counts,
    )


STL10 = Passport(
    name="stl10",
    title="STL-10: 13,000 labelled and 100,000 unlabelled photographs, 96x96",
    homepage="https://cs.stanford.edu/~acoates/stl10/",
    licence="none stated; from ImageNet, research use customary",
    size="2.6 GB",
    sources=(
        Url(
            "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            "stl10_binary.tar.gz",
            md5="91f7769df0f17e558f3565bffb0c7dfb",
            max_bytes=4 << 30,
        ),
    ),
    decode=datasets.decode_stl10,
    content_sha256=None,
    instructions="Get stl10_binary.tar.gz, unpacked or not.",
    class_names=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    counts={
        "train_images": 5000,
        "train_labels": 5000,
        "test_images": 8000,
        "test_labels": 8000,
        "unlabeled_images": 100_000,
    },
)

DTD = _photographs(
    "dtd",
    "Describable Textures, first split, 47 classes",
    datasets.decode_dtd,
    {"train_rows": 3760, "test_rows": 1880},
    homepage=f"{_VGG}/dtd",
    size="600 MB",
    instructions="Get dtd-r1.0.1.tar.gz, unpacked or not.",
    sources=(
        Url(f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz", "dtd-r1.0.1.tar.gz", md5="fff73e5086ae6bdbea199a49dfb8a4c1"),
    ),
)

CUB = _photographs(
    "cub",
    "Caltech-UCSD Birds 200-2011, 200 classes",
    datasets.decode_cub,
    {"train_rows": 5994, "test_rows": 5794},
    homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    size="1.1 GB",
    licence="non-commercial research",
    instructions="Get CUB_200_2011.tgz, unpacked or not.",
)

FLOWERS = _photographs(
    "flowers",
    "Oxford 102 Flowers, split by the paper, 102 classes",
    datasets.decode_flowers,
    {"labels": 8189},
    homepage=f"{_VGG}/flowers/102",
    size="330 MB",
    instructions="Get 102flowers.tgz and imagelabels.mat; unpack the first, and give the folder with both.",
    sources=(
        AllOf(
            (
                Url(f"{_VGG}/flowers/102/102flowers.tgz", "102flowers.tgz", md5="52808999861908f626f3c1f4e79d11fa"),
                Url(f"{_VGG}/flowers/102/imagelabels.mat", "imagelabels.mat", md5="e0620be6f572b9609742df49c70aed4d"),
            )
        ),
    ),
)

TRAFFIC_SIGNS = _photographs(
    "traffic-signs",
    "GTSRB, split by the paper, 43 classes",
    datasets.decode_traffic_signs,
    {"train_rows": 31_367, "test_rows": 7842},
    homepage="https://benchmark.ini.rub.de/",
    size="260 MB",
    instructions=(
        "Get GTSRB_Final_Training_Images.zip, unpacked or not (of the recognition benchmark, not of the detection one)."
    ),
)

TRAFFIC_SIGNS_OFFICIAL = _photographs(
    "traffic-signs-official",
    "GTSRB, official split, 43 classes",
    datasets.decode_traffic_signs_official,
    {"train_rows": 39_209, "test_rows": 12_630},
    homepage="https://benchmark.ini.rub.de/",
    size="350 MB",
    instructions=(
        "Unpack GTSRB_Final_Training_Images.zip, GTSRB_Final_Test_Images.zip and GTSRB_Final_Test_GT.zip into one "
        "folder, so that GT-final_test.csv lies beside Final_Training or in Final_Test/Images."
    ),
)

AIRCRAFT = _photographs(
    "aircraft",
    "FGVC Aircraft, cropped to the bounding boxes, 100 variants",
    datasets.decode_aircraft,
    {"train_rows": 6667, "test_rows": 3333},
    homepage=f"{_VGG}/fgvc-aircraft",
    size="2.7 GB",
    licence="non-commercial research",
    instructions="Get fgvc-aircraft-2013b.tar.gz, unpacked or not.",
)

IMAGENET = Passport(
    name="infocl-imagenet",
    title="ImageNet-1k (ILSVRC2012): 1.28 million training and 50,000 validation photographs, 1000 classes",
    homepage="https://image-net.org",
    licence="ImageNet terms: non-commercial research only",
    size="150 GB",
    sources=(),
    decode=datasets.decode_imagenet,
    content_sha256=None,
    instructions=(
        "Give the folder that holds train and val, each with a folder a class (n01440764, ...). The photographs stay "
        "there: do not give archives, and keep the folder."
    ),
    counts={"train_labels": 1_281_167, "test_labels": 50_000, "class_names": 1000},
)


@dataclass(frozen=True)
class Dataset:
    """One entry of the evaluation.

    Attributes:
        passport: where it comes from.
        classes: number of labels.
        statistics: key of `preprocessing.STATISTICS`.
    """

    passport: Passport
    classes: int
    statistics: str


DATASETS: dict[str, Dataset] = {
    "CIFAR10": Dataset(CIFAR10, 10, "CIFAR10"),
    "CIFAR100": Dataset(CIFAR100, 100, "CIFAR100"),
    "STL-10": Dataset(STL10, 10, "STL-10"),
    "ImageNet": Dataset(IMAGENET, 1000, "ImageNet"),
    "dtd": Dataset(DTD, 47, "dtd"),
    "mnist": Dataset(MNIST, 10, "mnist"),
    "fashionmnist": Dataset(FASHION_MNIST, 10, "fashionmnist"),
    "cu_birds": Dataset(CUB, 200, "cu_birds"),
    "vgg_flower": Dataset(FLOWERS, 102, "vgg_flower"),
    "traffic_sign": Dataset(TRAFFIC_SIGNS, 43, "traffic_sign"),
    "traffic_sign_official": Dataset(TRAFFIC_SIGNS_OFFICIAL, 43, "traffic_sign"),
    "aircraft": Dataset(AIRCRAFT, 100, "aircraft"),
}
"""By the names of section 6.2."""
