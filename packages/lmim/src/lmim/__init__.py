"""Local multi-scale masked image modelling for ViT and Swin (CVPR 2023)."""

from lmim.classifiers import SwinClassifier, VitClassifier
from lmim.conversion import load_released
from lmim.exports import export
from lmim.swin import SparseSwin
from lmim.swin_mim import SwinLocalMim
from lmim.targets import hog_targets, pixel_targets
from lmim.vit import LocalMim, Reconstruction
from lmim.wrapping import wrap

__all__ = [
    "LocalMim",
    "Reconstruction",
    "SparseSwin",
    "SwinClassifier",
    "SwinLocalMim",
    "VitClassifier",
    "export",
    "hog_targets",
    "load_released",
    "pixel_targets",
    "wrap",
]

__version__ = "0.1.0"
