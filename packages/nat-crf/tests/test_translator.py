"""Raw text in, raw text out; a whole translator as a folder; the command line."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nat_crf_testing.tiny import tiny_config

from nat_crf import cli
from nat_crf.autoregressive import Teacher
from nat_crf.codecs import MosesCodec, SentencePieceCodec
from nat_crf.models import Nat
from nat_crf.translator import Translator, clean_text, translate
from nat_crf.vocabulary import Vocabulary
from sextet import cli as command_line

ENGLISH = ["open the file", "close the file", "open the folder", "delete the old folder ."] * 5
GERMAN = ["Datei öffnen", "Datei schließen", "Ordner öffnen", "den alten Ordner löschen ."] * 5


@pytest.fixture(scope="module")
def translator() -> Translator:
    torch.manual_seed(0)
    source = SentencePieceCodec.train(ENGLISH, 40)
    target = MosesCodec("de", Vocabulary.of(text.split() for text in GERMAN))
    config = tiny_config("laptop", crf="dynamic", beam=4, max_positions=23)
    model = Nat(config, len(source), len(target))
    return Translator(model, source, target, Teacher(config.teacher(), len(source), len(target)), device="cpu")


def test_folder_translates_the_same(translator: Translator, tmp_path: Path) -> None:
    translator.save(tmp_path)
    loaded = Translator.load(tmp_path, device="cpu")
    for options in ({}, {"candidates": 3}, {"candidates": 3, "rescore": False, "n_best": 3}, {"beam": 2}):
        expected = translator.translate(ENGLISH[:4], **options)
        assert loaded.translate(ENGLISH[:4], **options) == expected
        assert all(one.text == one.alternatives[0] for one in expected)
        assert all(list(one.scores) == sorted(one.scores, reverse=True) for one in expected)
    assert translate(ENGLISH[0], tmp_path, device="cpu") == translator.translate(ENGLISH[:1])[0].text


def test_empty_lines_and_their_place(translator: Translator) -> None:
    found = translator.translate(["", "open the file", "  \t ", "\x00\x07"])
    assert found[0].text == ""
    assert found[2].alternatives == ()
    assert found[3].text == ""
    assert found[1] == translator.translate(["open the file"])[0]
    assert translator.translate([]) == []


def test_a_long_text_is_split_or_refused(translator: Translator) -> None:
    sentence = "open the old file ."
    text = " ".join([sentence] * 4)
    (found,) = translator.translate([text])
    assert found.note.startswith("split into 4 parts")
    assert found.text == " ".join([translator.translate([sentence])[0].text] * 4)
    assert translator.translate(["open the file " * 20])[0].note.startswith("split into")
    assert translator.translate(["open" * 60])[0].note.startswith("split into")
    with pytest.raises(ValueError, match=r"number 1 has .* tokens, expected at most 14"):
        translator.translate(["open", text], too_long="refuse")
    with pytest.raises(ValueError, match="too_long: expected split or refuse"):
        translator.translate(["open"], too_long="cut")  # pyright: ignore[reportArgumentType]


def test_damaged_text_is_noted(translator: Translator) -> None:
    (found,) = translator.translate([b"open \xff\xfe the file"])
    assert found.note == "bytes that are not UTF-8 replaced"
    assert clean_text("a\ud800b") == ("a?b", ["lone surrogates replaced"])
    assert clean_text("a\x00b\u2028c\n d") == ("a b c d", [])
    assert clean_text("öl".encode()) == ("öl", [])


def test_deduplication(translator: Translator) -> None:
    plain, without = (translator.translate(ENGLISH[:4], deduplicate=flag) for flag in (False, True))
    for one, other in zip(plain, without, strict=True):
        words = one.text.split()
        kept = [word for index, word in enumerate(words) if index == 0 or word != words[index - 1]]
        assert other.text.split() == kept


def test_mismatched_parts(translator: Translator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model: its vocabularies have"):
        Translator(translator.model, translator.target, translator.source, device="cpu")
    small = Teacher(tiny_config("laptop").teacher(), 7, 7)
    with pytest.raises(ValueError, match="teacher: its vocabularies have 7 and 7"):
        Translator(translator.model, translator.source, translator.target, small, device="cpu")
    with pytest.raises(ValueError, match="expected the folder of a translator"):
        Translator.load(tmp_path / "nothing")
    translator.save(tmp_path)
    (tmp_path / "target" / "dict.txt").write_text("a 1\n")
    with pytest.raises(ValueError, match="expected the codecs it was trained with"):
        Translator.load(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, data: bytes, args: list[str]) -> int:
    class Stdin:
        buffer = io.BytesIO(data)

    monkeypatch.setattr("sys.stdin", Stdin)
    return command_line.main(
        {"translate": cli.translate, "x": cli.translate}, prog="nat-crf", description="", args=args
    )


def test_command_line(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    translator.save(tmp_path)
    args = ["translate", "--model", str(tmp_path), "--device", "cpu", "--batch", "2"]
    data = b"open the file\n\n\xff\xfe\x00garbage\r\nclose the file"
    assert run(monkeypatch, data, args) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 5
    assert lines[0] == translator.translate(["open the file"])[0].text
    assert lines[1] == ""
    assert lines[3] == translator.translate(["close the file"])[0].text
    assert run(monkeypatch, data, [*args, "--json-lines", "--candidates", "3", "--n-best", "2"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found[2]["note"] == "bytes that are not UTF-8 replaced"
    assert found[0].keys() == {"text", "alternatives", "scores", "note"}


def test_a_loop_that_gets_garbage_keeps_running(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    translator.save(tmp_path)
    whole = Translator.translate

    def touchy(self: Translator, texts: list[Any], **options: Any) -> Any:
        if b"bomb" in texts:
            raise RuntimeError("boom")
        return whole(self, texts, **options)

    monkeypatch.setattr(Translator, "translate", touchy)
    args = ["translate", "--model", str(tmp_path), "--device", "cpu", "--batch", "3"]
    assert run(monkeypatch, b"open the file\nbomb\nopen the file\nopen the file\n", args) == 2
    output = capsys.readouterr()
    lines = output.out.split("\n")
    assert lines[0] == lines[2] == lines[3] != lines[1] == ""
    assert "line 2: boom" in output.err
    assert run(monkeypatch, b"", [*args, "--candidates", "0"]) == 2
    assert "expected 1 or more" in capsys.readouterr().err


def test_endless_lines_are_cut() -> None:
    stream = io.BytesIO(b"a" * (2 * cli.MAX_LINE + 5) + b"\nb\n")
    first, second = cli.read_lines(stream)
    assert len(first) == cli.MAX_LINE
    assert second == b"b"
