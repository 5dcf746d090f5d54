"""An adapter as bytes: a safetensors file with all matrices in one blob, and a JSON file that says what they are.

`adapter_model.safetensors` holds `packed` uint8 (all matrices one after another, in the order of the published files),
`stats` float32 [groups, 2] (offset and scale of each) and, for a plain classifier, `head.weight` and `head.bias`. One
tensor a matrix would cost more in headers than a narrow adapter's payload.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from bi_adapter.config import BiAdapterConfig
from bi_adapter.fingerprint import backbone_fingerprint, backbone_name
from bi_adapter.layers import StoredLinear
from bi_adapter.packing import StoredMatrix, packed_size
from bi_adapter.registry import AdapterInfo, adapter_head, adapter_matrices, check_unmerged, find_info

FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_HEAD = ("head.weight", "head.bias")
_HEADER_MARGIN = 65536


class AdapterFileError(ValueError):
    """A stored adapter that cannot be read as what it should be, or does not belong to this backbone."""


@dataclass(frozen=True)
class Shape:
    """What one stored matrix must be.

    Attributes:
        rows, columns: of the matrix.
        bits: of an index, or of a float.
        codebook: name of its levels.
        per_row: statistics of each row.
    """

    rows: int
    columns: int
    bits: int
    codebook: str
    per_row: bool = False

    @property
    def packed_bytes(self) -> int:
        """Bytes of the indices."""
        return packed_size(self.rows * self.columns, self.bits)

    @property
    def groups(self) -> int:
        """Pairs of offset and scale."""
        if self.bits >= 16:
            return 0
        return self.rows if self.per_row else 1


def adapter_tensors(model: nn.Module, name: str, *, head: bool = True) -> dict[str, Tensor]:
    """The tensors of the weights file, on the CPU."""
    matrices = adapter_matrices(model, name)
    if not head:
        matrices.pop("head", None)
    stored = [matrix.stored() for matrix in matrices.values()]
    tensors = {
        "packed": torch.cat([matrix.packed for matrix in stored]).cpu(),
        "stats": torch.cat([matrix.stats for matrix in stored]).cpu(),
    }
    classifier = adapter_head(model, name)
    if head and isinstance(classifier, nn.Linear):
        dtype = torch.float16 if find_info(model, name).config.head_bits == 16 else torch.float32
        state = {"head.weight": classifier.weight, "head.bias": classifier.bias}
        tensors |= {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
    return tensors


def adapter_files(model: nn.Module, name: str, *, head: bool = True) -> dict[str, bytes]:
    """The content of both files, the same bytes for the same adapter.

    Raises:
        ValueError: there is no such adapter, or one is merged into the backbone.
    """
    info = find_info(model, name)
    check_unmerged(model)
    weights = safetensors.torch.save(adapter_tensors(model, name, head=head))
    content = {
        "format": FORMAT,
        "adapter": {key: value for key, value in asdict(info.config).items() if key != "drop_path"},
        "num_classes": info.num_classes if head else None,
        "class_names": list(info.class_names) if head else [],
        "backbone": {"name": info.base_model or backbone_name(model), "sha256": backbone_fingerprint(model)},
        "codebook": f"{info.config.levels}-{info.config.bits}",
        "preprocessing": dict(info.preprocessing),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return {WEIGHTS_FILE: weights, CONFIG_FILE: text.encode()}


def payload_bytes(model: nn.Module, name: str, *, head: bool = True) -> int:
    """Bytes of packed indices, statistics and classifier alone."""
    return sum(tensor.numel() * tensor.element_size() for tensor in adapter_tensors(model, name, head=head).values())


@dataclass(frozen=True)
class Header:
    """What the JSON file says.

    Attributes:
        info: of the adapter.
        fingerprint: of the backbone it belongs to.
        weights_sha256: of the weights file.
    """

    info: AdapterInfo
    fingerprint: str
    weights_sha256: str


def parse_header(content: bytes) -> Header:
    """Read the JSON file.

    Raises:
        AdapterFileError: it is not what `adapter_files` writes; says which entry.
    """
    try:
        said = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{CONFIG_FILE}: not JSON ({type(error).__name__})") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise AdapterFileError(f"{CONFIG_FILE}: expected an adapter of format {FORMAT}; is a newer bi-adapter needed?")
    settings, backbone = _entry(said, "adapter", dict), _entry(said, "backbone", dict)
    known = {field.name for field in fields(BiAdapterConfig)} - {"drop_path"}
    if set(settings) != known:
        raise AdapterFileError(f"{CONFIG_FILE}: adapter: expected {sorted(known)}, found {sorted(settings)}")
    try:
        config = BiAdapterConfig(**settings)
    except (ValueError, TypeError) as error:
        raise AdapterFileError(f"{CONFIG_FILE}: adapter: {error}") from error
    classes = said.get("num_classes")
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or not 1 <= classes < 2**31):
        raise AdapterFileError(f"{CONFIG_FILE}: num_classes: expected a count or null, found {classes!r}")
    names = _entry(said, "class_names", list)
    if not all(isinstance(name, str) for name in names) or (names and len(names) != classes):
        raise AdapterFileError(f"{CONFIG_FILE}: class_names: expected {classes} strings or none, found {len(names)}")
    if said.get("codebook") != f"{config.levels}-{config.bits}":
        raise AdapterFileError(f"{CONFIG_FILE}: codebook: {said.get('codebook')!r} is not that of the settings")
    info = AdapterInfo(
        config, classes, tuple(names), _entry(said, "preprocessing", dict), _entry(backbone, "name", str)
    )
    return Header(info, _entry(backbone, "sha256", str), _entry(said, "weights_sha256", str))


def parse_weights(
    content: bytes, header: Header, shapes: Sequence[Shape]
) -> tuple[list[StoredMatrix], dict[str, Tensor]]:
    """Read the weights file.

    Args:
        content: of the file.
        header: of the JSON file beside it.
        shapes: of the matrices it must hold, in order.

    Returns:
        The matrices, and `weight` and `bias` of a plain classifier (else nothing).

    Raises:
        AdapterFileError: another file than the JSON file means, or other tensors than the settings and backbone need.
    """
    if hashlib.sha256(content).hexdigest() != header.weights_sha256:
        raise AdapterFileError(f"{WEIGHTS_FILE}: damaged, or not the file that {CONFIG_FILE} was written with")
    try:
        tensors = safetensors.torch.load(content)
    except Exception as error:
        raise AdapterFileError(f"{WEIGHTS_FILE}: not a safetensors file ({error})") from error
    plain_head = header.info.num_classes is not None and header.info.config.head_bits >= 16
    expected = {"packed", "stats", *(_HEAD if plain_head else ())}
    if set(tensors) != expected:
        raise AdapterFileError(f"{WEIGHTS_FILE}: expected tensors {sorted(expected)}, found {sorted(tensors)}")
    matrices = split_matrices(tensors["packed"], tensors["stats"], shapes)
    dtype = torch.float16 if header.info.config.head_bits == 16 else torch.float32
    head = {key.removeprefix("head."): tensors[key] for key in _HEAD if key in tensors}
    for key, value in head.items():
        if value.dtype != dtype or not bool(value.isfinite().all()):
            raise AdapterFileError(
                f"{WEIGHTS_FILE}: head.{key}: expected finite numbers of {dtype}, found {value.dtype}"
            )
    return matrices, head


def split_matrices(packed: Tensor, stats: Tensor, shapes: Sequence[Shape]) -> list[StoredMatrix]:
    """The matrices out of the blob of all indices and the list of all statistics.

    Raises:
        AdapterFileError: too much or too little of one of them, or numbers that are no statistics.
    """
    sizes, groups = [shape.packed_bytes for shape in shapes], [shape.groups for shape in shapes]
    if packed.dtype != torch.uint8 or list(packed.shape) != [sum(sizes)]:
        raise AdapterFileError(
            f"packed: expected {sum(sizes)} bytes for this backbone, found {list(packed.shape)} {packed.dtype}"
        )
    if stats.dtype != torch.float32 or list(stats.shape) != [sum(groups), 2]:
        raise AdapterFileError(f"stats: expected float32 [{sum(groups)}, 2], found {stats.dtype} {list(stats.shape)}")
    if not bool(stats.isfinite().all()):
        raise AdapterFileError("stats: found numbers that are not finite")
    parts = zip(shapes, packed.split(sizes), stats.split(groups), strict=True)
    matrices = [
        StoredMatrix(bytes_, numbers, (shape.rows, shape.columns), shape.bits, shape.codebook)
        for shape, bytes_, numbers in parts
    ]
    for matrix in matrices:
        check_floats(matrix)
    return matrices


def check_floats(matrix: StoredMatrix) -> None:
    """Refuse plain weights that are not finite.

    Raises:
        AdapterFileError: there are some.
    """
    if matrix.bits >= 16 and not bool(StoredLinear(matrix).effective_weight().isfinite().all()):
        raise AdapterFileError("packed: found weights that are not finite")


def largest_file(shapes: Sequence[Shape], header: Header, width: int) -> int:
    """More bytes than a weights file for these shapes can have."""
    head = 4 * (width + 1) * (header.info.num_classes or 0)
    return sum(shape.packed_bytes + 8 * shape.groups for shape in shapes) + head + _HEADER_MARGIN


def head_shape(config: BiAdapterConfig, width: int, num_classes: int | None) -> list[Shape]:
    """The shape of a quantised classifier, or nothing for another."""
    if num_classes is None or config.head_bits >= 16:
        return []
    return [Shape(num_classes, width, config.head_bits, config.codebook)]


def _entry(said: Mapping[str, Any], key: str, kind: type) -> Any:
    if not isinstance(said.get(key), kind):
        raise AdapterFileError(f"{CONFIG_FILE}: {key}: expected {kind.__name__}, found {type(said.get(key)).__name__}")
    return said[key]
