"""Sentence pairs from message catalogues, and the reader of their files."""

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat_crf.catalogues import (
    catalogue_files,
    clean,
    decode_catalogues,
    digest,
    is_sentence_pair,
    package_names,
    sentences,
    split_of,
)
from nat_crf.gettext_catalogue import CatalogueError, read_messages
from nat_crf.word_corpus import WordCorpusConfig, build_corpus, tokenise
from sextet.data import DataError, DataMissing

HEADER = "Content-Type: text/plain; charset=UTF-8\n"


def catalogue(messages: dict[str, str], order: str = "<", charset: str = "utf-8") -> bytes:
    """A compiled catalogue."""
    pairs = [(key.encode(charset), value.encode(charset)) for key, value in sorted(messages.items())]
    count, start = len(pairs), 28 + 16 * len(pairs)
    tables, body = [b"", b""], b""
    for side in (0, 1):
        for pair in pairs:
            tables[side] += struct.pack(f"{order}II", len(pair[side]), start + len(body))
            body += pair[side] + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0)
    return head + tables[0] + tables[1] + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_worked_example(order: str) -> None:
    content = catalogue(
        {"": HEADER, "menu\x04Open file": "Datei öffnen", "a file\0files": "eine Datei\0Dateien"}, order
    )
    assert sorted(read_messages(content)) == [
        ("Open file", "Datei öffnen"),
        ("a file", "eine Datei"),
        ("files", "Dateien"),
    ]


def test_charset_of_the_header() -> None:
    content = catalogue({"": HEADER.replace("UTF-8", "ISO-8859-1"), "Size": "Größe"}, charset="latin-1")
    assert read_messages(content) == [("Size", "Größe")]
    with pytest.raises(CatalogueError, match="unknown charset"):
        read_messages(catalogue({"": HEADER.replace("UTF-8", "nonsense"), "a": "b"}))


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 200), value=st.integers(0, 255), cut=st.integers(0, 250))
def test_hostile_files_raise_nothing_else(position: int, value: int, cut: int) -> None:
    content = bytearray(catalogue({"": HEADER, "Open the file": "Datei öffnen", "Close it": "Schließen"}))
    content[position % len(content)] = value
    for hostile in (bytes(content), bytes(content[:cut])):
        with contextlib.suppress(CatalogueError):
            read_messages(hostile)


def test_cleaning() -> None:
    assert clean("<b>_Open</b> &amp; save\n%s ~File") == "Open & save %s File"
    assert is_sentence_pair("Open the file", "Datei öffnen")
    for pair in [
        ("Open", "Öffnen jetzt"),
        ("the same text", "The same text"),
        ("%1 %2 %3 a", "%1 %2 %3 b"),
        ("a b c d e f g", "b c"),
        ("open it", ""),
    ]:
        assert not is_sentence_pair(*pair)


def write_packages(folder: Path, n: int = 60) -> None:
    words = ["red", "green", "blue", "old", "new", "big", "small", "fast", "slow", "open"]
    for package in ("one", "two"):
        place = folder / package / "usr/share/locale/de/LC_MESSAGES"
        place.mkdir(parents=True)
        messages = {f"{a} {b} {package}": f"{b} {a} {package}x" for a in words for b in words if a != b}
        (place / "app.mo").write_bytes(catalogue({"": HEADER, **dict(list(messages.items())[:n])}))
    (folder / "two/usr/share/locale/de/LC_MESSAGES/broken.mo").write_bytes(b"nothing")


def test_pairs_of_packages_and_their_split(tmp_path: Path) -> None:
    write_packages(tmp_path)
    arrays = decode_catalogues(tmp_path, at_least=100)
    english, german = sentences(arrays, "english"), sentences(arrays, "german")
    assert len(english) == len(german) == len(arrays["package"]) == 120
    assert [digest(text) for text in english] == sorted(digest(text) for text in english)
    assert arrays["packages"].tolist() == ["one", "two"]
    shares = [split_of(f"sentence {i}", 0.2, 0.1) for i in range(2000)]
    assert 0.17 < shares.count("test") / 2000 < 0.23
    assert split_of("OPEN it", 0.5, 0.1) == split_of("open it", 0.5, 0.1)
    config = WordCorpusConfig(source_words=12, target_words=12, test=0.2, valid=0.2)
    corpus = build_corpus(english, german, config)
    total = sum(len(part[0]) for part in (corpus.train, corpus.valid, corpus.test))
    assert 0 < total <= 120
    assert corpus.source_words[:4] == ("<s>", "<pad>", "</s>", "<unk>")
    assert all(min(row) >= 4 for row in corpus.train[0] + corpus.train[1])
    assert tokenise("Don't open %s_1!") == ["don't", "open", "%", "s", "_", "1", "!"]


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"no \.\.\./de/LC_MESSAGES"):
        decode_catalogues(tmp_path)
    write_packages(tmp_path)
    assert len(catalogue_files(tmp_path)) == 3
    with pytest.raises(DataError, match="only 120 sentence pairs"):
        decode_catalogues(tmp_path)
    with pytest.raises(ValueError, match="too few for three sets"):
        build_corpus(["a b"], ["c d"], WordCorpusConfig())


def test_list_of_packages() -> None:
    assert len(package_names()) == len(set(package_names())) == 200
