"""One pass against beam search over the length of a sentence, with models of the paper's size.

    python -m benchmarks.speed.nat_crf_lengths --threads 1 --out runs/speed/nat_crf_lengths.json

One sentence at a time, as the paper's latency is measured. Weights are random, since times depend on them through
lengths alone, and those are fixed: our translation has as many words as the source, and the teacher, which cannot end
earlier, stops after so many. A trained teacher takes a few steps more, until no hypothesis can overtake its best one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from nat_crf import Nat, preset
from nat_crf.autoregressive import Teacher, beam_search
from nat_crf.decoding import translate_batch
from nat_crf.rescoring import teacher_scorer
from nat_crf.sequences import EOS, PAD, UNK

from . import timing

# Of the paper's 10 to 15 times on a P100, at a length near the mean of its test set; set before anything was measured
TARGET, TARGET_LENGTH = 8.0, 32
RESCORED = 9


@dataclass(frozen=True)
class Arguments(timing.Arguments):
    """How to measure.

    Attributes:
        device: where.
        size: preset of the models.
        vocab: of both languages together.
        words: lengths of the sentences.
        beam: of the teacher.
        seed: of weights and words.
    """

    device: str = "cpu"
    size: Literal["paper", "paper-iwslt14"] = "paper"
    vocab: int = 32_000
    words: tuple[int, ...] = (8, 16, 32, 64)
    beam: int = 4
    seed: int = 0


class Models:
    """The teacher, which never ends a sentence by itself, and a non-autoregressive model of each kind."""

    def __init__(self, arguments: Arguments) -> None:
        torch.manual_seed(arguments.seed)
        kinds: tuple[Literal["none", "static", "dynamic"], ...] = ("none", "static", "dynamic")
        build = partial(preset, arguments.size)
        self.teacher = Teacher(build().teacher(), arguments.vocab).to(arguments.device).eval()
        bias = self.teacher.decoder.output_bias
        assert bias is not None
        with torch.no_grad():
            bias[EOS] = -math.inf
        self.nart, self.crf, self.dcrf = (
            Nat(build(crf=kind), arguments.vocab).to(arguments.device).eval() for kind in kinds
        )

    def search(self, source: Tensor, beam: int) -> timing.Run:
        """The teacher's beam search: as many words as the source has, then `<eos>`.

        Its longest translation is one word longer than what it reads, so that it reads two tokens less.
        """
        return lambda: beam_search(self.teacher, source[:, 2:], beam=beam, extra=1)

    def pass_of(self, model: Nat, source: Tensor, *, rescored: bool = False) -> timing.Run:
        """One pass of ours: as many words as the source, or that and four fewer to four more, rescored."""
        length = source.shape[1]
        spread = range(-(RESCORED // 2), RESCORED // 2 + 1) if rescored else range(1)
        lengths = torch.tensor([[max(2, length + shift) for shift in spread]], device=source.device)
        scorer = teacher_scorer(self.teacher) if rescored else None
        return lambda: translate_batch(model, source, lengths=lengths, scorer=scorer)


def measure(arguments: Arguments) -> Iterator[dict[str, Any]]:
    """All lines of the table."""
    models = Models(arguments)
    generator = torch.Generator().manual_seed(arguments.seed)
    for words in arguments.words:
        drawn = torch.randint(1 + max(PAD, EOS, UNK), arguments.vocab, (1, words), generator=generator)
        source = torch.cat([drawn, torch.tensor([[EOS]])], dim=1).to(arguments.device)
        searched, target = models.search(source, arguments.beam), TARGET if words == TARGET_LENGTH else None
        nart, crf, dcrf = (models.pass_of(model, source) for model in (models.nart, models.crf, models.dcrf))
        rescored, teacher = models.pass_of(models.dcrf, source, rescored=True), f"teacher, beam {arguments.beam}"
        for name, ours, theirs, least in (
            (f"NART / {teacher}", nart, searched, target),
            (f"NART-CRF / {teacher}", crf, searched, target),
            (f"NART-DCRF / {teacher}", dcrf, searched, target),
            (f"NART-DCRF, {RESCORED} candidates rescored / {teacher}", rescored, searched, None),
            ("NART-DCRF / greedy teacher", dcrf, models.search(source, 1), None),
        ):
            times = timing.interleaved(ours, theirs, pairs=arguments.pairs, clock=arguments.clock)
            ratio = timing.median_ratio(times.ratios)
            yield {
                "name": name,
                "setting": f"{words} words, V {arguments.vocab}",
                "ours_ms": 1000 * statistics.median(times.ours),
                "theirs_ms": 1000 * statistics.median(times.theirs),
                "ratio": asdict(ratio),
                "target": least,
                "verdict": "" if least is None else timing.judge(ratio, least),
            }


def main(arguments: Arguments) -> None:
    """Measure, print the table, write it."""
    surroundings = timing.begin(threads=arguments.threads, clock=arguments.clock)
    print("milliseconds a sentence, ours / the teacher's; median paired ratio with 95% interval")
    rows = []
    for row in measure(arguments):
        rows.append(row)
        ratio = "{median:6.2f}x [{low:.2f}, {high:.2f}]".format(**row["ratio"])
        milliseconds = f"{row['ours_ms']:8.1f} / {row['theirs_ms']:8.1f} ms"
        print(f"{row['name']:<52} {row['setting']:<18} {milliseconds}  {ratio:<26} {row['verdict']}", flush=True)
    timing.write_results(arguments.out, asdict(arguments), surroundings, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
