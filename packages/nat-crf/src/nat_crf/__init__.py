"""Fast structured decoding: non-autoregressive translation with a CRF (NeurIPS 2019)."""

from nat_crf.autoregressive import Teacher, beam_search
from nat_crf.config import NatConfig, preset
from nat_crf.crf import Decoded, LowRankCRF
from nat_crf.decoding import translate_batch
from nat_crf.models import Nat, warm_start
from nat_crf.objective import ObjectiveConfig, translation_loss
from nat_crf.rescoring import teacher_scorer
from nat_crf.translator import Translation, Translator, translate

__version__ = "0.1.0"
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
