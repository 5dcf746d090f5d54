"""fairseq's non-autoregressive Transformer with our CRF: static or dynamic transitions, decoding in one pass.

Architectures: `nat_crf` (static transitions) and `nat_dcrf` (dynamic), of base size and for IWSLT14.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fairseq.models import register_model, register_model_architecture
from fairseq.models.nat import NATransformerModel, base_architecture
from torch import Tensor

from nat_crf.crf import LowRankCRF
from nat_crf.objective import crf_loss


@register_model("nat_crf_transformer")
class NatCrfTransformer(NATransformerModel):
    """NAT-CRF, or with `--crf-dynamic` NAT-DCRF; parameters are named as in fairseq's `nacrf_transformer`."""

    def __init__(self, args: Namespace, encoder: Any, decoder: Any) -> None:
        super().__init__(args, encoder, decoder)
        self.crf_layer = LowRankCRF(
            len(self.tgt_dict),
            args.crf_lowrank_approx,
            state_dim=args.decoder_embed_dim if args.crf_dynamic else None,
            beam=args.crf_beam_approx,
            transition_std=args.crf_transition_std,
        )

    @property
    def allow_ensemble(self) -> bool:
        """No: paths of several models have no common score."""
        return False

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        """Options beside those of fairseq's NAT; where names are those of `nacrf_transformer`, so is the meaning."""
        NATransformerModel.add_args(parser)
        parser.add_argument("--crf-lowrank-approx", type=int, help="rank of the transitions")
        parser.add_argument("--crf-beam-approx", type=int, help="candidates a position")
        parser.add_argument("--crf-dynamic", action="store_true", help="transitions depend on the decoder states")
        parser.add_argument("--crf-transition-std", type=float, help="standard deviation of the initial E1 and E2")
        parser.add_argument("--word-ins-loss-factor", type=float, help="weight of the token loss beside the CRF's")

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor, tgt_tokens: Tensor, **kwargs: Any
    ) -> dict[str, dict[str, Any]]:
        """Losses for `nat_loss` and `nat_crf_loss`; the latter reads the log-likelihood `[B]` and lengths `[B]`."""
        encoder_out = self.encoder(src_tokens, src_lengths=src_lengths, **kwargs)
        length_out = self.decoder.forward_length(normalize=False, encoder_out=encoder_out)
        length_tgt = self.decoder.forward_length_prediction(length_out, encoder_out, tgt_tokens)
        emissions, states = self._scores(prev_output_tokens, encoder_out)
        mask = tgt_tokens.ne(self.pad)
        log_likelihood, lengths = self.crf_layer.log_likelihood(emissions, tgt_tokens, mask, states), mask.sum(dim=1)
        return {
            "word_ins": {
                "out": emissions,
                "tgt": tgt_tokens,
                "mask": mask,
                "ls": self.args.label_smoothing,
                "nll_loss": True,
                "factor": self.args.word_ins_loss_factor,
            },
            "word_crf": {
                "loss": crf_loss(log_likelihood, lengths, "sentence"),
                "log_likelihood": log_likelihood,
                "lengths": lengths,
            },
            "length": {"out": length_out, "tgt": length_tgt, "factor": self.decoder.length_loss_factor},
        }

    def forward_decoder(self, decoder_out: Any, encoder_out: Any, **_: Any) -> Any:
        """Viterbi, once. Token scores sum to the log-probability, so that lengths can be compared.

        Raises:
            ValueError: more than one pass is asked for.
        """
        more = decoder_out.max_step - 1
        if more > 0:
            raise ValueError(
                f"--iter-decode-max-iter: expected 0, got {more}; this model translates in one pass, "
                "and fed its own output it collapses"
            )
        tokens, scores, history = decoder_out.output_tokens, decoder_out.output_scores, decoder_out.history
        mask = tokens.ne(self.pad)
        emissions, states = self._scores(tokens, encoder_out)
        decoded = self.crf_layer.decode(emissions, mask, states)
        steps = decoded.step_scores - (decoded.log_partition / mask.sum(dim=1))[:, None]
        tokens = tokens.masked_scatter(mask, decoded.tokens[mask])
        scores = scores.masked_scatter(mask, steps.type_as(scores)[mask])
        if history is not None:
            history.append(tokens.clone())
        return decoder_out._replace(output_tokens=tokens, output_scores=scores, attn=None, history=history)

    def _scores(self, tokens: Tensor, encoder_out: Any) -> tuple[Tensor, Tensor]:
        """Emissions `[B, T, V]` and decoder states `[B, T, d]`."""
        states, _ = self.decoder.extract_features(
            tokens, encoder_out=encoder_out, embedding_copy=self.decoder.src_embedding_copy
        )
        return self.decoder.output_layer(states), states


_CRF = {
    "crf_lowrank_approx": 32,
    "crf_beam_approx": 64,
    "crf_transition_std": 0.1,
    "word_ins_loss_factor": 0.5,
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
}
_IWSLT = {
    "encoder_layers": 5,
    "decoder_layers": 5,
    "encoder_embed_dim": 256,
    "decoder_embed_dim": 256,
    "encoder_ffn_embed_dim": 1024,
    "decoder_ffn_embed_dim": 1024,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}


def _fill(args: Namespace, defaults: dict[str, Any]) -> None:
    """Set what the command line leaves open."""
    for name, value in defaults.items():
        setattr(args, name, getattr(args, name, value))


@register_model_architecture("nat_crf_transformer", "nat_crf")
def nat_crf(args: Namespace) -> None:
    """NAT-CRF of base size."""
    _fill(args, {**_CRF, "crf_dynamic": False})
    base_architecture(args)


@register_model_architecture("nat_crf_transformer", "nat_dcrf")
def nat_dcrf(args: Namespace) -> None:
    """NAT-DCRF of base size."""
    args.crf_dynamic = True
    nat_crf(args)


@register_model_architecture("nat_crf_transformer", "nat_crf_iwslt")
def nat_crf_iwslt(args: Namespace) -> None:
    """NAT-CRF of the paper's size for IWSLT14."""
    _fill(args, _IWSLT)
    nat_crf(args)


@register_model_architecture("nat_crf_transformer", "nat_dcrf_iwslt")
def nat_dcrf_iwslt(args: Namespace) -> None:
    """NAT-DCRF of the paper's size for IWSLT14."""
    _fill(args, _IWSLT)
    nat_dcrf(args)
