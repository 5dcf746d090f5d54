"""Mutated files, one after another, in a process of bounded memory: only a ValueError or an OSError may leave a parser.

Inputs that reach lines of the project which no input reached before join the corpus, so that mutations build on them.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

MEMORY = 3 << 30
"""How much a parser may take beyond what the process holds when it starts."""
HANG_S = 20
_WORDS = (
    b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\0" * 8, b"\xff\xff\xff\x7f", b"-1", b"1e999", b"NaN", b"null",
    b"[" * 40, b"{" * 40, b"../", b"/", b"\\", b"\r\n", b"\xc3", b"\xed\xa0\x80", b"9" * 25, b'"', b"{}", b"[]",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        name: of the target.
        prepare: writes whole, valid files into an empty folder.
        parse: reads that folder; may raise ValueError, ImportError for extras and OSError.
        fixed: names of files that are not mutated.
    """

    name: str
    prepare: Callable[[Path], None]
    parse: Callable[[Path], Any]
    fixed: tuple[str, ...] = ()


@dataclass
class Found:
    """What came of one target: executions, how many ended in an allowed error, what escaped."""

    name: str
    executions: int = 0
    refused: int = 0
    corpus: int = 0
    escaped: list[str] = field(default_factory=list)


class Hang(BaseException):
    """A parser took longer than `HANG_S`."""


def run(target: Target, folder: Path, seconds: float, seed: int, executions: int = 0) -> Found:
    """Fuzz one target in a child process.

    Args:
        target: the parser.
        folder: scratch; inputs that broke something are kept in it under `escaped`.
        seconds: for how long.
        seed: of the mutations.
        executions: stop after so many; 0 for no bound.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, target, folder, seconds, seed, executions))
    process.start()
    there.close()
    try:
        found = here.recv() if here.poll(seconds + 10 * HANG_S) else None
    except EOFError:
        found = None
    process.join(timeout=HANG_S)
    if process.is_alive():
        process.kill()
    if found is None:
        return Found(target.name, escaped=[f"the process died or hung, exit code {process.exitcode}"])
    return found


def _child(pipe: Any, target: Target, folder: Path, seconds: float, seed: int, executions: int) -> None:
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, _hangs)
    pipe.send(_fuzz(target, folder, seconds, seed, executions))


def _hangs(_number: int, _frame: FrameType | None) -> None:
    raise Hang


def _fuzz(target: Target, folder: Path, seconds: float, seed: int, executions: int) -> Found:
    rng, found, lines = random.Random(seed), Found(target.name), Lines()
    work = folder / "work"
    work.mkdir(parents=True)
    target.prepare(work)
    target.parse(work)  # what is valid must be read
    whole = {path: path.read_bytes() for path in sorted(work.rglob("*")) if path.is_file()}
    names = [path for path in whole if path.name not in target.fixed]
    corpus = {path: [whole[path]] for path in names}
    end = time.monotonic() + seconds
    while time.monotonic() < end and not 0 < executions <= found.executions:
        path = rng.choice(names)
        content = mutated(rng.choice(corpus[path]), rng, corpus[path])
        path.write_bytes(content)
        before = len(lines.seen)
        try:
            signal.alarm(HANG_S)
            with lines:
                target.parse(work)
        except (ValueError, OSError):
            found.refused += 1
        except BaseException as error:
            _keep(folder / "escaped", path.name, content, error, found)
        finally:
            signal.alarm(0)
        if len(lines.seen) > before and len(corpus[path]) < 200:
            corpus[path].append(content)
        path.write_bytes(whole[path])
        found.executions += 1
    found.corpus = sum(map(len, corpus.values()))
    return found


def _keep(folder: Path, name: str, content: bytes, error: BaseException, found: Found) -> None:
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:120]}"
    same = what.partition(": ")[0]
    if not any(known.startswith(same) for known in found.escaped):
        folder.mkdir(exist_ok=True)
        (folder / f"{len(found.escaped)}-{name}").write_bytes(content)
        (folder / f"{len(found.escaped)}-{name}.txt").write_text("".join(traceback.format_exception(error)))
        found.escaped.append(what)


class Lines:
    """Which lines of the project's own code have run, while entered."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int]] = set()

    def __enter__(self) -> None:
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        name = frame.f_code.co_filename
        return self._line if "/packages/" in name or "/sextet" in name else None

    def _line(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "line":
            self.seen.add((frame.f_code, frame.f_lineno))
        return self._line


def mutated(content: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """A file with a few of: bits flipped, bytes changed, cut, doubled or removed, words put in, parts of others."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(min(len(data), 64) + 1)
        length = rng.choice((1, 2, 4, 8, 16, rng.randrange(1, 200)))
        match rng.randrange(8):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                del data[at:]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = rng.choice(_WORDS)
            case 6:
                word = rng.choice(_WORDS)
                data[at : at + len(word)] = word
            case _:
                other = rng.choice(corpus)
                start = rng.randrange(len(other) + 1)
                data[at : at + length] = other[start : start + length]
    return bytes(data)
