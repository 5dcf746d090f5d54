"""Few-shot classification with a closed-form LS-SVM base learner and transductive modules (2020)."""

from fslstm.backbones import Conv4, ResNet12
from fslstm.estimator import FewShotClassifier
from fslstm.heads import ls_svm, prototype, ridge, svm
from fslstm.modules import LSSVM, CrammerSingerSVM, LinearClassifier, Prototype, Ridge, ScaledHead
from fslstm.transduction import InverseAttention, pseudo_support

__version__ = "0.1.0"
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
