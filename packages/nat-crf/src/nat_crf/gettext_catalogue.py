"""Reading compiled message catalogues (gettext `.mo` files), which come from anywhere."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from sextet.data import DataError

MAX_BYTES = 64 << 20
"""Larger files are not read."""
_BYTE_ORDERS = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
_CHARSET = re.compile(rb"charset=([\w-]+)", re.IGNORECASE)


class CatalogueError(DataError):
    """A file that is no whole message catalogue."""


def read_messages(content: bytes) -> list[tuple[str, str]]:
    """Original and translation of every message of a `.mo` file; of plural forms, the singular and the last plural.

    Contexts and the header entry are left out, and so are messages that are not text in the header's charset.

    Raises:
        CatalogueError: it is no catalogue, cut off, too large, or in an unknown charset.
    """
    if len(content) > MAX_BYTES:
        raise CatalogueError(f"a catalogue of {len(content)} bytes; expected at most {MAX_BYTES}")
    entries = list(_entries(content))
    charset = next((_charset(translation) for original, translation in entries if not original), "utf-8")
    pairs = []
    for original, translation in entries:
        originals, translations = original.rpartition(b"\x04")[2].split(b"\0"), translation.split(b"\0")
        forms = [(originals[0], translations[0])]
        if len(originals) > 1 and len(translations) > 1:
            forms.append((originals[1], translations[-1]))
        for one, other in forms:
            try:
                pairs.append((one.decode(charset), other.decode(charset)))
            except UnicodeError:
                continue
    return [pair for pair in pairs if pair[0]]


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The raw (original, translation) pairs, every offset checked."""
    order = _BYTE_ORDERS.get(content[:4])
    if order is None or len(content) < 20:
        raise CatalogueError("no message catalogue: it does not begin with the magic number")
    count, *tables = struct.unpack(f"{order}8xIII", content[:20])
    if any(start + 8 * count > len(content) for start in tables):
        raise CatalogueError(f"a catalogue that is cut off: {count} messages declared in {len(content)} bytes")
    rows = [struct.unpack_from(f"{order}{2 * count}I", content, start) for start in tables]
    total = 0
    for index in range(count):
        parts = []
        for row in rows:
            length, start = row[2 * index], row[2 * index + 1]
            total += length
            # Entries may overlap in a hostile file, so that their sum is bounded too
            if start + length > len(content) or total > 2 * len(content):
                raise CatalogueError(f"a catalogue that is cut off: message {index} lies outside of it")
            parts.append(content[start : start + length])
        yield parts[0], parts[1]


def _charset(header: bytes) -> str:
    found = _CHARSET.search(header)
    name = found[1].decode("ascii") if found else "utf-8"
    try:
        "".encode(name)
    except (LookupError, ValueError) as error:
        raise CatalogueError(f"a catalogue in an unknown charset, {name!r}") from error
    return name
