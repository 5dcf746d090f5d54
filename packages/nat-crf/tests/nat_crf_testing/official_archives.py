"""Small archives laid out as the official ones of WMT14 and IWSLT14, and the distilled set."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

ENGLISH = [
    "the old house",
    "the new house is big",
    "a small dog",
    "the dog is old .",
    "a cat & a dog",
    "it's a well-known cat",
]
GERMAN = [
    "das alte Haus",
    "das neue Haus ist groß",
    "ein kleiner Hund",
    "der Hund ist alt .",
    "Katze & Hund",
    "eine Katze",
]
TEXTS = {"en": ENGLISH, "de": GERMAN}


def write_tgz(path: Path, files: Mapping[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def sgml(sentences: list[str], kind: str) -> str:
    lines = "\n".join(f'<seg id="{number}"> {text} </seg>' for number, text in enumerate(sentences, start=1))
    return f'<{kind}set setid="newstest" srclang="any">\n<doc docid="a">\n<p>\n{lines}\n</p>\n</doc>\n</{kind}set>\n'


def plain(sentences: list[str]) -> str:
    return "".join(f"{sentence}\n" for sentence in sentences)


def write_wmt14(folder: Path, copies: int = 8) -> None:
    """The five archives; each of the three corpora holds the sentences `copies` times."""
    corpora = {
        "training-parallel-europarl-v7.tgz": "training/europarl-v7.de-en",
        "training-parallel-commoncrawl.tgz": "commoncrawl.de-en",
        "training-parallel-nc-v9.tgz": "training/news-commentary-v9.de-en",
    }
    for name, stem in corpora.items():
        files = {f"{stem}.{side}": plain(copies * sentences) for side, sentences in TEXTS.items()}
        write_tgz(folder / name, files)
    write_tgz(folder / "dev.tgz", {f"dev/newstest2013.{side}": plain(texts[:4]) for side, texts in TEXTS.items()})
    tests = {
        f"test-full/newstest2014-deen-{kind}.{side}.sgm": sgml(texts[:5], kind)
        for side, texts in TEXTS.items()
        for kind in ("src", "ref")
    }
    write_tgz(folder / "test-full.tgz", tests)


def write_iwslt14(folder: Path, copies: int = 8) -> None:
    """`de-en.tgz`."""
    files = {}
    for side, sentences in TEXTS.items():
        head = "<url>http://talk</url>\n<keywords>talk, one</keywords>\n<talkid>1</talkid>\n<title>The dog</title>\n"
        head += "<description>A dog &amp; a house.</description>\n"
        files[f"de-en/train.tags.de-en.{side}"] = head + "".join(f" {text} \n" for text in copies * sentences)
        for name in ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"):
            files[f"de-en/IWSLT14.{name}.de-en.{side}.xml"] = sgml([f"{name} it\u2019s", sentences[0]], "ref")
    write_tgz(folder / "de-en.tgz", files)


def write_distilled(folder: Path) -> None:
    """`distill_dataset.zip`."""
    with zipfile.ZipFile(folder / "distill_dataset.zip", "w") as archive:
        for part, count in (("train", 40), ("valid", 3), ("test", 3), ("valid-repeat", 39)):
            for side, sentences in TEXTS.items():
                archive.writestr(f"distill_dataset/{part}.en-de.{side}", plain((count * sentences)[:count]))
