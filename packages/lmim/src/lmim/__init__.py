"""LocalMIM: local multi-scale masked image modelling for ViT and Swin (CVPR 2023)."""

__version__ = "0.1.0"
