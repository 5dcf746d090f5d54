from .backbones import Conv4, ResNet12
from .estimator import FewShotClassifier
from .heads import ls_svm, prototype, ridge, svm
from .modules import LSSVM, CrammerSingerSVM, LinearClassifier, Prototype, Ridge, ScaledHead
from .transduction import InverseAttention, pseudo_support

__version__: str
__all__ = [
    "LSSVM",
    "Conv4",
    "CrammerSingerSVM",
    "FewShotClassifier",
    "InverseAttention",
    "LinearClassifier",
    "Prototype",
    "ResNet12",
    "Ridge",
    "ScaledHead",
    "ls_svm",
    "prototype",
    "pseudo_support",
    "ridge",
    "svm",
]
