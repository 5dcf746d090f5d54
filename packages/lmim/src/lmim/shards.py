"""Images packed into tar files of equal size: few large files instead of a million small ones.

The format is that of the webdataset library: `00001234.jpg` beside `00001234.cls`, the label in decimal digits. The tar
files are plain, so an index of offsets gives random access to them (`imagenet.decode_imagenet`).
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from lmim.image_index import ImageIndex
from sextet.files import write_atomic

SHARD_BYTES = 1 << 30


def write_shards(
    index: ImageIndex, split: str, classes: list[str], folder: Path, *, shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Copy all images of a split, as they are, into `<folder>/<split>-000000.tar` and on; `classes.txt` names labels.

    A shard is complete once it has its name, so a call that was stopped is called again and goes on: shards that are
    there are not written again.

    Args:
        index: the images.
        split: first part of the names.
        classes: of the labels.
        folder: where; made when absent.
        shard_bytes: a shard ends with the first image that fills it beyond.

    Returns:
        The shards, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "classes.txt", "\n".join(classes).encode() + b"\n")
    shards: list[Path] = []
    first = 0
    while first < len(index):
        path = folder / f"{split}-{len(shards):06d}.tar"
        first = _next_first(path, first) if path.is_file() else _write_shard(index, path, first, shard_bytes)
        shards.append(path)
    return shards


def _next_first(path: Path, first: int) -> int:
    """The row behind the last one of a shard that begins with row `first`."""
    with tarfile.open(path) as archive:
        return first + sum(member.name.endswith(".cls") for member in archive)


def _write_shard(index: ImageIndex, path: Path, first: int, shard_bytes: int) -> int:
    """Write one shard from row `first` on; returns the next row."""
    partial = path.with_name(f".{path.name}.partial")
    row, written = first, 0
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
        while row < len(index) and written < shard_bytes:
            content = index.read(row)
            suffix = "png" if content.startswith(b"\x89PNG") else "jpg"
            for name, part in ((f"{row:08d}.{suffix}", content), (f"{row:08d}.cls", b"%d" % index.labels[row])):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
            row, written = row + 1, written + len(content)
    os.replace(partial, path)
    return row
