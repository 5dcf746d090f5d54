"""One task's adapter as a folder: saved, and loaded onto the backbone it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from bi_adapter.adapters import place, set_adapter
from bi_adapter.config import BiAdapterConfig
from bi_adapter.fingerprint import backbone_fingerprint, backbone_name
from bi_adapter.hosts import Host, hosts_of, new_bottleneck
from bi_adapter.installation import adapter_like, classifier_places, feature_width, install_hosts
from bi_adapter.layers import StoredLinear
from bi_adapter.packing import StoredMatrix
from bi_adapter.registry import AdapterInfo, active_adapter, check_free, find_info, register
from bi_adapter.serialise import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterFileError,
    Header,
    Shape,
    adapter_files,
    head_shape,
    largest_file,
    parse_header,
    parse_weights,
)
from sextet.files import write_atomic

Model = TypeVar("Model", bound=nn.Module)
_LARGEST_HEADER = 1 << 24


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    base_model: str | None = None,
) -> Path:
    """Write an adapter as `adapter_model.safetensors` and `adapter_config.json`.

    Saving a loaded adapter again writes the same bytes.

    Args:
        model: with the adapter.
        folder: made where it is absent; what was there is replaced.
        name: of the adapter; the active one by default.
        class_names, preprocessing, base_model: noted in the file and kept from then on; None for what is known already.

    Returns:
        The folder.

    Raises:
        ValueError: no such adapter, an adapter is merged, class names that do not fit the classifier, or notes on
            preprocessing that JSON cannot hold. The folder is then as it was.
        OSError: the folder cannot be written.
    """
    name = active_adapter(model) if name is None else name
    info = find_info(model, name)
    if class_names is not None and len(class_names) != info.num_classes:
        raise ValueError(f"class_names: expected {info.num_classes} names, one a class, got {len(class_names)}")
    info = replace(
        info,
        class_names=info.class_names if class_names is None else tuple(class_names),
        preprocessing=info.preprocessing if preprocessing is None else _plain_json(preprocessing),
        base_model=info.base_model if base_model is None else base_model,
    )
    register(model, name, info)
    folder = Path(folder)
    for file, content in adapter_files(model, name).items():
        write_atomic(folder / file, content)
    return folder


def from_pretrained(
    model: Model, folder: str | Path, *, name: str = "default", dequantised: bool = True, verify_backbone: bool = True
) -> Model:
    """Load an adapter onto a backbone, in its stored form, and make it the active one.

    Args:
        model: the backbone the adapter was trained on; frozen and changed in place.
        folder: what `save_pretrained` wrote.
        name: the adapter gets.
        dequantised: hold decoded weights (fast); else only the packed ones.
        verify_backbone: refuse other weights than those it was trained on. False for the same backbone in another
            precision, such as int8.

    Returns:
        The same model.

    Raises:
        AdapterFileError: files missing, damaged, or of another backbone; the model is as before.
        ValueError: a name that is taken or cannot be used, or a model without places for adapters.
    """
    check_free(model, name)
    folder = Path(folder)
    header = parse_header(read_limited(folder / CONFIG_FILE, _LARGEST_HEADER))
    if verify_backbone and backbone_fingerprint(model) != header.fingerprint:
        raise AdapterFileError(
            f"{folder}: this adapter belongs to {header.info.base_model}, whose weights are not those of this "
            f"{backbone_name(model)}; load the backbone it was trained on (verify_backbone=False to insist)"
        )
    config, classes = header.info.config, header.info.num_classes
    hosts = install_hosts(model, config.method)
    try:
        shapes = [*adapter_shapes(hosts, config), *head_shape(config, _width(model, classes), classes)]
        content = read_limited(folder / WEIGHTS_FILE, largest_file(shapes, header, _width(model, classes)))
        matrices, state = parse_weights(content, header, shapes)
        head = _head(header, matrices, state, adapter_like(model), dequantised, _width(model, classes))
        return place_stored(model, name, header.info, hosts, matrices, head, dequantised=dequantised)
    except BaseException:
        remove_unused_hosts(model)
        raise


def _plain_json(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """What comes back when it is read again."""
    try:
        return json.loads(json.dumps(dict(preprocessing), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"preprocessing: expected numbers, strings, lists and mappings of them ({error})") from error


def adapter_shapes(hosts: Sequence[Host], config: BiAdapterConfig) -> list[Shape]:
    """The shapes of an adapter's matrices in the order of the published files, without classifier."""
    settings = config.bits, config.levels, config.per_row
    shapes = []
    for host in hosts:
        for _ in host.parts:
            shapes += [Shape(config.dim, host.width_in, *settings), Shape(host.width_out, config.dim, *settings)]
    return shapes


def place_stored(
    model: Model,
    name: str,
    info: AdapterInfo,
    hosts: Sequence[Host],
    matrices: Sequence[StoredMatrix],
    head: nn.Module | None,
    *,
    dequantised: bool = True,
) -> Model:
    """Put stored matrices (in the order of the published files, without classifier) onto a model and activate them."""
    like = adapter_like(model)
    layers = (stored_layer(matrix, like, dequantised) for matrix in matrices)
    adapters = []
    for host in hosts:
        parts = [new_bottleneck(info.config, next(layers), next(layers)) for _ in host.parts]
        adapters.append(host.assemble(parts))
    place(model, name, info, hosts, adapters, head)
    set_adapter(model, name)
    return model


def stored_layer(matrix: StoredMatrix, like: Tensor, dequantised: bool) -> StoredLinear:
    """A layer on the device and in the dtype of `like`."""
    moved = replace(matrix, packed=matrix.packed.to(like.device), stats=matrix.stats.to(like.device))
    return StoredLinear(moved, dequantised=dequantised, dtype=like.dtype)


def plain_head(weight: Tensor, bias: Tensor, like: Tensor) -> nn.Linear:
    """A classifier from stored numbers, computing in the dtype of `like`."""
    head = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    head.weight, head.bias = (nn.Parameter(value.to(like)) for value in (weight, bias))
    return head


def remove_unused_hosts(model: nn.Module) -> None:
    """Give the backbone its own modules back wherever no adapter is left."""
    for host in hosts_of(model):
        if not host.adapters:
            host.remove()


def _head(
    header: Header,
    matrices: list[StoredMatrix],
    state: Mapping[str, Tensor],
    like: Tensor,
    dequantised: bool,
    width: int,
) -> nn.Module | None:
    """The classifier; a quantised one is taken off the end of `matrices`."""
    classes = header.info.num_classes
    if classes is None:
        return None
    if not state:
        return stored_layer(matrices.pop(), like, dequantised)
    if list(state["weight"].shape) != [classes, width] or list(state["bias"].shape) != [classes]:
        found = [list(value.shape) for value in state.values()]
        raise AdapterFileError(f"{WEIGHTS_FILE}: head: expected {classes} classes and width {width}, found {found}")
    return plain_head(state["weight"], state["bias"], like)


def _width(model: nn.Module, classes: int | None) -> int:
    if classes is None:
        return 0
    if not classifier_places(model):
        raise AdapterFileError(f"this adapter has a classifier, for which {type(model).__name__} has no place")
    return feature_width(model)


def read_limited(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises:
        AdapterFileError: it is larger, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise AdapterFileError(f"{path}: cannot be read ({error})") from error
    if len(content) > limit:
        raise AdapterFileError(f"{path}: larger than the {limit} bytes that such a file can have")
    return content
