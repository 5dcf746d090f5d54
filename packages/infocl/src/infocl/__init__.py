"""Contrastive representations beyond the minimal sufficient one (CVPR 2022)."""

__version__ = "0.1.0"
