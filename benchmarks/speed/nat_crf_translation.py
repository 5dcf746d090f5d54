"""Translation in one pass against beam search with the autoregressive teacher of equal size, BLEU beside every speed.

    python -m benchmarks.speed.nat_crf_translation --threads 1 --out runs/speed/nat_crf_translation.json

The models are those of the table nat-crf/catalogues; where `make reproduce-nat-crf` has been run they are there, else
they are trained first (a few minutes).
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from nat_crf.corpus_decoding import BatchTranslator, translate_all
from nat_crf.pipeline import make_translator
from nat_crf.recipe import CatalogueConfig, Corpus, corpus_stage, score
from sextet.recipe import RunContext

from . import timing

TARGET = 8.0
CELLS = {
    "NART": CatalogueConfig(model="nat"),
    "NART-CRF": CatalogueConfig(model="crf"),
    "NART-DCRF": CatalogueConfig(model="dcrf"),
    "NART-DCRF, 9 candidates rescored": CatalogueConfig(model="dcrf", candidates=9),
}


@dataclass(frozen=True)
class Arguments(timing.Arguments):
    """How to measure.

    Attributes:
        device: where.
        sentences: how many a measurement, the shortest, the longest and those between alike.
        batch_tokens: source tokens of a batch, where sentences are not translated one at a time.
        stages: folder of the trained models.
        seed: of the models.
    """

    device: str = "cpu"
    sentences: int = 60
    batch_tokens: int = 2048
    stages: Path = Path("runs/stages")
    seed: int = 11


@dataclass(frozen=True)
class Result:
    """One line of the table: milliseconds a sentence, BLEU on the whole test set."""

    name: str
    batch: str
    ours_ms: float
    theirs_ms: float
    ours_bleu: float
    theirs_bleu: float
    ratio: timing.Ratio
    target: float | None

    @property
    def verdict(self) -> str:
        """Whether the target is met by the median."""
        if self.target is None:
            return ""
        return f"{'met' if self.ratio.median >= self.target else 'NOT MET'} (>= {self.target:g}x)"


def measure(arguments: Arguments) -> Iterator[Result]:
    """All lines."""
    context = RunContext(
        directory=arguments.stages.parent / "speed",
        stages=arguments.stages,
        seed=arguments.seed,
        device=arguments.device,
    )
    corpus = corpus_stage(CatalogueConfig(), context)
    lengths = corpus.pairs("test")[0].lengths.tolist()
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    chosen = order[:: max(1, len(order) // arguments.sentences)][: arguments.sentences]
    teacher = translator(CatalogueConfig(model="teacher"), context, corpus)
    theirs_bleu = bleu(teacher, corpus)
    for name, cell in CELLS.items():
        ours = translator(cell, context, corpus)
        ours_bleu = bleu(ours, corpus)
        for batch in ("1", "many"):
            one, other = (runner(each, chosen, lengths, batch, arguments) for each in (ours, teacher))
            times = timing.interleaved(one, other, pairs=arguments.pairs, clock=arguments.clock)
            count = len(chosen) if batch == "1" else len(lengths)
            yield Result(
                name,
                batch,
                ours_ms=1000 * statistics.median(times.ours) / count,
                theirs_ms=1000 * statistics.median(times.theirs) / count,
                ours_bleu=ours_bleu,
                theirs_bleu=theirs_bleu,
                ratio=timing.median_ratio(times.ratios),
                target=None if cell.candidates > 1 else TARGET,
            )


def translator(cell: CatalogueConfig, context: RunContext, corpus: Corpus) -> BatchTranslator:
    """The model of a cell, on the test sources."""
    sources, _ = corpus.pairs("test")
    return make_translator(
        cell.plan(), corpus.training(), cell.model, context, sources, candidates=cell.candidates, beam=cell.beam
    )


def bleu(translate: BatchTranslator, corpus: Corpus) -> float:
    """On the test set."""
    sources, references = corpus.pairs("test")
    found = translate_all(sources.lengths.tolist(), translate, max_tokens=2048)
    return score(found, references, corpus.target_words)["bleu"].mean


def runner(
    translate: BatchTranslator, chosen: list[int], lengths: list[int], batch: str, arguments: Arguments
) -> Callable[[], None]:
    """Translate the chosen sentences one at a time, or the whole test set in batches."""

    def one_at_a_time() -> None:
        for index in chosen:
            translate([index])

    def in_batches() -> None:
        translate_all(lengths, translate, arguments.batch_tokens)

    return one_at_a_time if batch == "1" else in_batches


def main(arguments: Arguments) -> None:
    """Measure, print the table, write it."""
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    surroundings = timing.begin(threads=arguments.threads, clock=arguments.clock)
    print("milliseconds a sentence and BLEU, ours / the teacher's with beam 4; median paired ratio with 95% interval")
    rows = []
    for result in measure(arguments):
        rows.append({**asdict(result), "verdict": result.verdict})
        ratio = f"{result.ratio.median:6.2f}x [{result.ratio.low:.2f}, {result.ratio.high:.2f}]"
        print(
            f"{result.name:<34} batch {result.batch:<5} {result.ours_ms:7.2f} / {result.theirs_ms:7.2f} ms  "
            f"{ratio:<24} BLEU {result.ours_bleu:.1f} / {result.theirs_bleu:.1f}  {result.verdict}",
            flush=True,
        )
    timing.write_results(arguments.out, asdict(arguments), surroundings, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
