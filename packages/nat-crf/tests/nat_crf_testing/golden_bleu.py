"""`bleu*.npz`: corpus BLEU of tokenised sentences."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nat_crf.bleu import bleu_statistics, corpus_bleu
from nat_crf.significance import sentence_values
from nat_crf_testing.golden_file import require

TEXTS = ("hyp", "ref")
SCORES = ("fairseq_bleu4", "sacrebleu_none", "sacrebleu_none_lc", "sacrebleu_13a")


def check(path: Path) -> None:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    require(set(arrays) == {*TEXTS, *SCORES, "fairseq_string", "sent_len_hyp"}, f"arrays {sorted(arrays)}")
    for name in TEXTS:
        require(arrays[name].dtype.kind == "U" and arrays[name].ndim == 1, f"{name}: not a list of texts")
    for name in SCORES:
        require(arrays[name].dtype == np.float64 and arrays[name].ndim == 0, f"{name}: not a float64 scalar")
    hypotheses, references = (arrays[name].tolist() for name in TEXTS)
    counts = bleu_statistics(hypotheses, references)
    require(arrays["sent_len_hyp"].dtype == np.int64, "sent_len_hyp: not int64")
    require(np.array_equal(arrays["sent_len_hyp"], counts[:, 0]), "sent_len_hyp: not the hypotheses' lengths")
    require(summary(counts.sum(axis=0)) == str(arrays["fairseq_string"]), "fairseq_string: not what the counts say")
    found = {
        "fairseq_bleu4": float(sentence_values(counts).mean()),
        "sacrebleu_none": corpus_bleu(hypotheses, references).score,
        "sacrebleu_none_lc": corpus_bleu(hypotheses, references, lowercase=True).score,
        "sacrebleu_13a": corpus_bleu(hypotheses, references, "13a").score,
    }
    for name, score in found.items():
        require(abs(score - float(arrays[name])) <= 1e-6, f"{name}: {score} instead of {float(arrays[name])}")


def summary(total: np.ndarray) -> str:
    """The one-line report of fairseq's scorer."""
    length, reference = int(total[0]), int(total[1])
    precisions = 100 * total[2:6] / total[6:]
    brevity = min(1.0, float(np.exp(1 - reference / length)))
    score = brevity * float(np.exp(np.log(precisions).mean()))
    parts = "/".join(f"{value:.1f}" for value in precisions)
    ratio = f"ratio={length / reference:.3f}, syslen={length}, reflen={reference}"
    return f"BLEU4 = {score:.2f}, {parts} (BP={brevity:.3f}, {ratio})"


def visible(key: str, arrays: dict[str, np.ndarray]) -> Sequence[int]:
    """Scores, and the sentences that have at least one match to lose."""
    if key in SCORES or key in ("fairseq_string", "sent_len_hyp"):
        return [0]
    counts = bleu_statistics(arrays["hyp"].tolist(), arrays["ref"].tolist())
    return [int(np.argmax(counts[:, 5]))]
