"""What fairseq imports: registers models, architectures and the criterion."""

from nat_crf_fairseq import criterion, model

__all__ = ["criterion", "model"]
