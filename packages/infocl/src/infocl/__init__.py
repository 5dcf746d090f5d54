"""Contrastive learning beyond the minimal sufficient representation (CVPR 2022)."""

from infocl.augmentation import Augmentation, Views
from infocl.further_methods import MoCo, SimSiam, VicReg
from infocl.methods import BarlowTwins, Byol, Method, SimClr, Supervised, target_momentum
from infocl.networks import Decoder, Encoder
from infocl.regularisers import (
    LowerBoundRegularizer,
    ReconstructionRegularizer,
    information_estimate,
    lower_bound,
)
from infocl.taps import StageTaps
from infocl.training import TrainingConfig, train

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

__version__ = "0.1.0"
