"""Adapters on a frozen backbone: attach one, several under names, switch between them, and count what is trained.

A model with adapters is still the user's own model; everything here is a function of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from bi_adapter.config import BiAdapterConfig
from bi_adapter.hosts import Head, Host, hosts_of, new_adapter
from bi_adapter.installation import (
    adapter_like,
    blocks_of,
    classifier_places,
    feature_width,
    install_heads,
    install_hosts,
)
from bi_adapter.layers import Matrix, QuantLinear, StoredLinear, init_default
from bi_adapter.packing import decode
from bi_adapter.quantise import encode
from bi_adapter.registry import (
    AdapterInfo,
    active_adapter,
    adapter_head,
    adapter_hosts,
    adapter_infos,
    adapter_matrices,
    check_free,
    check_unmerged,
    find_info,
    register,
    registry_of,
)
from bi_adapter.serialise import adapter_files, payload_bytes

Model = TypeVar("Model", bound=nn.Module)


def attach(
    model: Model,
    config: BiAdapterConfig | None = None,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    name: str = "default",
    generator: torch.Generator | None = None,
) -> Model:
    """Freeze a backbone, put a fresh adapter on it with a fresh classifier, and make it the active one.

    Args:
        model: a timm `VisionTransformer` or `SwinTransformer`, or a ViT of transformers; changed in place.
        config: the adapter's settings; the paper's Bi-AdaptFormer of width 32 by default.
        num_classes: of the new classifier; None for as many as the model's own has (none where it has none).
        class_names: to be stored with the adapter.
        name: of the adapter.
        generator: for the initial weights; torch's own by default.

    Returns:
        The same model.

    Raises:
        UnsupportedBackbone: a model without known places for adapters.
        ValueError: a name that is taken or cannot be used, class names that do not fit `num_classes`.
    """
    add_adapter(
        model, name, config or BiAdapterConfig(), num_classes=num_classes, class_names=class_names, generator=generator
    )
    set_adapter(model, name)
    return model


def add_adapter(
    model: nn.Module,
    name: str,
    config: BiAdapterConfig,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
    generator: torch.Generator | None = None,
) -> None:
    """Put a further adapter on a model without making it active; arguments and errors as of `attach`."""
    info = AdapterInfo(config, class_count(model, num_classes, class_names), tuple(class_names))
    check_free(model, name)
    if config.drop_path is not None:
        set_drop_path(model, config.drop_path)
    like = adapter_like(model)
    hosts = install_hosts(model, config.method)
    adapters = [new_adapter(host, config, generator, like) for host in hosts]
    head = None
    if info.num_classes is not None:
        head = new_head(config, feature_width(model), info.num_classes, generator, like)
    place(model, name, info, hosts, adapters, head)


def place(
    model: nn.Module,
    name: str,
    info: AdapterInfo,
    hosts: Sequence[Host],
    adapters: Sequence[nn.Module],
    head: nn.Module | None,
) -> None:
    """Put finished modules onto a model: one for each host of the method (in order), and a classifier or None.

    The first adapter of a model freezes its backbone.
    """
    if not adapter_infos(model):
        model.requires_grad_(False)
    for host, adapter in zip(hosts, adapters, strict=True):
        host.adapters[name] = adapter.requires_grad_(False).train(model.training)
    if head is not None:
        for host in install_heads(model):
            host.adapters[name] = head.requires_grad_(False).train(model.training)
    register(model, name, info)


def new_head(
    config: BiAdapterConfig, width: int, num_classes: int, generator: torch.Generator | None, like: Tensor
) -> nn.Module:
    """A fresh classifier: a plain linear layer, or a quantised one without bias below 16 bits."""
    if config.head_bits < 16:
        return QuantLinear(
            width, num_classes, config.head_bits, codebook=config.codebook, generator=generator,
            statistic_gradients=config.statistic_gradients, device=like.device, dtype=like.dtype,
        )  # fmt: skip
    head = nn.Linear(width, num_classes, device=like.device, dtype=like.dtype)
    init_default(head.weight, generator)
    with torch.no_grad():
        head.bias.uniform_(-(width**-0.5), width**-0.5, generator=generator)
    return head


def set_adapter(model: nn.Module, name: str) -> None:
    """Make one adapter the active one, and its weights the only ones with gradients.

    Raises:
        ValueError: there is no such adapter, or another one is merged.
    """
    find_info(model, name)
    hosts, registry = check_unmerged(model), registry_of(model)
    before, registry.chosen = registry.chosen, name
    for host in hosts:
        host.active = name
        # All others are without gradients since `place`: among hundreds of adapters a change takes as long as among two
        for other in (before, name):
            if other is not None and other in host.adapters:
                host.adapters[other].requires_grad_(other == name)


def disable_adapter(model: nn.Module) -> None:
    """Let the model compute as it did without adapters, its own classifier included, until `enable_adapter`."""
    for host in check_unmerged(model):
        host.active = None


def enable_adapter(model: nn.Module) -> None:
    """Undo `disable_adapter`."""
    set_adapter(model, active_adapter(model))


def delete_adapter(model: nn.Module, name: str) -> None:
    """Remove an adapter; after the last one the backbone's own modules are back in place.

    Raises:
        ValueError: there is no such adapter, or one is merged.
    """
    find_info(model, name)
    check_unmerged(model)
    registry = registry_of(model)
    del registry.infos[name]
    for host in hosts_of(model):
        if name in host.adapters:
            del host.adapters[name]
        if not host.adapters:
            host.remove()
    if registry.chosen == name:
        registry.chosen = None
        for host in hosts_of(model):
            host.active = None


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The latents, learned steps and classifier of the active adapter, in the order of the published files.

    Raises:
        ValueError: there is nothing to train, because the adapter was loaded in its stored form.
    """
    name = active_adapter(model)
    matrices = adapter_matrices(model, name)
    if any(isinstance(matrix, StoredLinear) for matrix in matrices.values()):
        raise ValueError(
            f"model: the adapter {name!r} is in its stored form, which has no latent weights to train; to go on with a "
            "training, restore its checkpoint into an attached model"
        )
    modules: list[nn.Module] = [*matrices.values()]
    head = adapter_head(model, name)
    modules += [head] if head is not None and head not in modules else []
    return [parameter for module in modules for parameter in module.parameters()]


