"""From raw text to raw text: a model with its codecs, as one folder."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nat_crf.autoregressive import Teacher
from nat_crf.codecs import Codec, load_codec
from nat_crf.corpus_decoding import batches_by_length
from nat_crf.decoding import Hypothesis, translate_batch
from nat_crf.model_folder import load_nat, load_teacher, save_model
from nat_crf.models import Nat
from nat_crf.rescoring import teacher_scorer
from nat_crf.sequences import pad_batch, remove_repeats
from sextet.cuda import select_device

_SENTENCE_END = re.compile(r"(?<=[.!?;:…])\s+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")


@dataclass(frozen=True)
class Translation:
    """What became of one text.

    Attributes:
        text: the best translation; empty for a text without words.
        alternatives: the n best, `text` first.
        scores: of the alternatives: log-probability per token, the model's own or the teacher's.
        note: what was done to the text before (split, characters replaced); empty for nothing.
    """

    text: str
    alternatives: tuple[str, ...]
    scores: tuple[float, ...]
    note: str = ""


class Translator:
    """A non-autoregressive model that takes and gives raw text.

    Args:
        model: NAT, NAT-CRF or NAT-DCRF.
        source, target: codecs of the two languages.
        teacher: chooses among candidate lengths; None for the model's own score.
        device: where to compute, see `sextet.cuda.select_device`.

    Raises:
        ValueError: the sizes of codecs, model and teacher do not agree.
    """

    def __init__(
        self, model: Nat, source: Codec, target: Codec, teacher: Teacher | None = None, *, device: str = "auto"
    ) -> None:
        self.device = select_device(device)
        for name, network in (("model", model), ("teacher", teacher)):
            if network is None:
                continue
            sizes, wanted = (network.source_vocab, network.target_vocab), (len(source), len(target))
            if sizes != wanted:
                raise ValueError(
                    f"{name}: its vocabularies have {sizes[0]} and {sizes[1]} entries, those of the codecs {wanted[0]} "
                    f"and {wanted[1]}; expected the codecs it was trained with"
                )
        self.model, self.source, self.target = model.to(self.device).eval(), source, target
        self.teacher = None if teacher is None else teacher.to(self.device).eval()

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto") -> Translator:
        """What `save` wrote.

        Raises:
            ValueError: a part is missing, damaged, or does not fit the others.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"{folder}: expected the folder of a translator, found none")
        teacher = load_teacher(folder / "teacher") if (folder / "teacher").is_dir() else None
        source, target = load_codec(folder / "source"), load_codec(folder / "target")
        return cls(load_nat(folder / "model"), source, target, teacher, device=device)

    def save(self, folder: Path | str) -> None:
        """Write `model/`, `source/`, `target/` and, if there is one, `teacher/`."""
        folder = Path(folder)
        save_model(self.model, folder / "model")
        self.source.save(folder / "source")
        self.target.save(folder / "target")
        if self.teacher is not None:
            save_model(self.teacher, folder / "teacher")

    def translate(
        self,
        texts: Sequence[str | bytes],
        *,
        candidates: int = 1,
        n_best: int = 1,
        beam: int | None = None,
        rescore: bool = True,
        deduplicate: bool = False,
        too_long: Literal["split", "refuse"] = "split",
        max_tokens: int = 4096,
    ) -> list[Translation]:
        """Translate raw texts in one pass each.

        Args:
            texts: one translation each; bytes are read as UTF-8, what is not becomes U+FFFD and is noted.
            candidates: target lengths tried (the paper: 1, 9, 19).
            n_best: alternatives wanted; there may be fewer. A text that is split has one.
            beam: k of the CRF; default: the model's.
            rescore: let the teacher choose, where there is one.
            deduplicate: collapse runs of one token.
            too_long: what to do with a text longer than the model takes: `split` it at sentence ends (else between
                words) and join the translations, or `refuse`.
            max_tokens: source tokens of a batch.

        Raises:
            ValueError: an argument out of range, or a text that is too long and refused.
        """
        if too_long not in ("split", "refuse"):
            raise ValueError(f"too_long: expected split or refuse, got {too_long!r}")
        scorer = teacher_scorer(self.teacher) if rescore and self.teacher is not None and candidates > 1 else None
        options: dict[str, Any] = {"candidates": candidates, "n_best": n_best, "beam": beam, "scorer": scorer}
        prepared = [self._prepare(index, text, too_long) for index, text in enumerate(texts)]
        flat = [ids for parts, _ in prepared for ids in parts]
        found: list[list[Hypothesis]] = [[] for _ in flat]
        for batch in batches_by_length([len(ids) + 2 for ids in flat], max_tokens):
            source = pad_batch([flat[index] for index in batch], self.model.config.boundaries).to(self.device)
            for index, hypotheses in zip(batch, translate_batch(self.model, source, **options), strict=True):
                found[index] = hypotheses
        position, results = 0, []
        for parts, note in prepared:
            own = found[position : position + len(parts)]
            results.append(self._join(own, note, deduplicate=deduplicate))
            position += len(parts)
        return results

    @property
    def longest(self) -> int:
        """Tokens of the longest text that is translated whole; leaves room for translations half as long again."""
        return max(1, (self.model.config.max_positions - 2) * 2 // 3)

    def _prepare(self, index: int, text: str | bytes, too_long: str) -> tuple[list[list[int]], str]:
        """Ids of each part of a text, and what is to be said of it."""
        clean, notes = clean_text(text)
        ids = self.source.encode(clean) if clean else []
        if not ids:
            return [], "; ".join(notes)
        if len(ids) <= self.longest:
            return [ids], "; ".join(notes)
        if too_long == "refuse":
            raise ValueError(
                f"texts: number {index} has {len(ids)} tokens, expected at most {self.longest}; split it, or pass "
                "too_long='split'"
            )
        parts = [part for piece in _SENTENCE_END.split(clean) for part in self._fitting(piece)]
        return parts, "; ".join([*notes, f"split into {len(parts)} parts"])

    def _fitting(self, text: str) -> list[list[int]]:
        """Ids of a text, halved between words until each part fits; a single word that does not is cut."""
        ids, words = self.source.encode(text), text.split()
        if len(ids) <= self.longest:
            return [ids] if ids else []
        if len(words) > 1:
            middle = len(words) // 2
            return [*self._fitting(" ".join(words[:middle])), *self._fitting(" ".join(words[middle:]))]
        return [ids[start : start + self.longest] for start in range(0, len(ids), self.longest)]

    def _join(self, parts: Sequence[Sequence[Hypothesis]], note: str, *, deduplicate: bool) -> Translation:
        def text(hypothesis: Hypothesis) -> str:
            words = remove_repeats(hypothesis.words) if deduplicate else hypothesis.words
            return self.target.decode(words)

        if not parts:
            return Translation("", (), (), note)
        if len(parts) == 1:
            alternatives = tuple(text(hypothesis) for hypothesis in parts[0])
            return Translation(alternatives[0], alternatives, tuple(one.score for one in parts[0]), note)
        best = [hypotheses[0] for hypotheses in parts]
        whole = " ".join(filter(None, map(text, best)))
        score = sum(one.score * one.length for one in best) / sum(one.length for one in best)
        return Translation(whole, (whole,), (score,), note)


def clean_text(text: str | bytes) -> tuple[str, list[str]]:
    """One line of well-formed text without control characters, and notes on what was replaced."""
    notes = []
    if isinstance(text, bytes):
        decoded = text.decode("utf-8", errors="replace")
        if decoded.encode() != text:
            notes.append("bytes that are not UTF-8 replaced")
        text = decoded
    well_formed = text.encode("utf-8", errors="replace").decode()
    if well_formed != text:
        notes.append("lone surrogates replaced")
    return " ".join(_CONTROL.sub(" ", well_formed).split()), notes


@functools.lru_cache(maxsize=4)
def _loaded(folder: str, device: str) -> Translator:
    return Translator.load(folder, device=device)


def translate(text: str, model: Path | str, *, device: str = "auto", **options: Any) -> str:
    """The translation of one raw text; the folder is read once and kept.

    Args:
        text: raw text.
        model: folder of a `Translator`.
        device: where to compute.
        options: of `Translator.translate`.

    Raises:
        ValueError: as `Translator.load` and `Translator.translate`.
    """
    return _loaded(str(Path(model).resolve()), device).translate([text], **options)[0].text
