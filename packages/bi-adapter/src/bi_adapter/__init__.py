"""1-bit adapters for vision transformers: tune a frozen timm ViT, ship each task as a small file (ICCV 2023)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
