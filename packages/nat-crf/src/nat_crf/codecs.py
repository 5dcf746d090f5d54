"""From raw text to ids and back: sentencepiece, or a Moses tokeniser with byte-pair encoding (Section 6)."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from nat_crf.sequences import BOS, EOS, PAD, UNK, Words
from nat_crf.vocabulary import Vocabulary
from sextet.files import write_atomic

CONTINUES = "@@"  # subword-nmt's mark of a subword that does not end its word


class Codec(Protocol):
    """Raw text to ids and back; ids 0..3 are the special symbols of `sequences`."""

    def __len__(self) -> int:
        """Size of the vocabulary, special symbols included."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a raw text, without boundary symbols."""
        ...

    def decode(self, ids: Words) -> str:
        """Raw text of ids."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything that `load_codec` needs."""
        ...


class SentencePieceCodec:
    """A sentencepiece model whose special ids are ours.

    Args:
        model: the bytes of a `.model` file.

    Raises:
        ValueError: not a sentencepiece model, or one with other special ids.
    """

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            processor: Any = SentencePieceProcessor(model_proto=model)
        except (RuntimeError, TypeError, OSError) as error:
            raise ValueError(f"not a sentencepiece model ({error})") from error
        found = [processor.bos_id(), processor.pad_id(), processor.eos_id(), processor.unk_id()]
        if found != [BOS, PAD, EOS, UNK]:
            raise ValueError(f"special ids: expected bos, pad, eos, unk = {[BOS, PAD, EOS, UNK]}, got {found}")
        self.model, self._processor = model, processor

    @classmethod
    def train(cls, texts: Iterable[str], size: int, *, character_coverage: float = 1.0) -> SentencePieceCodec:
        """Byte-pair encoding of `size` pieces, special symbols included, learnt from raw texts.

        Raises:
            ValueError: the texts do not give that many pieces.
        """
        import sentencepiece

        written: Any = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=written,
                model_type="bpe",
                vocab_size=size,
                character_coverage=character_coverage,
                minloglevel=2,
                bos_id=BOS,
                pad_id=PAD,
                eos_id=EOS,
                unk_id=UNK,
            )
        except RuntimeError as error:
            raise ValueError(f"size: expected what the texts can give, got {size} ({error})") from error
        return cls(written.getvalue())

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """See `Codec`."""
        return self._processor.encode(text)

    def decode(self, ids: Words) -> str:
        """See `Codec`; unknown pieces come out as U+2047."""
        _check_ids(ids, len(self))
        return self._processor.decode(list(ids)).strip()

    def save(self, folder: Path) -> None:
        """See `Codec`."""
        write_atomic(folder / "sentencepiece.model", self.model)
        _save_settings(folder, {"kind": "sentencepiece"})


class MosesCodec:
    """Moses tokenisation, byte-pair encoding, a vocabulary (Section 6).

    Args:
        language: of the text, as sacremoses names it (`en`, `de`).
        vocabulary: of subwords (of words where there are no codes).
        codes: lines of a subword-nmt codes file; None for whole words.
        lowercase: lower-case the tokens (IWSLT14).
        split_hyphens: Moses' `-a`, "well-known" as "well @-@ known" (WMT14).

    Raises:
        ValueError: codes that subword-nmt does not read, or the package is missing.
    """

    def __init__(
        self,
        language: str,
        vocabulary: Vocabulary,
        codes: Sequence[str] | None = None,
        *,
        lowercase: bool = False,
        split_hyphens: bool = True,
    ) -> None:
        from sacremoses import MosesDetokenizer

        self.language, self.vocabulary = language, vocabulary
        self.lowercase, self.split_hyphens = lowercase, split_hyphens
        self.codes = None if codes is None else tuple(codes)
        self._detokeniser = MosesDetokenizer(language)
        self._bpe = None if self.codes is None else byte_pair_encoder(self.codes)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def tokenise(self, text: str) -> list[str]:
        """Moses tokens of a raw text, special characters escaped as Moses does."""
        return moses_tokens(text, self.language, lowercase=self.lowercase, split_hyphens=self.split_hyphens)

    def subwords(self, tokens: Sequence[str]) -> list[str]:
        """Subwords of tokens; all but the last of a token end in `@@`."""
        return list(tokens) if self._bpe is None else self._bpe.segment_tokens(list(tokens))

    def encode(self, text: str) -> list[int]:
        """See `Codec`."""
        return self.vocabulary.encode(self.subwords(self.tokenise(text)))

    def tokens(self, ids: Words) -> list[str]:
        """Moses tokens of ids: subwords joined. What tokenised BLEU compares."""
        return join_subwords(self.vocabulary.decode(ids))

    def decode(self, ids: Words) -> str:
        """See `Codec`."""
        return self._detokeniser.detokenize(self.tokens(ids))

    def save(self, folder: Path) -> None:
        """See `Codec`."""
        self.vocabulary.save(folder / "dict.txt")
        if self.codes is not None:
            write_atomic(folder / "codes.bpe", "".join(f"{line}\n" for line in self.codes).encode())
        settings = {
            "kind": "moses",
            "language": self.language,
            "lowercase": self.lowercase,
            "split_hyphens": self.split_hyphens,
            "codes": self.codes is not None,
        }
        _save_settings(folder, settings)


