"""Raw parallel text to subword ids."""

from dataclasses import replace

import pytest
from nat_crf_testing.official_archives import ENGLISH, GERMAN

from nat_crf import text_preparation
from nat_crf.codecs import moses_tokens
from nat_crf.text_preparation import IWSLT14_TEXT, WMT14_TEXT, keep_pair, prepare, tokenise


def texts(copies: int = 5) -> dict[str, list[str]]:
    train = {"train_en": [*copies * ENGLISH, "", "a b c d e f g"], "train_de": [*copies * GERMAN, "leer", "a"]}
    return train | {"test_en": ENGLISH[:2], "test_de": GERMAN[:2]}


def test_filters_of_a_worked_example() -> None:
    assert keep_pair(4, 6, WMT14_TEXT)
    assert not keep_pair(4, 7, WMT14_TEXT)
    assert not keep_pair(0, 1, WMT14_TEXT)
    assert keep_pair(250, 250, WMT14_TEXT)
    assert not keep_pair(251, 250, WMT14_TEXT)
    assert not keep_pair(176, 176, IWSLT14_TEXT)


def test_normalisation_is_for_training_alone() -> None:
    text = ["„Hund“ – gut\u200b , ja?"]
    assert tokenise(text, "de", WMT14_TEXT, training=True) == [["&quot;", "Hund", "&quot;", "-", "gut", ",", "ja", "?"]]
    assert tokenise(text, "de", WMT14_TEXT, training=False)[0][0] == "„"
    lower = tokenise(["A well-known Cat"], "en", IWSLT14_TEXT, training=True)
    assert lower == [["a", "well-known", "cat"]]


def test_wmt_text_comes_back_from_its_ids() -> None:
    config = replace(WMT14_TEXT, merges=20)
    prepared = prepare(texts() | {"valid_en": ENGLISH[:1], "valid_de": GERMAN[:1]}, config)
    train, codec = prepared.ids["train", "en"], prepared.codecs["en"]
    kept = [
        keep_pair(*(len(prepared.codecs[side].encode(text)) for side, text in (("en", one), ("de", other))), config)
        for one, other in zip(ENGLISH, GERMAN, strict=True)
    ]
    assert len(train) == 5 * sum(kept) == len(prepared.ids["train", "de"])
    assert [codec.decode(ids) for ids in prepared.ids["test", "en"]] == ENGLISH[:2]
    assert len(prepared.codecs["de"]) == len(codec)


def test_iwslt_takes_every_23rd_pair_for_validation() -> None:
    prepared = prepare(texts(10), replace(IWSLT14_TEXT, merges=20, ratio=9.0))
    assert len(prepared.ids["train", "en"]) + len(prepared.ids["valid", "en"]) == 61
    assert len(prepared.ids["valid", "de"]) == 2
    words = prepared.codecs["de"].tokens(prepared.ids["valid", "de"][0])
    assert words == moses_tokens(GERMAN[22 % 6], "de", lowercase=True)


def test_chunks_in_processes_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokenise(ENGLISH, "en", WMT14_TEXT, training=True)
    monkeypatch.setattr(text_preparation, "CHUNK", 2)
    assert tokenise(ENGLISH, "en", WMT14_TEXT, training=True) == whole


def test_nothing_left() -> None:
    with pytest.raises(ValueError, match="no training pair is left"):
        prepare({"train_en": ["aa bb cc"], "train_de": ["aa"], "test_en": ["aa"], "test_de": ["aa"]}, WMT14_TEXT)
    with pytest.raises(ValueError, match="nothing to merge"):
        prepare({"train_en": ["a b"], "train_de": ["a"], "test_en": ["a"], "test_de": ["a"]}, WMT14_TEXT)
