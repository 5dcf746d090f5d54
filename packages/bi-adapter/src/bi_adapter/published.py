"""The authors' released files, read and written byte for byte (`models_bin/<method>/<task>-bit<b>-dim<h>.bin`).

For every block D and U (AdaptFormer) or D_q, U_q, D_v, U_v (LoRA), then the classifier. A matrix is its packed indices
followed by mean and standard deviation in float32; a plain classifier is weight and bias in float32. All little-endian,
no header. What the file does not say, the scale above all, is in the `.yaml` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bi_adapter.config import BiAdapterConfig
from bi_adapter.folder import adapter_shapes, place_stored, plain_head, read_limited, remove_unused_hosts, stored_layer
from bi_adapter.installation import adapter_like, feature_width, install_hosts
from bi_adapter.packing import PACKED_BITS, StoredMatrix, from_bytes, to_bytes
from bi_adapter.registry import (
    AdapterInfo,
    active_adapter,
    adapter_head,
    adapter_matrices,
    check_free,
    check_unmerged,
    find_info,
)
from bi_adapter.serialise import AdapterFileError, Shape, head_shape
from sextet.files import write_atomic

Model = TypeVar("Model", bound=nn.Module)
METHODS = ("adaptformer", "adaptformer-bihead", "lora", "lora-bihead")
PUBLISHED_BACKBONE = "vit_base_patch16_224_in21k"
_LARGEST_YAML = 1 << 16


@dataclass(frozen=True)
class PublishedConfig:
    """The `.yaml` beside a released file.

    Attributes:
        method: one of `METHODS`.
        dim: hidden width.
        num_class: classes.
        scale: s.
        bit: of an adapter weight; the released files have 1.
        dataset: name of the task.
        backbone: timm's name of it at the time; that name means other weights today.
    """

    method: str
    dim: int
    num_class: int
    scale: float
    bit: int = 1
    dataset: str = ""
    backbone: str = PUBLISHED_BACKBONE

    def adapter(self) -> BiAdapterConfig:
        """The settings of the adapter: levels as published, dropout 0.1.

        Raises:
            AdapterFileError: settings no released file can have.
        """
        if self.method not in METHODS:
            raise AdapterFileError(f"method: expected one of {METHODS}, found {self.method!r}")
        if self.bit not in PACKED_BITS:
            raise AdapterFileError(f"bit: a file of this format has one of {PACKED_BITS}, found {self.bit!r}")
        if isinstance(self.num_class, bool) or not isinstance(self.num_class, int) or self.num_class < 1:
            raise AdapterFileError(f"num_class: expected at least 1, found {self.num_class!r}")
        kind, _, bihead = self.method.partition("-")
        try:
            return BiAdapterConfig(
                method="lora" if kind == "lora" else "adaptformer", bits=self.bit, dim=self.dim, scale=self.scale,
                head_bits=1 if bihead else 32, codebook="as-published",
            )  # fmt: skip
        except ValueError as error:
            raise AdapterFileError(str(error)) from error


def read_config(path: str | Path) -> PublishedConfig:
    """Read a released `.yaml`: one `key: value` a line.

    Raises:
        AdapterFileError: it cannot be read, or has other keys or values than a released one.
    """
    path = Path(path)
    content = read_limited(path, _LARGEST_YAML)
    kinds = {"backbone": str, "bit": int, "dataset": str, "dim": int, "method": str, "num_class": int, "scale": float}
    values: dict[str, Any] = {}
    try:
        for line in content.decode("utf-8").splitlines():
            key, _, value = line.partition("#")[0].partition(":")
            if key.strip():
                values[key.strip()] = kinds[key.strip()](value.strip().strip("\"'"))
        config = PublishedConfig(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterFileError(f"{path}: expected the keys {sorted(kinds)}, one a line ({error!r})") from error
    config.adapter()
    return config


def config_text(config: PublishedConfig) -> str:
    """The `.yaml` for a file."""
    scale = int(config.scale) if float(config.scale).is_integer() else config.scale
    values = {
        "backbone": config.backbone, "bit": config.bit, "dataset": config.dataset, "dim": config.dim,
        "method": config.method, "num_class": config.num_class, "scale": scale,
    }  # fmt: skip
    return "".join(f"{key}: {value}\n" for key, value in values.items())


def load_bin(
    model: Model, path: str | Path, config: PublishedConfig, *, name: str = "default", dequantised: bool = True
) -> Model:
    """Load a released file onto its backbone, in its stored form, and make it the active adapter.

    Args:
        model: the original ImageNet-21k ViT-B/16, or whatever backbone the file was made for; nothing in the file says.
        path: of the `.bin`.
        config: of the `.yaml`, see `read_config`.
        name: the adapter gets.
        dequantised: hold decoded weights (fast); else only the packed ones.

    Raises:
        AdapterFileError: the file is not what the settings say: too short, too long, impossible numbers.
        ValueError: a name that is taken or cannot be used, or a model without places for adapters.
    """
    settings = config.adapter()
    check_free(model, name)
    hosts = install_hosts(model, settings.method)
    try:
        width = feature_width(model)
        shapes = [*adapter_shapes(hosts, settings), *head_shape(settings, width, config.num_class)]
        expected = sum(shape.packed_bytes + 8 for shape in shapes)
        expected += 4 * config.num_class * (width + 1) if settings.head_bits == 32 else 0
        content = read_limited(Path(path), expected)
        if len(content) != expected:
            raise AdapterFileError(f"{path}: {config} needs {expected} bytes on this backbone, found {len(content)}")
        matrices, rest = read_records(content, shapes)
        like = adapter_like(model)
        if settings.head_bits == 32:
            head: nn.Module = plain_head(*_read_head(rest, config.num_class, width), like)
        else:
            head = stored_layer(matrices.pop(), like, dequantised)
        info = AdapterInfo(settings, config.num_class)
        return place_stored(model, name, info, hosts, matrices, head, dequantised=dequantised)
    except BaseException:
        remove_unused_hosts(model)
        raise


def read_records(content: bytes, shapes: Sequence[Shape]) -> tuple[list[StoredMatrix], Tensor]:
    """Matrices from the beginning of a file, and the bytes behind them, uint8.

    Raises:
        AdapterFileError: too few bytes, sizes that are not whole bytes, or statistics that no matrix has.
    """
    _check_whole_bytes(shapes)
    total = sum(shape.packed_bytes + 8 for shape in shapes)
    if len(content) < total:
        raise AdapterFileError(f"the file needs at least {total} bytes, found {len(content)}")
    remaining = (
        torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    )
    matrices = []
    for number, shape in enumerate(shapes):
        packed, numbers, remaining = remaining.tensor_split([shape.packed_bytes, shape.packed_bytes + 8])
        stats = from_bytes(numbers, torch.float32).view(1, 2)
        if not bool(stats.isfinite().all()) or float(stats[0, 1]) < 0:
            raise AdapterFileError(f"matrix {number}: mean and standard deviation cannot be {stats[0].tolist()}")
        matrices.append(StoredMatrix(packed, stats, (shape.rows, shape.columns), shape.bits, shape.codebook))
    return matrices, remaining


def write_records(matrices: Sequence[StoredMatrix]) -> bytes:
    """What `read_records` reads.

    Raises:
        ValueError: matrices of this format's bits only, one mean and one standard deviation each, whole bytes.
    """
    for number, matrix in enumerate(matrices):
        if matrix.bits not in PACKED_BITS or matrix.stats.shape != (1, 2):
            raise ValueError(
                f"matrix {number}: the published format has one of {PACKED_BITS} bits, with one mean and one standard "
                f"deviation a matrix; got {matrix.bits} bits with {len(matrix.stats)}"
            )
    _check_whole_bytes([Shape(*matrix.shape, matrix.bits, matrix.codebook) for matrix in matrices])
    parts = [part for matrix in matrices for part in (matrix.packed, to_bytes(matrix.stats))]
    return torch.cat([part.cpu() for part in parts]).numpy().tobytes() if parts else b""


def bin_content(model: nn.Module, name: str | None = None) -> bytes:
    """An adapter (the active one by default) in the published format.

    Raises:
        ValueError: an adapter the format cannot hold: plain floats, statistics a row, another quantiser, an 8-bit one
            with converged levels, a classifier of other bits than 1 or 32, or none.
    """
    name = active_adapter(model) if name is None else name
    info = find_info(model, name)
    check_unmerged(model)
    config, head = info.config, adapter_head(model, name)
    if head is None or config.head_bits not in (1, 32):
        raise ValueError(f"head: the published format has a classifier of 1 or 32 bits, got {info.num_classes} classes")
    if config.levels not in ("converged", "as-published") or (config.bits == 8 and config.levels == "converged"):
        raise ValueError(
            f"codebook: the published format means the published levels, which those of {config.levels!r} at "
            f"{config.bits} bits are not; train with codebook='as-published'"
        )
    content = write_records([matrix.stored() for matrix in adapter_matrices(model, name).values()])
    if isinstance(head, nn.Linear):
        numbers = torch.cat([head.weight.detach().reshape(-1), head.bias.detach()]).float()
        content += to_bytes(numbers.cpu()).numpy().tobytes()
    return content


def export_bin(model: nn.Module, path: str | Path, *, name: str | None = None, dataset: str = "") -> Path:
    """Write an adapter (the active one by default) as a `.bin` in the published format and a `.yaml` beside it.

    Raises:
        ValueError: as `bin_content`.
        OSError: it cannot be written.
    """
    path = Path(path)
    content = bin_content(model, name)
    info = find_info(model, active_adapter(model) if name is None else name)
    config = info.config
    method = config.method + ("-bihead" if config.head_bits == 1 else "")
    said = PublishedConfig(method, config.dim, info.num_classes or 0, config.scale, config.bits, dataset)
    write_atomic(path, content)
    write_atomic(path.with_suffix(".yaml"), config_text(said).encode())
    return path


def _read_head(rest: Tensor, classes: int, width: int) -> tuple[Tensor, Tensor]:
    numbers = from_bytes(rest, torch.float32)
    if not bool(numbers.isfinite().all()):
        raise AdapterFileError("head: found numbers that are not finite")
    weight, bias = numbers.split([classes * width, classes])
    return weight.view(classes, width), bias


def _check_whole_bytes(shapes: Sequence[Shape]) -> None:
    for number, shape in enumerate(shapes):
        if math.prod((shape.rows, shape.columns, shape.bits)) % 8:
            raise AdapterFileError(
                f"matrix {number}: {shape.rows} x {shape.columns} weights of {shape.bits} bits do not fill whole "
                "bytes, which the published format needs"
            )
