"""Which classes of the nine domains are base, validation and novel (section 10)."""

from __future__ import annotations

from collections.abc import Mapping

SPLITS = ("base", "val", "novel")

_MINI_BASE = """
    n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867 n02091831 n02101006
    n02105505 n02108089 n02108551 n02108915 n02111277 n02113712 n02120079 n02165456 n02457408 n02606052 n02687172
    n02747177 n02795169 n02823428 n02966193 n03017168 n03047690 n03062245 n03207743 n03220513 n03337140 n03347037
    n03400231 n03476684 n03527444 n03676483 n03838899 n03854065 n03888605 n03908618 n03924679 n03998194 n04067472
    n04243546 n04251144 n04258138 n04275548 n04296562 n04389033 n04435653 n04443257 n04509417 n04515003 n04596742
    n04604644 n04612504 n06794110 n07584110 n07697537 n07747607 n09246464 n13054560 n13133613
"""
_MINI_VAL = """
    n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370 n03417042 n03535780
    n03584254 n03770439 n03773504 n03980874 n09256479
"""
_MINI_NOVEL = """
    n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484 n02871525 n03127925
    n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357 n04522168 n07613480
"""
MINI_IMAGENET_CLASSES: Mapping[str, tuple[str, ...]] = {
    split: tuple(names.split()) for split, names in zip(SPLITS, (_MINI_BASE, _MINI_VAL, _MINI_NOVEL), strict=True)
}
"""The split of Ravi and Larochelle (ICLR 2017), as WordNet ids of ILSVRC2012."""

CROP_CLASSES = (
    "Apple___Apple_scab", "Apple___Black_rot", "Apple___Cedar_apple_rust", "Apple___healthy", "Blueberry___healthy",
    "Cherry_(including_sour)___Powdery_mildew", "Cherry_(including_sour)___healthy",
    "Corn_(maize)___Cercospora_leaf_spot Gray_leaf_spot", "Corn_(maize)___Common_rust_",
    "Corn_(maize)___Northern_Leaf_Blight", "Corn_(maize)___healthy", "Grape___Black_rot",
    "Grape___Esca_(Black_Measles)", "Grape___Leaf_blight_(Isariopsis_Leaf_Spot)", "Grape___healthy",
    "Orange___Haunglongbing_(Citrus_greening)", "Peach___Bacterial_spot", "Peach___healthy",
    "Pepper,_bell___Bacterial_spot", "Pepper,_bell___healthy", "Potato___Early_blight", "Potato___Late_blight",
    "Potato___healthy", "Raspberry___healthy", "Soybean___healthy", "Squash___Powdery_mildew",
    "Strawberry___Leaf_scorch", "Strawberry___healthy", "Tomato___Bacterial_spot", "Tomato___Early_blight",
    "Tomato___Late_blight", "Tomato___Leaf_Mold", "Tomato___Septoria_leaf_spot",
    "Tomato___Spider_mites Two-spotted_spider_mite", "Tomato___Target_Spot",
    "Tomato___Tomato_Yellow_Leaf_Curl_Virus", "Tomato___Tomato_mosaic_virus", "Tomato___healthy",
)  # fmt: skip
"""PlantVillage's 38 crop and disease pairs, as its folders are named."""

EUROSAT_CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip
ISIC_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""Columns of the ground truth of ISIC 2018 task 3, in their order."""
CHESTX_CLASSES = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax")
"""The findings of ChestX-ray14 that are used, in the order of the labels."""


def modulo_split(n_classes: int) -> dict[str, tuple[int, ...]]:
    """Class indices by split: every second one is base, then validation and novel take turns.

    Index i is base for i % 2 == 0, validation for i % 4 == 1, novel for i % 4 == 3; of 200 classes 100, 50 and 50.
    """
    rules = {"base": (0, 2), "val": (1, 4), "novel": (3, 4)}
    return {split: tuple(range(start, n_classes, step)) for split, (start, step) in rules.items()}
