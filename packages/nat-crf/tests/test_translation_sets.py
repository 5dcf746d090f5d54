"""The loaders of the official archives, on small archives of the same layout."""

from pathlib import Path

import pytest
from nat_crf_testing.official_archives import ENGLISH, GERMAN, write_distilled, write_iwslt14, write_tgz, write_wmt14

from nat_crf.translation_sets import DISTILLED, IWSLT14, WMT14, decode_wmt14, lines, segments
from sextet.data import DataError, DataMissing, adopt, load


def test_wmt14_from_its_archives(tmp_path: Path) -> None:
    write_wmt14(tmp_path, copies=2)
    adopt(WMT14, tmp_path, tmp_path / "root")
    arrays = load(WMT14, tmp_path / "root")
    assert lines(arrays, "train_en") == 6 * ENGLISH
    assert lines(arrays, "train_de") == 6 * GERMAN
    assert lines(arrays, "valid_de") == GERMAN[:4]
    assert lines(arrays, "test_en") == ENGLISH[:5]
    assert lines(arrays, "test_de") == GERMAN[:5]


def test_wmt14_unpacked_with_sgml_validation(tmp_path: Path) -> None:
    for stem in ("europarl-v7", "commoncrawl", "news-commentary-v9"):
        for side in ("en", "de"):
            (tmp_path / f"{stem}.de-en.{side}").write_text(f"{stem} {side}\u2028x\r\n")
    for name in ("newstest2013-src.en", "newstest2013-ref.de", "newstest2014-deen-src.en", "newstest2014-deen-ref.de"):
        (tmp_path / f"{name}.sgm").write_text('<seg id="1">  a\u2019b  </seg>\n')
    arrays = decode_wmt14(tmp_path)
    assert lines(arrays, "train_en")[0] == "europarl-v7 en\u2028x"
    assert lines(arrays, "valid_de") == ["a'b"]


def test_iwslt14(tmp_path: Path) -> None:
    write_iwslt14(tmp_path, copies=1)
    adopt(IWSLT14, tmp_path / "de-en.tgz", tmp_path / "root")
    arrays = load(IWSLT14, tmp_path / "root")
    assert lines(arrays, "train_en") == ["The dog", "A dog &amp; a house.", *ENGLISH]
    assert lines(arrays, "test_de")[:3] == ["TED.dev2010 it's", GERMAN[0], "TEDX.dev2012 it's"]
    assert len(lines(arrays, "test_en")) == 10


def test_distilled(tmp_path: Path) -> None:
    write_distilled(tmp_path)
    adopt(DISTILLED, tmp_path, tmp_path / "root")
    arrays = load(DISTILLED, tmp_path / "root")
    assert len(lines(arrays, "train_de")) == 40
    assert len(lines(arrays, "valid_en")) == 3


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"no file named europarl-v7\.de-en\.en"):
        decode_wmt14(tmp_path)
    with pytest.raises(DataMissing, match=r"training-parallel-europarl-v7\.tgz"):
        load(WMT14, tmp_path / "root")
    write_wmt14(tmp_path)
    (tmp_path / "europarl-v7.de-en.en").write_text("one line too few\n")
    with pytest.raises(DataError, match="train: expected as many English as German sentences, got 97 and 144"):
        decode_wmt14(tmp_path)
    (tmp_path / "europarl-v7.de-en.en").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8"):
        decode_wmt14(tmp_path)
    (tmp_path / "x.sgm").write_text("<p>nothing</p>")
    with pytest.raises(DataError, match="no <seg id"):
        segments(tmp_path / "x.sgm")
    whole = (tmp_path / "dev.tgz").read_bytes()
    (tmp_path / "dev.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError):
        decode_wmt14(tmp_path)
    write_tgz(tmp_path / "dev.tgz", {"../../outside": "x"})
    with pytest.raises(DataError, match="outside"):
        decode_wmt14(tmp_path)
    assert not (tmp_path.parent / "outside").exists()
