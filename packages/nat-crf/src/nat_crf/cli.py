"""The command line `nat-crf`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sextet import cli

if TYPE_CHECKING:
    from nat_crf.translator import Translation, Translator

MAX_LINE = 1_000_000


def translate(
    model: Path,
    input: Path | None = None,
    candidates: int = 1,
    n_best: int = 1,
    beam: int | None = None,
    batch: int = 64,
    deduplicate: bool = False,
    json_lines: bool = False,
    device: str = "auto",
) -> int:
    """Translate raw text, a line at a time, from standard input or a file to standard output.

    A line that cannot be translated gives an empty line, a message on standard error, and exit code 2 in the end; the
    lines after it are translated.

    Args:
        model: folder of a translator.
        input: text file; default: standard input.
        candidates: target lengths tried a sentence (the paper: 1, 9, 19).
        n_best: translations a sentence; more than one are printed with tabs between them.
        beam: candidates a position of the CRF; default: the model's.
        batch: lines read before they are translated; 1 to answer each line at once.
        deduplicate: collapse runs of one token.
        json_lines: print a JSON object a line, with scores and notes.
        device: where to compute.
    """
    from nat_crf.translator import Translator

    if batch < 1:
        raise ValueError(f"batch: expected 1 or more, got {batch}")
    translator = Translator.load(model, device=device)
    options = {"candidates": candidates, "n_best": n_best, "beam": beam, "deduplicate": deduplicate}
    translator.translate(["."], **options)  # bad options are said before the first line is read
    stream = sys.stdin.buffer if input is None else input.open("rb")
    failed = 0
    with stream:
        for result in results(translator, stream, batch, options):
            failed += result is None
            print(as_json(result) if json_lines else as_text(result), flush=True)
    return cli.BAD_INPUT if failed else 0


def results(
    translator: Translator, stream: BinaryIO, batch: int, options: dict[str, Any]
) -> Iterator[Translation | None]:
    """The translation of each line; None for one that could not be translated."""
    number = 0
    for lines in batched(read_lines(stream), batch):
        try:
            yield from list(translator.translate(lines, **options))
        except (ValueError, RuntimeError):
            # One line spoils a batch: find it
            for index, line in enumerate(lines, start=number + 1):
                yield _alone(translator, line, index, options)
        number += len(lines)


def as_text(result: Translation | None) -> str:
    """Alternatives with tabs between them."""
    return "" if result is None else "\t".join(result.alternatives)


def as_json(result: Translation | None) -> str:
    """All fields, or an error."""
    fields = {"error": "not translated"} if result is None else asdict(result)
    return json.dumps(fields, ensure_ascii=False)


def _alone(translator: Translator, line: bytes, number: int, options: dict[str, Any]) -> Translation | None:
    try:
        return translator.translate([line], **options)[0]
    except (ValueError, RuntimeError) as error:
        print(f"nat-crf: line {number}: {error}", file=sys.stderr)
        return None


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends; of a line of more than a million bytes the first million."""
    while line := stream.readline(MAX_LINE):
        while not line.endswith(b"\n") and (rest := stream.readline(MAX_LINE)):
            line = line[:MAX_LINE] + rest[-1:]
        yield line.rstrip(b"\r\n")


def batched(lines: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Lists of up to `size` lines."""
    waiting: list[bytes] = []
    for line in lines:
        waiting.append(line)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def main() -> None:
    """Entry point."""
    commands = {
        "translate": translate,
        "build": cli.Deferred("nat_crf.building:build", "Train a translator for `nat-crf translate`."),
        "catalogues": cli.Deferred("nat_crf.recipe:RECIPE", "The experiments at laptop size, on message catalogues."),
        "paper": cli.Deferred("nat_crf.paper:PAPER", "The paper's experiments."),
        "multimodality": cli.Deferred("nat_crf.multimodality:RECIPE", "Sentences with several right translations."),
    }
    sys.exit(cli.main(commands, prog="nat-crf", description="Non-autoregressive translation with a CRF."))
