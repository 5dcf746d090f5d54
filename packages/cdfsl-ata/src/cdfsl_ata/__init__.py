"""Adversarial task augmentation for cross-domain few-shot learning (IJCAI 2021)."""

__version__ = "0.1.0"
