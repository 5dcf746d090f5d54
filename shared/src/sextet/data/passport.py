"""Passports: what a dataset is, where it comes from and what its content must be."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

Arrays = dict[str, np.ndarray]


class Source(Protocol):
    """One way to get a dataset's raw files."""

    def describe(self) -> str:
        """One line for people: the address or the package."""
        ...

    def fetch(self, into: Path) -> dict[str, str]:
        """Put the raw files into the folder `into` and return the versions got. Raises `DataError`.

        `into` may hold what an interrupted earlier call of the same source left.
        """
        ...


@dataclass(frozen=True)
class Passport:
    """What is known about a dataset before it is here.

    `decode` maps one raw folder to arrays (uint8 images, int64 labels, ...); it raises `DataMissing` when the folder
    does not hold the dataset. `content_sha256` is the hash of the decoded arrays, None where the content is built
    locally: then its identity is what was built. `counts` gives the rows of some arrays; `facts` adds what should be
    remembered about a built set (versions of the tools, hash of the inputs).
    """

    name: str
    title: str
    homepage: str
    licence: str
    size: str
    sources: tuple[Source, ...]
    decode: Callable[[Path], Arrays]
    content_sha256: str | None
    instructions: str
    class_names: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    facts: Callable[[Arrays], dict[str, str]] | None = None


def data_root() -> Path:
    """Return the folder all datasets lie in: `$SEXTET_DATA`, else `~/.cache/sextet`."""
    return Path(os.environ.get("SEXTET_DATA") or "~/.cache/sextet").expanduser()


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes (C order), in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype.str}|{tuple(map(int, array.shape))}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
