"""fairseq's `nat_loss` with a choice of how the CRF's loss is averaged.

Annotations are not postponed here: fairseq reads the types of the fields.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from fairseq.criterions import register_criterion
from fairseq.criterions.nat_loss import LabelSmoothedDualImitationCriterion, LabelSmoothedDualImitationCriterionConfig

from nat_crf.objective import crf_loss


@dataclass
class NatCrfLossConfig(LabelSmoothedDualImitationCriterionConfig):
    """Options of `nat_crf_loss`."""

    crf_normalisation: str = field(
        default="sentence", metadata={"help": "mean over sentences of NLL / length (sentence), or over tokens (token)"}
    )


@register_criterion("nat_crf_loss", dataclass=NatCrfLossConfig)
class NatCrfLoss(LabelSmoothedDualImitationCriterion):
    """L = L_CRF + lambda L_NAR + mu L_length (Section 4.5)."""

    def __init__(self, task: Any, label_smoothing: float, crf_normalisation: Literal["sentence", "token"]) -> None:
        super().__init__(task, label_smoothing)
        if crf_normalisation not in ("sentence", "token"):
            raise ValueError(f"--crf-normalisation: expected sentence or token, got {crf_normalisation!r}")
        self.normalisation: Literal["sentence", "token"] = crf_normalisation

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> Any:
        """Loss, sample size and log of a batch, as fairseq's trainer wants them."""

        def normalised(*inputs: Any) -> dict[str, dict[str, Any]]:
            outputs = model(*inputs)
            crf = outputs["word_crf"]
            crf["loss"] = crf_loss(crf["log_likelihood"], crf["lengths"], self.normalisation)
            return outputs

        return super().forward(normalised, sample, reduce)
