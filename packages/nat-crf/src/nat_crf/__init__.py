"""Fast structured decoding: non-autoregressive translation with a CRF (NeurIPS 2019)."""

__version__ = "0.1.0"
