"""Decoding of exported models: onnxruntime runs the networks, NumPy the CRF."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from nat_crf.config import NatConfig
from nat_crf.export import FORMAT, INPUTS
from nat_crf.sequences import BOS, EOS, PAD, pad_batch

Floats = NDArray[np.floating[Any]]


class BestPath(NamedTuple):
    """Labels `[T]` of the best path, its score, and the log-partition over the same candidates."""

    tokens: NDArray[np.int64]
    score: float
    log_partition: float


def viterbi(emissions: Floats, left: Floats, right: Floats, beam: int, dynamic: Floats | None = None) -> BestPath:
    """Viterbi over the top-k lists of one sentence, and log Z over them (Sections 4.5, 4.7).

    Args:
        emissions: e `[T, V]`.
        left, right: E1, E2 `[V, r]`.
        beam: k.
        dynamic: M_dyn `[T - 1, r, r]`, or None for static transitions.
    """
    emissions = emissions.astype(np.float64)
    labels = np.argsort(-emissions, axis=1, kind="stable")[:, :beam]
    scores = np.take_along_axis(emissions, labels, axis=1)
    best, total, pointers = scores[0], scores[0], []
    for step in range(1, len(labels)):
        factor = left[labels[step - 1]].astype(np.float64)
        block = (factor if dynamic is None else factor @ dynamic[step - 1]) @ right[labels[step]].T
        reached = best[:, None] + block
        pointers.append(reached.argmax(axis=0))
        best = reached.max(axis=0) + scores[step]
        total = np.logaddexp.reduce(total[:, None] + block, axis=0) + scores[step]
    slots = [int(best.argmax())]
    for pointer in reversed(pointers):
        slots.append(int(pointer[slots[-1]]))
    tokens = labels[np.arange(len(labels)), slots[::-1]]
    return BestPath(tokens, float(best.max()), float(np.logaddexp.reduce(total)))


def dynamic_transitions(states: Floats, weights: Mapping[str, Floats]) -> Floats | None:
    """M_dyn `[T - 1, r, r]` of decoder states `[T, d]` (Section 4.3), None where the weights are of a static CRF."""
    if "f.0.weight" not in weights:
        return None
    pairs = np.concatenate([states[:-1], states[1:]], axis=1)
    hidden = np.maximum(pairs @ weights["f.0.weight"].T + weights["f.0.bias"], 0)
    rank = weights["E1.weight"].shape[1]
    return (hidden @ weights["f.2.weight"].T + weights["f.2.bias"]).reshape(-1, rank, rank)


class NumpyDecoder:
    """Translates with what `export_onnx` wrote.

    Args:
        folder: of the export.

    Raises:
        ValueError: the package `onnxruntime` is missing, or the folder is not an export.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError("NumpyDecoder: needs the package onnxruntime; pip install onnxruntime") from error
        try:
            settings = json.loads((folder / "settings.json").read_text())
            if settings["format"] != FORMAT:
                raise ValueError(f"expected format {FORMAT}, found {settings['format']}")
            self.config = NatConfig(**settings["config"])
            self.weights = safetensors.numpy.load_file(folder / "crf.safetensors")
            graphs = {name: (folder / f"{name}.onnx").read_bytes() for name in INPUTS}
            self.sessions = {
                name: onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
                for name, graph in graphs.items()
            }
        except Exception as error:
            raise ValueError(f"{folder}: not what export_onnx writes ({type(error).__name__}: {error})") from error

    def translate(
        self, words: Sequence[Sequence[int]], *, candidates: int = 1, beam: int | None = None
    ) -> list[list[int]]:
        """The likeliest translation per position of each sentence.

        Args:
            words: source sentences as ids, without boundary symbols.
            candidates: target lengths tried a sentence.
            beam: k of the CRF; default: the model's.

        Raises:
            ValueError: an argument below 1.
        """
        if candidates < 1 or (beam is not None and beam < 1):
            raise ValueError(f"candidates, beam: expected 1 or more, got {candidates} and {beam}")
        source = pad_batch(words, self.config.boundaries).numpy()
        mask = source != PAD
        states, embedded, *logits = self._run("encoder", [source, mask])
        best: list[tuple[float, list[int]]] = [(-np.inf, [])] * len(words)
        for lengths in self._lengths(mask.sum(axis=1), logits[0] if logits else None, candidates).T:
            target_mask = np.arange(lengths.max()) < lengths[:, None]
            outputs = self._run("decoder", [states, embedded, mask, target_mask])
            for row, length in enumerate(lengths):
                emissions, hidden = (output[row, :length] for output in outputs)
                found = self._best(emissions, hidden, beam or self.config.beam)
                best[row] = max(best[row], found, key=lambda pair: pair[0])
        return [tokens for _, tokens in best]

    def _run(self, name: str, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        session = self.sessions[name]
        wanted = {argument.name for argument in session.get_inputs()}
        feed = {key: array for key, array in zip(INPUTS[name], arrays, strict=True) if key in wanted}
        return [np.asarray(output) for output in session.run(None, feed)]

    def _lengths(self, source: NDArray[np.int64], logits: Floats | None, count: int) -> NDArray[np.int64]:
        """As `Nat.length_candidates`, `[B, count]`."""
        config = self.config
        if logits is None:
            minimum, centre = 1 + config.boundary_symbols, source + config.length_constant
        else:
            minimum, centre = 2, logits.argmax(axis=1)
            if config.length_offset:
                centre = centre + source - config.length_classes // 2
            centre = np.maximum(centre, minimum)
        return np.clip(centre[:, None] + np.arange(count) - count // 2, minimum, config.max_positions)

    def _best(self, emissions: Floats, states: Floats, beam: int) -> tuple[float, list[int]]:
        """Log-probability per position and the words."""
        if "E1.weight" in self.weights:
            dynamic = dynamic_transitions(states, self.weights)
            path = viterbi(emissions, self.weights["E1.weight"], self.weights["E2.weight"], beam, dynamic)
            tokens, total = path.tokens, path.score - path.log_partition
        else:
            tokens = emissions.argmax(axis=1)
            total = float((emissions.max(axis=1) - np.logaddexp.reduce(emissions, axis=1)).sum())
        return total / len(tokens), [int(token) for token in tokens if token not in (BOS, PAD, EOS)]
