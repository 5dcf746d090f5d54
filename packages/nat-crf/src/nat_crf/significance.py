"""Corpus BLEU as a mean over sentences, so that systems can be compared in pairs like any other score.

BLEU is a smooth function of sums over the corpus. Its linearisation at those sums (the infinitesimal jackknife) gives
every sentence a value; the values' mean is the corpus BLEU and their spread its sampling error (the delta method).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sentence_values(statistics: NDArray[np.integer]) -> NDArray[np.float64]:
    """One value a sentence with the corpus BLEU as mean.

    With S the sum of the statistics s_i over n sentences: v_i = BLEU(S) + n grad BLEU(S) . s_i. BLEU does not change
    when S is scaled, so grad BLEU(S) . S = 0 and the mean is BLEU(S).

    Args:
        statistics: `[n, 10]` a sentence: hypothesis length, reference length, matching n-grams of order 1..4, all
            n-grams of the hypothesis of order 1..4.

    Returns:
        `[n]` float64 in BLEU points; zeros where the corpus BLEU is zero (no matching n-gram of some order).

    Raises:
        ValueError: not `[n, 10]` with n >= 1, or negative counts.
    """
    counts = np.asarray(statistics)
    if counts.ndim != 2 or counts.shape[1] != 10 or len(counts) == 0 or (counts < 0).any():
        raise ValueError(f"statistics: expected counts of 0 and more, [sentences, 10], got {counts.shape}")
    total = counts.sum(axis=0).astype(np.float64)
    length, reference, matches, ngrams = total[0], total[1], total[2:6], total[6:]
    if not (matches > 0).all():
        return np.zeros(len(counts))
    brevity = min(0.0, 1.0 - reference / length)
    bleu = 100.0 * np.exp(brevity + np.log(matches / ngrams).mean())
    short = float(reference > length)
    # gradient of log BLEU by each of the ten sums
    gradient = np.concatenate([[short * reference / length**2, -short / length], 0.25 / matches, -0.25 / ngrams])
    return bleu * (1.0 + len(counts) * (counts @ gradient))


def ratio_values(numerators: NDArray[np.integer], denominators: NDArray[np.integer]) -> NDArray[np.float64]:
    """One value a sentence with the corpus ratio R = sum a_i / sum b_i as mean: v_i = R + n (a_i - R b_i) / sum b.

    Args:
        numerators, denominators: a and b, `[n]`.

    Returns:
        `[n]` float64; zeros where sum b is zero.

    Raises:
        ValueError: not two vectors of one length of at least 1, or negative counts.
    """
    a, b = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) == 0 or min(a.min(), b.min()) < 0:
        raise ValueError(f"counts: expected two vectors of one length, 0 and more; got {a.shape} and {b.shape}")
    total = b.sum()
    if total == 0:
        return np.zeros(len(a))
    ratio = a.sum() / total
    return ratio + len(a) * (a - ratio * b) / total
