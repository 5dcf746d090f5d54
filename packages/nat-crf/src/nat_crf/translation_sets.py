"""WMT14 and IWSLT14 German-English from their official archives, and the distilled WMT14 set (Section 6)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sextet.data import Arrays, DataError, DataMissing, Passport
from sextet.data.archives import extract, is_archive

LANGUAGES = ("en", "de")
PARTS = ("train", "valid", "test")
WMT14_TRAINING = ("europarl-v7.de-en", "commoncrawl.de-en", "news-commentary-v9.de-en")
IWSLT14_TEST = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
_SEGMENT = re.compile(r"<seg id=\"?[^>]*>\s*(.*?)\s*</seg>", re.IGNORECASE)
_IWSLT_DROPPED = ("<url>", "<talkid>", "<keywords>")
_IWSLT_TAGS = re.compile(r"</?(?:title|description)>")


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text, by line feed alone.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not UTF-8 ({error}); get it again") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def segments(path: Path) -> list[str]:
    """Texts of the `<seg id=...>` elements of an SGML or XML-like file, one a line; a curly apostrophe becomes '.

    Raises:
        DataError: there are none.
    """
    found = [match.group(1).replace("\u2019", "'") for line in read_lines(path) for match in _SEGMENT.finditer(line)]
    if not found:
        raise DataError(f"{path.name}: no <seg id=...> elements; get it again")
    return found


def iwslt_training_lines(path: Path) -> list[str]:
    """Lines of a `train.tags` file: without addresses, talk numbers and keywords, titles and descriptions kept."""
    lines = read_lines(path)
    return [_IWSLT_TAGS.sub("", line).strip() for line in lines if not any(tag in line for tag in _IWSLT_DROPPED)]


def decode_wmt14(folder: Path) -> Arrays:
    """WMT14 German-English: Europarl v7, Common Crawl, News Commentary v9; newstest2013; newstest2014.

    `folder` holds the five official archives, or what was in them. Arrays `train_en` ... `test_de`: uint8, UTF-8 with
    a line feed behind each sentence.

    Raises:
        DataMissing: files are missing.
        DataError: a file is damaged, or two sides differ in length.
    """
    with unpacked_files(folder) as files:
        texts: dict[str, list[str]] = {}
        for language in LANGUAGES:
            names = [f"{name}.{language}" for name in WMT14_TRAINING]
            texts[f"train_{language}"] = [line for name in names for line in read_lines(_find(files, name))]
            plain = files.get(f"newstest2013.{language}")
            if plain is None:
                plain = _find(files, f"newstest2013-src.{language}.sgm", f"newstest2013-ref.{language}.sgm")
            texts[f"valid_{language}"] = segments(plain) if plain.suffix == ".sgm" else read_lines(plain)
            names = [f"newstest2014-deen-{side}.{language}.sgm" for side in ("src", "ref")]
            texts[f"test_{language}"] = segments(_find(files, *names))
    return _arrays(texts)


def decode_iwslt14(folder: Path) -> Arrays:
    """IWSLT14 German-English: every 23rd training pair is for validation *after* cleaning, so it is still in `train`.

    `folder` holds `de-en.tgz`, or what was in it. Arrays `train_*`, `test_*` as `decode_wmt14`.

    Raises:
        DataMissing, DataError: as `decode_wmt14`.
    """
    with unpacked_files(folder) as files:
        texts: dict[str, list[str]] = {}
        for language in LANGUAGES:
            texts[f"train_{language}"] = iwslt_training_lines(_find(files, f"train.tags.de-en.{language}"))
            names = [f"IWSLT14.{name}.de-en.{language}.xml" for name in IWSLT14_TEST]
            texts[f"test_{language}"] = [line for name in names for line in segments(_find(files, name))]
    return _arrays(texts)


def decode_distilled(folder: Path) -> Arrays:
    """The ready-made distilled WMT14 En-De: text in subwords; training and validation targets are a teacher's.

    `folder` holds `distill_dataset.zip`, or what was in it. Arrays as `decode_wmt14`.

    Raises:
        DataMissing, DataError: as `decode_wmt14`.
    """
    with unpacked_files(folder) as files:
        pairs = [(part, language) for part in PARTS for language in LANGUAGES]
        texts = {f"{part}_{side}": read_lines(_find(files, f"{part}.en-de.{side}")) for part, side in pairs}
    return _arrays(texts)


@contextmanager
def unpacked_files(folder: Path) -> Iterator[dict[str, Path]]:
    """Files by name, below `folder` and in the archives that lie in it, which are unpacked for the time being.

    Raises:
        DataError: an archive is damaged or not safe.
    """
    with tempfile.TemporaryDirectory(prefix="sextet-") as scratch:
        found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        for number, archive in enumerate(path for path in found if is_archive(path)):
            inside = extract(archive, Path(scratch) / str(number))
            found += sorted(path for path in inside.rglob("*") if path.is_file())
        yield {path.name: path for path in reversed(found)}


def lines(arrays: Arrays, name: str) -> list[str]:
    """The sentences of one array."""
    return arrays[name].tobytes().decode("utf-8").split("\n")[:-1]


def _find(files: dict[str, Path], *names: str) -> Path:
    path = next((files[name] for name in names if name in files), None)
    if path is None:
        raise DataMissing(f"no file named {' or '.join(names)}")
    return path


def _arrays(texts: dict[str, list[str]]) -> Arrays:
    for part in sorted({name.partition("_")[0] for name in texts}):
        sizes = [len(texts[f"{part}_{language}"]) for language in LANGUAGES]
        if sizes[0] != sizes[1] or not sizes[0]:
            raise DataError(f"{part}: expected as many English as German sentences, got {sizes[0]} and {sizes[1]}")
    return {name: _bytes(sentences) for name, sentences in texts.items()}


def _bytes(sentences: Sequence[str]) -> np.ndarray:
    return np.frombuffer("".join(f"{sentence}\n" for sentence in sentences).encode(), np.uint8)


def _facts(arrays: Arrays) -> dict[str, str]:
    counts = {name: int((values == ord("\n")).sum()) for name, values in arrays.items() if name.endswith("_en")}
    return {f"{name.removesuffix('_en')} pairs": str(count) for name, count in counts.items()}


# The publishers give no hashes, so that nothing is fetched: the archives are adopted, and their counts are recorded
WMT14 = Passport(
    name="wmt14-de-en",
    title="WMT14 German-English: 4.5 million training pairs, newstest2013, newstest2014",
    homepage="https://www.statmt.org/wmt14/translation-task.html",
    licence="each corpus its own; research use",
    size="1.7 GB",
    sources=(),
    decode=decode_wmt14,
    content_sha256=None,
    instructions=(
        "Put these archives, packed or not, into one folder: training-parallel-europarl-v7.tgz and "
        "training-parallel-commoncrawl.tgz (http://statmt.org/wmt13/), training-parallel-nc-v9.tgz and test-full.tgz "
        "(http://statmt.org/wmt14/), dev.tgz (http://data.statmt.org/wmt17/translation-task/)."
    ),
    facts=_facts,
)
IWSLT14 = Passport(
    name="iwslt14-de-en",
    title="IWSLT14 German-English: 160,239 training pairs of talks",
    homepage="https://wit3.fbk.eu",
    licence="CC BY-NC-ND",
    size="60 MB",
    sources=(),
    decode=decode_iwslt14,
    content_sha256=None,
    instructions=(
        "A folder with de-en.tgz (http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz), packed or not."
    ),
    facts=_facts,
)
DISTILLED = Passport(
    name="wmt14-en-de-distilled",
    title="WMT14 English-German distilled by a Transformer of base size, in subwords",
    homepage="https://github.com/facebookresearch/fairseq/tree/main/examples/nonautoregressive_translation",
    licence="that of WMT14; research use",
    size="1.5 GB",
    sources=(),
    decode=decode_distilled,
    content_sha256=None,
    instructions=(
        "A folder with distill_dataset.zip (http://dl.fbaipublicfiles.com/nat/distill_dataset.zip), packed or not."
    ),
    facts=_facts,
)
