"""1-bit adapters for vision transformers: tune a frozen timm ViT, ship each task as a small file (ICCV 2023)."""

from bi_adapter.attach import (
    add_adapter,
    attach,
    delete_adapter,
    disable_adapter,
    enable_adapter,
    post_training_quantise,
    set_adapter,
    storage_bytes,
    trainable_parameters,
)
from bi_adapter.codebook import Codebook, codebook
from bi_adapter.config import BiAdapterConfig
from bi_adapter.folder import from_pretrained, save_pretrained
from bi_adapter.hosts import UnsupportedBackbone
from bi_adapter.layers import QuantLinear, StoredLinear
from bi_adapter.merging import freeze_adapter, merge, merge_and_unload, unmerge
from bi_adapter.peft_lora import export_peft, import_peft
from bi_adapter.published import PublishedConfig, bin_content, export_bin, load_bin, read_config
from bi_adapter.quantise import fake_quantize
from bi_adapter.registry import active_adapter, adapter_head, adapter_infos, adapter_matrices
from bi_adapter.serialise import AdapterFileError
from bi_adapter.serving import AdapterBank

__all__ = [
    "AdapterBank",
    "AdapterFileError",
    "BiAdapterConfig",
    "Codebook",
    "PublishedConfig",
    "QuantLinear",
    "StoredLinear",
    "UnsupportedBackbone",
    "active_adapter",
    "adapter_head",
    "adapter_infos",
    "adapter_matrices",
    "add_adapter",
    "attach",
    "bin_content",
    "codebook",
    "delete_adapter",
    "disable_adapter",
    "enable_adapter",
    "export_bin",
    "export_peft",
    "fake_quantize",
    "freeze_adapter",
    "from_pretrained",
    "import_peft",
    "load_bin",
    "merge",
    "merge_and_unload",
    "post_training_quantise",
    "read_config",
    "save_pretrained",
    "set_adapter",
    "storage_bytes",
    "trainable_parameters",
    "unmerge",
]

__version__ = "0.1.0"
