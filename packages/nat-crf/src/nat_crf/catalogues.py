"""English-German sentence pairs out of the message catalogues of Debian packages (the kind behind OPUS GNOME and KDE).

Each program's catalogue has its own licence: pairs are extracted here and nothing is redistributed.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np

from nat_crf.gettext_catalogue import CatalogueError, read_messages
from sextet.data import Arrays, DataError, DataMissing, Passport
from sextet.data.packages import DebianPackage

MAX_WORDS, MAX_RATIO, MIN_LETTERS = 60, 3.0, 0.6
_TAG = re.compile(r"<[^<>]*>")
_ACCELERATOR = re.compile(r"[_&~](?=\w)")


def clean(message: str) -> str:
    """A message as plain text: entities resolved, tags and accelerator marks dropped, spaces collapsed.

    Placeholders such as %s, %1 and {0} stay.
    """
    return " ".join(_ACCELERATOR.sub("", _TAG.sub(" ", html.unescape(message))).split())


def is_sentence_pair(english: str, german: str) -> bool:
    """Whether a cleaned pair is a translation worth learning from.

    Not: untranslated or identical ones, single words, more than 60 words, lengths in a ratio above 3, or less than 60 %
    letters.
    """
    lengths = len(english.split()), len(german.split())
    if english.lower() == german.lower() or min(lengths) < 2 or max(lengths) > MAX_WORDS:
        return False
    letters = sum(character.isalpha() for character in english)
    return max(lengths) <= MAX_RATIO * min(lengths) and letters >= MIN_LETTERS * len(english.replace(" ", ""))


def catalogue_files(folder: Path) -> list[tuple[str, Path]]:
    """Every German catalogue below `folder`, with the name of the sub-folder (the package) it is in."""
    files = sorted(path for path in folder.rglob("*.mo") if path.is_file() and not path.is_symlink())
    german = [path for path in files if path.parent.name == "LC_MESSAGES" and path.parent.parent.name == "de"]
    return [(path.relative_to(folder).parts[0], path) for path in german]


def sentence_pairs(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, str, str]]:
    """(English, German, package) of all catalogues, cleaned, filtered, the first of every lower-cased English text."""
    seen: set[str] = set()
    for package, path in files:
        try:
            messages = read_messages(path.read_bytes())
        except (CatalogueError, OSError):
            continue  # single catalogues of a release may be in a charset nobody knows; the counts tell of more
        for pair in messages:
            english, german = map(clean, pair)
            if is_sentence_pair(english, german) and english.lower() not in seen:
                seen.add(english.lower())
                yield english, german, package


def decode_catalogues(folder: Path, at_least: int = 1000) -> Arrays:
    """Sentence pairs from every German catalogue below `folder`, sorted by the SHA-256 of the English text.

    Arrays: `english` and `german` uint8, UTF-8 with a line feed behind each sentence; `package` int64 `[n]`, index into
    `packages`, text.

    Raises:
        DataMissing: there are no catalogues.
        DataError: fewer than `at_least` pairs.
    """
    files = catalogue_files(folder)
    if not files:
        raise DataMissing(f"no .../de/LC_MESSAGES/*.mo in {folder}")
    pairs = sorted(sentence_pairs(files), key=lambda pair: digest(pair[0]))
    if len(pairs) < at_least:
        raise DataError(f"{folder}: only {len(pairs)} sentence pairs in {len(files)} catalogues")
    packages = sorted({package for _, _, package in pairs})
    index = {package: number for number, package in enumerate(packages)}
    return {
        "english": _lines(pair[0] for pair in pairs),
        "german": _lines(pair[1] for pair in pairs),
        "package": np.array([index[pair[2]] for pair in pairs], np.int64),
        "packages": np.array(packages),
    }


def sentences(arrays: Arrays, language: str) -> list[str]:
    """The sentences of `english` or `german`."""
    return arrays[language].tobytes().decode("utf-8").split("\n")[:-1]


def digest(english: str) -> str:
    """SHA-256 of the lower-cased English text: its place in the order, and what the split goes by."""
    return hashlib.sha256(english.lower().encode()).hexdigest()


def split_of(english: str, test: float, valid: float) -> str:
    """`test`, `valid` or `train`, by hash of the English text: newer packages leave old sentences where they were.

    Args:
        english: the text.
        test, valid: shares of the two sets.
    """
    position = int(digest(english)[:12], 16) / 16**12
    return "test" if position < test else "valid" if position < test + valid else "train"


def _lines(texts: Iterable[str]) -> np.ndarray:
    return np.frombuffer("".join(f"{text}\n" for text in texts).encode("utf-8"), np.uint8)


def _facts(arrays: Arrays) -> dict[str, str]:
    return {"pairs": str(len(arrays["package"])), "packages with pairs": str(len(arrays["packages"]))}


def package_names() -> Sequence[str]:
    """Debian packages with German catalogues, those with most pairs a byte first."""
    listed = resources.files("nat_crf").joinpath("catalogue_packages.txt").read_text(encoding="utf-8")
    return [line for line in listed.splitlines() if line and not line.startswith("#")]


def catalogue_passport(name: str, packages: int, size: str) -> Passport:
    """The pairs of the first so many packages of the list."""
    return Passport(
        name=name,
        title=f"English-German sentence pairs from the message catalogues of up to {packages} Debian packages",
        homepage="https://www.debian.org/",
        licence="each program's own, mostly GPL; extracted locally, nothing is redistributed",
        size=size,
        sources=(DebianPackage((), optional=tuple(package_names()[:packages])),),
        decode=partial(decode_catalogues, at_least=1000),
        content_sha256=None,
        instructions=(
            "Any folder with German message catalogues (.../de/LC_MESSAGES/*.mo) and at least 1,000 sentence pairs in "
            "them, such as /usr/share/locale of a system with German translations."
        ),
        facts=_facts,
    )


CATALOGUES = catalogue_passport("catalogues", 100, "77 MB")
CATALOGUES_LARGE = catalogue_passport("catalogues-large", 200, "226 MB")
