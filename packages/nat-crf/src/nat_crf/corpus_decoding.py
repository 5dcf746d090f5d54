"""Translating whole corpora: batches by length, the teacher's translations of the training set, decoding for BLEU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nat_crf.autoregressive import Teacher, beam_search
from nat_crf.decoding import translate_batch
from nat_crf.models import Nat
from nat_crf.rescoring import Scorer
from nat_crf.sentences import Sentences
from nat_crf.sequences import Words, pad_batch, word_lists
from sextet.files import remove_leftovers
from sextet.training import SignalGuard, start_progress

BatchTranslator = Callable[[Sequence[int]], list[list[int]]]
"""Indices of some sentences -> their translations, in that order."""


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in batches of similar length, the shortest first; a batch, padded, has at most `max_tokens` tokens.

    A sentence longer than that is a batch of its own.

    Raises:
        ValueError: `max_tokens` below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens: expected at least 1, got {max_tokens}")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def translate_all(lengths: Sequence[int], translate: BatchTranslator, max_tokens: int) -> list[list[int]]:
    """Translations of all sentences, in their order, batch by batch of similar length."""
    result: list[list[int]] = [[] for _ in lengths]
    for batch in batches_by_length(lengths, max_tokens):
        for index, words in zip(batch, translate(batch), strict=True):
            result[index] = words
    return result


def teacher_translator(
    teacher: Teacher, sources: Sequence[Words], *, device: torch.device, beam: int = 4, alpha: float = 0.6
) -> BatchTranslator:
    """Beam search with the autoregressive teacher."""
    teacher.to(device).eval()

    def translate(batch: Sequence[int]) -> list[list[int]]:
        source = pad_batch([sources[index] for index in batch]).to(device)
        best = beam_search(teacher, source, beam=beam, alpha=alpha).tokens[:, 0]
        return word_lists(best, torch.ones_like(best, dtype=torch.bool))

    return translate


def nat_translator(
    model: Nat,
    sources: Sequence[Words],
    *,
    device: torch.device,
    candidates: int = 1,
    target_lengths: Sequence[int] | None = None,
    beam: int | None = None,
    scorer: Scorer | None = None,
) -> BatchTranslator:
    """One pass of a non-autoregressive model.

    Args:
        model: NAT, NAT-CRF or NAT-DCRF.
        sources: words of each sentence.
        device: where to compute.
        candidates: target lengths tried a sentence.
        target_lengths: decode at these numbers of words instead.
        beam: k of the CRF; default: the model's.
        scorer: chooses among the candidates.
    """
    model.to(device).eval()
    boundaries = model.config.boundaries

    def translate(batch: Sequence[int]) -> list[list[int]]:
        source = pad_batch([sources[index] for index in batch], boundaries).to(device)
        lengths: Tensor | None = None
        if target_lengths is not None:
            wanted = [[target_lengths[index] + model.config.boundary_symbols] for index in batch]
            lengths = torch.tensor(wanted, device=device)
        found = translate_batch(model, source, candidates=candidates, lengths=lengths, beam=beam, scorer=scorer)
        return [list(row[0].words) for row in found]

    return translate


def distil(
    lengths: Sequence[int],
    translate: BatchTranslator,
    folder: Path,
    *,
    max_tokens: int = 4096,
    shard: int = 4096,
    title: str = "distillation",
) -> Sentences:
    """Translations of a whole training set (sequence-level distillation, Section 4.2), kept shard by shard.

    A call that was interrupted continues behind the last complete shard in `folder`.

    Args:
        lengths: of the sources.
        translate: the teacher, see `teacher_translator`.
        folder: for the shards, `00000.npz` and so on.
        max_tokens: source tokens of a batch.
        shard: sentences of a file.
        title: of the progress bar.

    Raises:
        ValueError: a shard in the folder does not hold what it should.
        Interrupted: after a signal, the present shard being saved.
    """
    from sextet.errors import Interrupted

    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    starts = range(0, len(lengths), shard)
    progress = start_progress(title, len(starts), 0)
    shards: list[Sentences] = []
    with SignalGuard() as guard:
        for number, start in enumerate(starts):
            path, size = folder / f"{number:05d}.npz", min(shard, len(lengths) - start)
            if not path.exists():
                part = lengths[start : start + size]
                words = translate_all(
                    part, lambda batch, start=start: translate([start + i for i in batch]), max_tokens
                )
                Sentences.of(words).save(path)
            shards.append(Sentences.load(path, size))
            if progress is not None:
                progress.update(progress.task_ids[0], completed=number + 1)
            if guard.signum:
                raise Interrupted(guard.signum, folder)
    if progress is not None:
        progress.stop()
    return Sentences.of(words for shard in shards for words in shard)
