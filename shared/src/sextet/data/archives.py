"""Safe extraction: regular files inside one folder and nothing else, whatever the archive claims."""

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from sextet.data.errors import DataError, UnsafeArchive

CHUNK = 1 << 20
MAX_BYTES = 4 << 30
MAX_FILES = 200_000

_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, zlib.error,
            lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)  # fmt: skip
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def is_archive(path: Path) -> bool:
    """Say by content whether `path` is a tar (plain or gz, bz2, xz) or zip file."""
    try:
        if zipfile.is_zipfile(path):
            return True
        with _decompressed(path, MAX_BYTES) as stream:
            header = stream.read(512)
    except (*_DAMAGED, DataError):
        return False
    return len(header) == 512 and header[257:262] == b"ustar"


def extract(archive: Path, into: Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> Path:
    """Extract a tar (plain, gz, bz2, xz) or zip archive into the new folder `into` and return it.

    Only regular files and folders inside `into` are accepted. `..`, absolute names, links, devices, NUL, names that
    differ in case only, more than `max_files` entries or more than `max_bytes` bytes (declared or real) raise
    `UnsafeArchive`; a damaged archive raises `DataError`. Either way nothing is left behind.
    """
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise DataError(f"{into} exists already; extract into a new or empty folder")
    into.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}-"))
    writer = _Writer(scratch, max_bytes, max_files)
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, writer)
        else:
            _extract_tar(archive, writer)
        if not writer.entries:
            raise ValueError("it has no entries")
        os.replace(scratch, into)
    except UnsafeArchive as error:
        raise UnsafeArchive(f"{archive.name}: {error}; nothing was extracted") from error
    except _DAMAGED as error:
        raise DataError(f"{archive.name} is damaged or no archive ({type(error).__name__}: {error})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return into


@dataclass
class _Writer:
    """Checks every entry before it touches the disk, and counts what is really written."""

    root: Path
    max_bytes: int
    max_files: int
    entries: int = 0
    declared: int = 0
    written: int = 0
    folders: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def add(self, name: str, size: int, stream: IO[bytes] | None) -> None:
        """Write one file, or make one folder where `stream` is None."""
        self.entries += 1
        self.declared += size
        if size < 0:
            raise UnsafeArchive(f"{name!r} declares {size} bytes")
        if self.entries > self.max_files:
            raise UnsafeArchive(f"more than {self.max_files} entries")
        if self.declared > self.max_bytes:
            raise UnsafeArchive(f"declares more than {self.max_bytes} bytes")
        parts = _safe_parts(name)
        self._claim(parts, is_file=stream is not None)
        target = self.root.joinpath(*parts)
        if stream is None:
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            while block := stream.read(CHUNK):
                self.written += len(block)
                if self.written > self.max_bytes:
                    raise UnsafeArchive(f"holds more than {self.max_bytes} bytes")
                out.write(block)

    def _claim(self, parts: tuple[str, ...], is_file: bool) -> None:
        """Refuse names that would meet another entry on a case-insensitive or normalising file system."""
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            key = unicodedata.normalize("NFC", path).casefold()
            last_is_file = is_file and depth == len(parts)
            clash = key in self.files or (last_is_file and key in self.folders)
            if clash or self.folders.get(key, path) != path:
                raise UnsafeArchive(f"name {path!r} clashes with another entry")
            if last_is_file:
                self.files.add(key)
            else:
                self.folders[key] = path


def _safe_parts(name: str) -> tuple[str, ...]:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or (parts and ":" in parts[0]):
        raise UnsafeArchive(f"name {name!r} leads outside the folder")
    return parts


def _extract_tar(archive: Path, writer: _Writer) -> None:
    with (
        _decompressed(archive, writer.max_bytes) as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo) as tar,
    ):
        for member in tar:
            if member.isdir():
                writer.add(member.name, 0, None)
            elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None:
                writer.add(member.name, member.size, tar.extractfile(member))
            else:
                raise UnsafeArchive(f"{member.name!r} is a link, device or sparse file")


_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
             tarfile.GNUTYPE_LONGLINK)  # fmt: skip


class _TarInfo(tarfile.TarInfo):
    """A tar header whose extended headers (read into memory as a whole) are bounded."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED and header.size > CHUNK:
            raise UnsafeArchive(f"an extended header of {header.size} bytes")
        return header


def _extract_zip(archive: Path, writer: _Writer) -> None:
    with zipfile.ZipFile(archive) as bundle:
        for info in bundle.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnsafeArchive(f"{info.filename!r} is a link or device")
            if "\0" in info.orig_filename:
                raise UnsafeArchive(f"name {info.orig_filename!r} holds a NUL")
            if info.is_dir():
                writer.add(info.filename, 0, None)
            else:
                with bundle.open(info) as stream:
                    writer.add(info.filename, info.file_size, stream)


class _Bounded:
    """A readable stream that refuses to deliver more than `limit` bytes: headers cannot hide a bomb."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream, self.left = stream, limit

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise UnsafeArchive("unpacks to more bytes than allowed")
        return block


@contextmanager
def _decompressed(path: Path, max_bytes: int) -> Iterator[IO[bytes]]:
    """Open a tar file through its compression, bounded by `max_bytes` and the headers of that many."""
    with path.open("rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
        stream = opener(raw, "rb") if opener else raw
        with stream:
            yield _Bounded(stream, 2 * max_bytes + (1 << 20))  # type: ignore[misc]
