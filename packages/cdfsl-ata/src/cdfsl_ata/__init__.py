"""Adversarial task augmentation for cross-domain few-shot learning (IJCAI 2021)."""

from cdfsl_ata.augmentation import AdversarialTaskAugmenter, AscentDiverged, AugmentedTask, ExplodingPerturbation
from cdfsl_ata.encoders import ConvNet, FeatureWiseTransform, ResNet
from cdfsl_ata.gnn import Gnn
from cdfsl_ata.learners import Learner, MatchingNet, ProtoNet, RelationNet
from cdfsl_ata.lrp import ExplainedLearner
from cdfsl_ata.tpn import Tpn

__all__ = [
    "AdversarialTaskAugmenter",
    "AscentDiverged",
    "AugmentedTask",
    "ConvNet",
    "ExplainedLearner",
    "ExplodingPerturbation",
    "FeatureWiseTransform",
    "Gnn",
    "Learner",
    "MatchingNet",
    "ProtoNet",
    "RelationNet",
    "ResNet",
    "Tpn",
]

__version__ = "0.1.0"
