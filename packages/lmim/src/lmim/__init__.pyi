from .classifiers import SwinClassifier, VitClassifier
from .conversion import load_released
from .exports import export
from .swin import SparseSwin
from .swin_mim import SwinLocalMim
from .targets import hog_targets, pixel_targets
from .vit import LocalMim, Reconstruction
from .wrapping import wrap

__version__: str
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