def storage_bytes(
    model: nn.Module, *, by: Literal["payload", "file"] = "payload", head: bool = True, name: str | None = None
) -> int:
    """What an adapter takes to store.

    Args:
        model: with the adapter.
        by: `payload`, packed weights, statistics and classifier alone; `file`, both files of `save_pretrained`.
        head: count the classifier.
        name: of the adapter; the active one by default.

    Raises:
        ValueError: another `by`, or no such adapter.
    """
    name = active_adapter(model) if name is None else name
    if by == "payload":
        return payload_bytes(model, name, head=head)
    if by == "file":
        return sum(len(content) for content in adapter_files(model, name, head=head).values())
    raise ValueError(f"by: expected 'payload' or 'file', got {by!r}")


def post_training_quantise(model: Model, bits: int) -> Model:
    """Replace the latents of a trained 16- or 32-bit adapter by their nearest values of `bits` bits (no retraining).

    Mean, standard deviation and levels as in training; the adapter stays one of plain floats, with 2^bits values a
    matrix. The classifier is left alone.

    Raises:
        ValueError: the active adapter is quantised already, or bits that are no codebook's.
    """
    info = find_info(model, active_adapter(model))
    if info.config.bits < 16:
        raise ValueError(f"model: expected an adapter of 16 or 32 bits, got one of {info.config.bits}")
    with torch.no_grad():
        for host in adapter_hosts(model, active_adapter(model)):
            for bottleneck in host.bottlenecks(active_adapter(model)).values():
                for matrix in (bottleneck.adapter_down, bottleneck.adapter_up):
                    quantise_in_place(matrix, bits, info.config)
    return model


def quantise_in_place(matrix: Matrix, bits: int, config: BiAdapterConfig) -> None:
    """One matrix of `post_training_quantise`."""
    assert isinstance(matrix, QuantLinear)
    stored = encode(matrix.weight, bits, quantiser="median", codebook_kind=config.codebook, per_row=config.per_row)
    matrix.weight.copy_(decode(stored))


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Stochastic depth of the backbone's branches, rising linearly from 0 in the first block to `rate` in the last.

    Raises:
        ValueError: a rate outside [0, 1), or blocks without stochastic depth (those of transformers).
    """
    from timm.layers.drop import DropPath

    if not 0 <= rate < 1:
        raise ValueError(f"drop_path: expected a rate in [0, 1), got {rate!r}")
    blocks = blocks_of(model)
    for number, (name, block) in enumerate(blocks):
        if not hasattr(block, "drop_path1"):
            raise ValueError(f"drop_path: {name} has no stochastic depth; leave drop_path at None for this backbone")
        own = rate * number / max(1, len(blocks) - 1)
        made = [DropPath(own) if own > 0 else nn.Identity() for _ in range(2)]
        hosted = getattr(block, "mlp", None)
        target = (hosted, "drop_path") if isinstance(hosted, Host) else (block, "drop_path2")
        setattr(block, "drop_path1", made[0])  # noqa: B010 - not an attribute that every module has
        setattr(*target, made[1])


def class_count(model: nn.Module, num_classes: int | None, class_names: Sequence[str] = ()) -> int | None:
    """How many classes a new classifier gets: as said, as named, as the backbone's own has, or None for no classifier.

    Raises:
        ValueError: numbers that do not fit each other, or a model without a place for a classifier.
    """
    places = classifier_places(model)
    if num_classes is None and class_names:
        num_classes = len(class_names)
    if num_classes is None:
        for parent, attribute in places:
            module: Any = getattr(parent, attribute)
            module = module.base if isinstance(module, Head) else module
            num_classes = getattr(module, "out_features", None)
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 1):
        raise ValueError(f"num_classes: expected at least 1, got {num_classes!r}")
    if num_classes is not None and not places:
        raise ValueError(f"num_classes: {type(model).__name__} has no place for a classifier; expected None")
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"class_names: expected {num_classes} names, one a class, got {len(class_names)}")
    return num_classes
