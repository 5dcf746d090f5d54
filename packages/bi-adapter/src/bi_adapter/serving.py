"""Many tasks at once: hundreds of packed adapters resident, each image of a batch with its own in one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bi_adapter.adapters import delete_adapter
from bi_adapter.config import BiAdapterConfig
from bi_adapter.folder import adapter_shapes, from_pretrained
from bi_adapter.hosts import Head, Host, hosts_of
from bi_adapter.installation import adapter_like, install_heads, install_hosts
from bi_adapter.layers import QuantLinear, StoredLinear
from bi_adapter.packing import byte_table, from_bytes, level_values
from bi_adapter.registry import adapter_head, adapter_matrices, check_unmerged, find_info
from bi_adapter.serialise import Shape

_BANK = "bi-adapter-bank"
_FLOATS = {16: torch.float16, 32: torch.float32}


class AdapterBank:
    """A frozen backbone with any number of adapters of one kind, in packed form.

    They agree in method, bits, width, levels and statistics a row; scale, classes and classifier are each one's own.
    A bank computes for inference, and is used by one thread at a time.

    Args:
        model: the backbone, on the device to compute on; adapters it has stay as they are.
        config: the kind. `scale`, `head_bits` and what concerns training do not matter.

    Raises:
        UnsupportedBackbone: a model without known places for adapters.
        ValueError: an adapter is merged into the model.
    """

    def __init__(self, model: nn.Module, config: BiAdapterConfig) -> None:
        check_unmerged(model)
        self.model, self.config = model.requires_grad_(False).eval(), config
        self.hosts = install_hosts(model, config.method)
        self.heads_at = install_heads(model)
        self.shapes = adapter_shapes(self.hosts, config)
        like = adapter_like(model)
        self.dtype, self.device = like.dtype, like.device
        self._rows: dict[str, int] = {}
        self._heads: dict[str, nn.Module | None] = {}
        # [capacity, bytes], [capacity, groups, 2] and [capacity], doubled as they fill
        self._packed = torch.empty(0, sum(shape.packed_bytes for shape in self.shapes), dtype=torch.uint8)
        self._stats = torch.empty(0, sum(shape.groups for shape in self.shapes), 2)
        self._scales = torch.empty(0)
        for name in ("_packed", "_stats", "_scales"):
            setattr(self, name, getattr(self, name).to(self.device))
        self._install()

    @property
    def names(self) -> tuple[str, ...]:
        """The resident adapters."""
        return tuple(self._rows)

    @property
    def resident_bytes(self) -> int:
        """Bytes of packed indices, statistics and scales that are held, without classifiers."""
        each = self._packed.shape[1] + 4 * self._stats[0:1].numel() + 4 if len(self._packed) else 0
        return len(self._rows) * each

    def load(self, name: str, folder: str | Path, *, verify_backbone: bool = True) -> None:
        """Make the adapter of a folder resident; one of this name that is there already is replaced.

        Raises:
            AdapterFileError: files missing, damaged, or of another backbone.
            ValueError: an adapter of another kind. What was resident stays so.
        """
        passing = f"{_BANK}-passing"
        from_pretrained(self.model, folder, name=passing, dequantised=False, verify_backbone=verify_backbone)
        try:
            self.put(name, passing)
        finally:
            delete_adapter(self.model, passing)

    def put(self, name: str, attached: str) -> None:
        """Make an adapter resident that is attached to the model under the name `attached`; that one stays there too.

        Raises:
            ValueError: there is no such adapter, or it is of another kind.
        """
        theirs = find_info(self.model, attached).config
        found, wanted = kind_of(theirs), kind_of(self.config)
        if found != wanted:
            told = ", ".join(f"{key} {found[key]!r}, not {wanted[key]!r}" for key in found if found[key] != wanted[key])
            raise ValueError(f"{name}: an adapter of another kind than this bank's: {told}")
        matrices = adapter_matrices(self.model, attached)
        matrices.pop("head", None)
        stored = [matrix.stored() for matrix in matrices.values()]
        row = self._row(name)
        self._packed[row] = torch.cat([matrix.packed for matrix in stored]).to(self.device)
        self._stats[row] = torch.cat([matrix.stats for matrix in stored]).to(self.device)
        self._scales[row] = theirs.scale
        self._heads[name] = _constant(adapter_head(self.model, attached))

    def remove(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            ValueError: it is not resident.
        """
        self._find(name)
        del self._rows[name], self._heads[name]

    @torch.inference_mode()
    def __call__(self, images: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Classify each image by the adapter of its own name.

        Args:
            images: [batch, channels, height, width].
            names: one a image, of resident adapters.

        Returns:
            A tensor [classes] for each image; features [dim] where its adapter has no classifier.

        Raises:
            ValueError: names that are not resident, or not one a image.
        """
        if len(names) != len(images):
            raise ValueError(f"names: expected {len(images)}, one a image, got {len(names)}")
        if not names:
            return []
        chosen = list(dict.fromkeys(names))
        which = torch.tensor([chosen.index(name) for name in names], device=self.device)
        rows = torch.tensor([self._find(name) for name in chosen], device=self.device)
        with self._active(_Chosen(self._packed[rows], self._stats[rows], self._scales[rows], which)):
            features = self.model(images)
        results: list[Tensor] = [features[0]] * len(names)
        for number, name in enumerate(chosen):
            members = (which == number).nonzero().flatten()
            head = self._heads[name]
            outputs = features[members] if head is None else head(features[members])
            for position, output in zip(members.tolist(), outputs, strict=True):
                results[position] = output
        return results

    def close(self) -> None:
        """Give the model back as it was, apart from being frozen."""
        for host in [*self.hosts, *self.heads_at]:
            del host.adapters[_BANK]
            if not host.adapters:
                host.remove()

    def _install(self) -> None:
        self._layers: list[MixedLinear] = []
        byte = group = 0
        for shape in self.shapes:
            self._layers.append(MixedLinear(shape, byte, group))
            byte, group = byte + shape.packed_bytes, group + shape.groups
        layers = iter(self._layers)
        self._bottlenecks = []
        for host in self.hosts:
            parts = [MixedBottleneck(next(layers), next(layers), relu=host.method == "adaptformer") for _ in host.parts]
            self._bottlenecks += parts
            host.adapters[_BANK] = parts[0] if len(parts) == 1 else MixedPair(*parts)
        for head in self.heads_at:
            head.adapters[_BANK] = nn.Identity()

    @contextmanager
    def _active(self, chosen: _Chosen) -> Iterator[None]:
        every: list[Host] = [host for host in hosts_of(self.model) if _BANK in host.adapters or isinstance(host, Head)]
        before = [(host, host.active) for host in hosts_of(self.model)]
        for host, _ in before:
            host.active = _BANK if host in every else None
        for part in (*self._layers, *self._bottlenecks):
            part.chosen = chosen
        try:
            yield
        finally:
            for host, active in before:
                host.active = active
            for part in (*self._layers, *self._bottlenecks):
                part.chosen = None

    def _find(self, name: str) -> int:
        if name not in self._rows:
            raise ValueError(f"names: {name!r} is not resident; there are {sorted(self._rows)}")
        return self._rows[name]

    def _row(self, name: str) -> int:
        if name in self._rows:
            return self._rows[name]
        taken = set(self._rows.values())
        free = next(row for row in range(len(taken) + 1) if row not in taken)
        if free == len(self._packed):
            more = max(4, free)
            self._packed, self._stats, self._scales = (
                torch.cat([value, value.new_zeros(more, *value.shape[1:])])
                for value in (self._packed, self._stats, self._scales)
            )
        self._rows[name] = free
        return free


def kind_of(config: BiAdapterConfig) -> dict[str, Any]:
    """What adapters of one bank have in common."""
    kind = {key: getattr(config, key) for key in ("method", "bits", "dim", "per_row", "levels")}
    return kind | ({"per_row": False, "levels": ""} if config.bits >= 16 else {})


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The adapters that a batch uses: packed [n, bytes], stats [n, groups, 2], scales [n]; `which` of them, [batch]."""

    packed: Tensor
    stats: Tensor
    scales: Tensor
    which: Tensor

    def each(self, rows: int) -> Tensor:
        """The adapter of each row of a layer's input; windows of one image follow each other."""
        return self.which if rows == len(self.which) else self.which.repeat_interleave(rows // len(self.which))


class MixedLinear(nn.Module):
    """One matrix of each chosen adapter: y = scale (x c[index]^T) + offset sum(x), row by row of a batch (§11.9)."""

    def __init__(self, shape: Shape, byte: int, group: int) -> None:
        super().__init__()
        self.shape, self.chosen = shape, None
        self.bytes = slice(byte, byte + shape.packed_bytes)
        self.groups = slice(group, group + shape.groups)
        self.chosen: _Chosen | None

    def levels(self, packed: Tensor) -> Tensor:
        """c[index] (the weights themselves at 16 and 32 bits), float32 [n, rows, columns]."""
        own, shape = packed[:, self.bytes], self.shape
        if shape.bits in _FLOATS:
            values = from_bytes(own.reshape(-1), _FLOATS[shape.bits]).float()
        else:
            table = byte_table(shape.codebook, shape.bits, own.device)
            values = level_values(own, table, shape.rows * shape.columns)
        return values.view(len(packed), shape.rows, shape.columns)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, columns] -> [batch, tokens, rows]."""
        assert self.chosen is not None
        each, levels = self.chosen.each(len(x)), self.levels(self.chosen.packed).to(x.dtype)
        # One adapter for all is an ordinary product
        y = F.linear(x, levels[0]) if len(levels) == 1 else torch.bmm(x, levels[each].transpose(1, 2))
        if self.shape.bits in _FLOATS:
            return y
        # [batch, 1, 1 or rows] each
        offset, scale = self.chosen.stats[each][:, None, self.groups].to(x.dtype).unbind(-1)
        return y * scale + x.sum(dim=-1, keepdim=True) * offset


class MixedBottleneck(nn.Module):
    """The adapters of one place: s U relu(D x), or s U D x, with U, D and s of each image's own."""

    def __init__(self, down: MixedLinear, up: MixedLinear, *, relu: bool) -> None:
        super().__init__()
        self.down, self.up, self.relu = down, up, relu
        self.chosen: _Chosen | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[batch, ..., in] -> [batch, ..., out]."""
        assert self.chosen is not None
        hidden = self.down(x.reshape(len(x), math.prod(x.shape[1:-1]), -1))
        hidden = F.relu(hidden) if self.relu else hidden
        scales = self.chosen.scales[self.chosen.each(len(x))].to(x.dtype)[:, None, None]
        return self.up(hidden * scales).view(*x.shape[:-1], -1)


class MixedPair(nn.Module):
    """Query and value of a fused projection."""

    def __init__(self, query: MixedBottleneck, value: MixedBottleneck) -> None:
        super().__init__()
        self.query, self.value = query, value

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Updates of query and value, [batch, tokens, dim] each."""
        return self.query(x), self.value(x)


def _constant(head: nn.Module | None) -> nn.Module | None:
    """A classifier that no longer changes with the one it was made from."""
    if isinstance(head, QuantLinear | StoredLinear):
        return StoredLinear(head.stored(), dtype=head.weight.dtype if head.weight is not None else None)
    if not isinstance(head, nn.Linear):
        return head
    copy = nn.Linear(head.in_features, head.out_features, device="meta")
    copy.weight, copy.bias = (
        nn.Parameter(value.detach().clone(), requires_grad=False) for value in (head.weight, head.bias)
    )
    return copy
