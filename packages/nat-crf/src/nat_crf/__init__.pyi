from .autoregressive import Teacher, beam_search
from .config import NatConfig, preset
from .crf import Decoded, LowRankCRF
from .decoding import translate_batch
from .models import Nat, warm_start
from .objective import ObjectiveConfig, translation_loss
from .rescoring import teacher_scorer
from .translator import Translation, Translator, translate

__version__: str
__all__ = [
    "Decoded",
    "LowRankCRF",
    "Nat",
    "NatConfig",
    "ObjectiveConfig",
    "Teacher",
    "Translation",
    "Translator",
    "beam_search",
    "preset",
    "teacher_scorer",
    "translate",
    "translate_batch",
    "translation_loss",
    "warm_start",
]
