from .adapters import (
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
from .codebooks import Codebook, codebook
from .config import BiAdapterConfig
from .folder import from_pretrained, save_pretrained
from .hosts import UnsupportedBackbone
from .layers import QuantLinear, StoredLinear
from .merging import freeze_adapter, merge, merge_and_unload, unmerge
from .peft_lora import export_peft, import_peft
from .published import PublishedConfig, bin_content, export_bin, load_bin, read_config
from .quantise import fake_quantize
from .registry import active_adapter, adapter_head, adapter_infos, adapter_matrices
from .serialise import AdapterFileError
from .serving import AdapterBank

__version__: str
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
