"""Vocabularies, and raw text to ids and back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat_crf.codecs import (
    Codec,
    MosesCodec,
    SentencePieceCodec,
    join_subwords,
    learn_byte_pairs,
    load_codec,
    moses_tokens,
)
from nat_crf.sequences import UNK
from nat_crf.vocabulary import Vocabulary

TEXTS = [
    "The file could not be opened.",
    "The folder could not be found.",
    "It's a well-known file, isn't it?",
    "Could you open the folder & the file?",
] * 5


def moses_codec(lowercase: bool = False) -> MosesCodec:
    sentences = [moses_tokens(text, "en", lowercase=lowercase) for text in TEXTS]
    codes = learn_byte_pairs(sentences, 30)
    bare = MosesCodec("en", Vocabulary([]), codes, lowercase=lowercase)
    return MosesCodec("en", Vocabulary.of(map(bare.subwords, sentences)), codes, lowercase=lowercase)


def codec(kind: str) -> Codec:
    return moses_codec() if kind == "moses" else SentencePieceCodec.train(TEXTS, 60)


def test_moses_splits_as_its_script() -> None:
    found = moses_tokens('Er sagte: "Das ist\'s & mehr" – z.B. S/W-Drucker, ca. 10,5 %.', "de")
    expected = "Er sagte : &quot; Das ist &apos; s &amp; mehr &quot; – z.B. S / W @-@ Drucker , ca. 10,5 % ."
    assert " ".join(found) == expected
    assert moses_tokens("A B-C", "en", lowercase=True) == ["a", "b", "@-@", "c"]


def test_subwords_worked_example() -> None:
    codes = ["#version: 0.2", "l o", "lo w</w>"]
    found = MosesCodec("en", Vocabulary([]), codes).subwords(["low", "lot"])
    assert found == ["low", "lo@@", "t"]
    assert join_subwords(found) == ["low", "lot"]
    assert join_subwords(["a@@"]) == ["a"]


@pytest.mark.parametrize("kind", ["moses", "sentencepiece"])
def test_known_text_comes_back(kind: str, tmp_path: Path) -> None:
    made = codec(kind)
    made.save(tmp_path)
    loaded = load_codec(tmp_path)
    assert len(loaded) == len(made)
    for text in TEXTS[:4]:
        ids = made.encode(text)
        assert UNK not in ids
        assert max(ids) < len(made)
        assert made.decode(ids) == text
        assert loaded.encode(text) == ids
        assert loaded.decode(ids) == text
    assert made.encode("") == []
    assert made.decode([]) == ""
    for bad in ([len(made)], [-1]):
        with pytest.raises(ValueError, match="is this the model's vocabulary"):
            made.decode(bad)


def test_lower_case_is_kept(tmp_path: Path) -> None:
    moses_codec(lowercase=True).save(tmp_path)
    loaded = load_codec(tmp_path)
    assert loaded.decode(loaded.encode("THE FILE")) == "the file"


@pytest.mark.parametrize("kind", ["moses", "sentencepiece"])
@given(text=st.text(max_size=30))
def test_any_text_is_encoded(kind: str, text: str) -> None:
    made = CODECS.setdefault(kind, codec(kind))
    ids = made.encode(" ".join(text.split()))
    assert all(0 <= index < len(made) for index in ids)
    made.decode(ids)


CODECS: dict[str, Codec] = {}


def test_vocabulary_worked_example(tmp_path: Path) -> None:
    vocabulary = Vocabulary.of([["b", "a", "b"], ["c", "a", "<unk>"]], size=2)
    assert vocabulary.words == ("<s>", "<pad>", "</s>", "<unk>", "a", "b")
    assert vocabulary.encode(["b", "z"]) == [5, UNK]
    assert vocabulary.decode([5, 3]) == ["b", "<unk>"]
    vocabulary.save(tmp_path / "dict.txt")
    assert (tmp_path / "dict.txt").read_text() == "a 2\nb 2\n"
    assert Vocabulary.load(tmp_path / "dict.txt").words == vocabulary.words
    assert len(Vocabulary.of([["a", "b", "b"]], least=2)) == 5


@given(st.binary(max_size=60))
def test_any_bytes_are_a_vocabulary_or_a_value_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "dict.txt"
    path.write_bytes(data)
    try:
        Vocabulary.load(path)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1\na 2\n", "expected each once"),
        ("a\n", "line 1: expected a word and its count"),
        ("a 1\n\nb 2\n", "line 2"),
        ("a many\n", "line 1"),
        ("<s> 4\n", "expected each once"),
        ("a b 4\n", "without spaces"),
        (" 4\n", "without spaces"),
    ],
)
def test_bad_vocabularies(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Vocabulary.load(path)


def test_bad_codecs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the codec of a translator"):
        load_codec(tmp_path)
    made = moses_codec()
    made.save(tmp_path)
    (tmp_path / "codes.bpe").write_text("one\n")
    with pytest.raises(ValueError, match="expected two subwords a line"):
        load_codec(tmp_path)
    (tmp_path / "codec.json").write_text('{"kind": "words"}')
    with pytest.raises(ValueError, match="expected kind sentencepiece or moses"):
        load_codec(tmp_path)
    with pytest.raises(ValueError, match="counts: expected one a word"):
        Vocabulary(["a"], [1, 2])
    with pytest.raises(ValueError, match="not a sentencepiece model"):
        SentencePieceCodec(b"\xff\x00garbage")
    with pytest.raises(ValueError, match="size: expected what the texts can give"):
        SentencePieceCodec.train(TEXTS, 100_000)
