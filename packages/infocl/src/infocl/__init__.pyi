from .augmentation import Augmentation, Views
from .further_methods import MoCo, SimSiam, VicReg
from .methods import BarlowTwins, Byol, Method, SimClr, Supervised, target_momentum
from .networks import Decoder, Encoder
from .regularisers import LowerBoundRegularizer, ReconstructionRegularizer, information_estimate, lower_bound
from .taps import StageTaps
from .training import TrainingConfig, train

__version__: str
__all__ = [
    "Augmentation",
    "BarlowTwins",
    "Byol",
    "Decoder",
    "Encoder",
    "LowerBoundRegularizer",
    "Method",
    "MoCo",
    "ReconstructionRegularizer",
    "SimClr",
    "SimSiam",
    "StageTaps",
    "Supervised",
    "TrainingConfig",
    "VicReg",
    "Views",
    "information_estimate",
    "lower_bound",
    "target_momentum",
    "train",
]