def moses_tokens(text: str, language: str, *, lowercase: bool = False, split_hyphens: bool = True) -> list[str]:
    """What Moses' `tokenizer.perl` gives, with `-a` if hyphens are to be split."""
    # Behind the tokeniser, which knows abbreviations by their case
    tokens = _tokeniser(language).tokenize(text, aggressive_dash_splits=split_hyphens)
    return [token.lower() for token in tokens] if lowercase else tokens


_TOKENISERS: dict[str, Any] = {}


def _tokeniser(language: str) -> Any:
    """The tokeniser of a language, made once: reading its tables takes a while."""
    from sacremoses import MosesTokenizer

    if language not in _TOKENISERS:
        _TOKENISERS[language] = MosesTokenizer(language)
    return _TOKENISERS[language]


def join_subwords(subwords: Sequence[str]) -> list[str]:
    """Whole words; a mark at the very end of the sentence is dropped."""
    return " ".join(subwords).replace(f"{CONTINUES} ", "").removesuffix(CONTINUES).split()


def byte_pair_encoder(codes: Sequence[str]) -> Any:
    """subword-nmt's encoder for the lines of a codes file.

    Raises:
        ValueError: it cannot read them, or is not installed.
    """
    try:
        from subword_nmt.apply_bpe import BPE
    except ImportError as error:
        raise ValueError("byte-pair encoding needs subword-nmt; pip install 'nat-crf[subword-nmt]'") from error
    wrong = next((line for line in codes if not line.startswith("#version:") and len(line.split(" ")) != 2), None)
    if wrong is not None:
        raise ValueError(f"codes: expected two subwords a line, got {wrong[:80]!r}")
    try:
        return BPE(io.StringIO("".join(f"{line}\n" for line in codes)))
    except (ValueError, IndexError, SystemExit) as error:
        raise ValueError(f"codes: subword-nmt cannot read them ({error})") from error


def learn_byte_pairs(sentences: Iterable[Sequence[str]], merges: int) -> list[str]:
    """Lines of a subword-nmt codes file, learnt from tokenised sentences (of both languages for a joint code).

    Raises:
        ValueError: subword-nmt is not installed, or no word has two letters.
    """
    try:
        from subword_nmt.learn_bpe import learn_bpe
    except ImportError as error:
        raise ValueError("byte-pair encoding needs subword-nmt; pip install 'nat-crf[subword-nmt]'") from error
    counts = Counter(word for sentence in sentences for word in sentence)
    if all(len(word) < 2 for word in counts):
        raise ValueError("sentences: expected words of two letters or more, there is nothing to merge")
    text, written = io.StringIO("".join(f"{word} {count}\n" for word, count in counts.items())), io.StringIO()
    learn_bpe(text, written, merges, is_dict=True)
    return _lines(written.getvalue())


def load_codec(folder: Path) -> Codec:
    """What `Codec.save` wrote.

    Raises:
        ValueError: a file is missing or damaged.
    """
    path = folder / "codec.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        kind = settings["kind"]
        if kind == "sentencepiece":
            return SentencePieceCodec((folder / "sentencepiece.model").read_bytes())
        if kind != "moses":
            raise ValueError(f"expected kind sentencepiece or moses, got {kind!r}")
        codes = _lines((folder / "codes.bpe").read_text(encoding="utf-8")) if settings["codes"] else None
        vocabulary = Vocabulary.load(folder / "dict.txt")
        switches = {name: bool(settings[name]) for name in ("lowercase", "split_hyphens")}
        return MosesCodec(str(settings["language"]), vocabulary, codes, **switches)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: not the codec of a translator ({error})") from error


def _lines(text: str) -> list[str]:
    """Lines by line feed alone: subwords may hold other characters that end a line in Unicode."""
    return text.removesuffix("\n").split("\n")


def _save_settings(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "codec.json", json.dumps(settings, indent=1).encode())


def _check_ids(ids: Words, size: int) -> None:
    wrong = next((index for index in ids if not 0 <= index < size), None)
    if wrong is not None:
        raise ValueError(f"ids: expected 0..{size - 1}, got {wrong}; is this the model's vocabulary?")
