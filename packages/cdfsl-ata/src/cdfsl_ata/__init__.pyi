from .augmentation import AdversarialTaskAugmenter, AscentDiverged, AugmentedTask, ExplodingPerturbation
from .encoders import ConvNet, FeatureWiseTransform, ResNet
from .gnn import Gnn
from .learners import Learner, MatchingNet, ProtoNet, RelationNet
from .lrp import ExplainedLearner
from .tpn import Tpn

__version__: str
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
