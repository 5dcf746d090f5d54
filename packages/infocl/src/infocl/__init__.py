"""Contrastive learning beyond the minimal sufficient representation (CVPR 2022)."""

from infocl.methods import BarlowTwins, Byol, Method, SimClr, Supervised, target_momentum
from infocl.networks import Decoder, Encoder
from infocl.regularisers import (
    LowerBoundRegularizer,
    ReconstructionRegularizer,
    information_estimate,
    lower_bound,
)

__all__ = [
    "BarlowTwins",
    "Byol",
    "Decoder",
    "Encoder",
    "LowerBoundRegularizer",
    "Method",
    "ReconstructionRegularizer",
    "SimClr",
    "Supervised",
    "information_estimate",
    "lower_bound",
    "target_momentum",
]

__version__ = "0.1.0"
