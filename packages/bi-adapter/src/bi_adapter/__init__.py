"""1-bit adapters for vision transformers: tune a frozen timm ViT, ship each task as a small file (ICCV 2023)."""

__version__ = "0.1.0"
