"""Downloads over http(s): resumed when interrupted, bounded, and under their final name only with the right hash."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sextet.data.archives import extract, is_archive
from sextet.data.errors import ChecksumMismatch, DataError, SourceUnavailable

CHUNK = 1 << 16
TIMEOUT = (10.0, 60.0)
"""Seconds to connect and between two blocks."""


@dataclass(frozen=True)
class Url:
    """One file on the web, with its SHA-256 (or the MD5 its publisher gives); archives are unpacked beside it.

    `attempts` counts failures in a row that brought no new byte; the n-th waits `backoff * 2**n` seconds.
    """

    url: str
    filename: str
    sha256: str | None = None
    md5: str | None = None
    max_bytes: int = 1 << 30
    attempts: int = 3
    backoff: float = 0.5

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url must start with https:// or http://, found {self.url!r}")
        if (self.sha256 is None) == (self.md5 is None):
            raise ValueError(f"{self.url}: give either sha256 or md5")
        if Path(self.filename).name != self.filename:
            raise ValueError(f"filename must be a bare file name, found {self.filename!r}")

    def describe(self) -> str:
        """Return the address."""
        return self.url

    def fetch(self, into: Path) -> dict[str, str]:
        """Download into the folder `into`; a partial file of an earlier call is resumed.

        Raises `SourceUnavailable` when the server cannot be reached or refuses, `ChecksumMismatch` when it delivers
        something else (kept as `<filename>.rejected-<hash8>`), `DataError` when that is larger than `max_bytes`.
        """
        import pooch

        algorithm, expected = ("sha256", self.sha256) if self.sha256 else ("md5", str(self.md5))
        part = into / f"{self.filename}.part"
        resumed = part.exists()

        def download(_url: str, output_file: str, _pooch: object) -> None:
            self._collect(part)
            shutil.copyfile(part, output_file)

        try:
            pooch.retrieve(
                self.url,
                f"{algorithm}:{expected}",
                self.filename,
                into,
                downloader=download,  # pyright: ignore[reportArgumentType]  (pooch's protocol misnames the parameters)
            )
        except DataError:
            raise
        except ValueError as error:  # pooch: the hash is another
            found = pooch.file_hash(str(part), alg=algorithm)
            if resumed:  # what was there may have been of another version: once more from the start
                part.unlink()
                return self.fetch(into)
            kept = part.replace(into / f"{self.filename}.rejected-{found[:8]}")
            raise ChecksumMismatch(self.url, str(expected), found, kept) from error
        part.unlink(missing_ok=True)
        file = into / self.filename
        unpacked = into / f"{self.filename}.unpacked"
        if is_archive(file) and not unpacked.exists():
            extract(file, unpacked, max_bytes=self.max_bytes)
        return {self.url: f"{algorithm}:{expected}"}

    def _collect(self, part: Path) -> None:
        """Stream into `part` until the server says it is complete; retry what may pass."""
        import urllib3

        failures = 0
        while True:
            before = _size(part)
            try:
                return self._stream(part)
            except (OSError, urllib3.exceptions.HTTPError) as error:  # requests' own errors are OSErrors
                failures = 1 if _size(part) > before else failures + 1
                if failures >= self.attempts:
                    raise SourceUnavailable(f"{self.url}: {error}") from error
            time.sleep(self.backoff * 2 ** (failures - 1))

    def _stream(self, part: Path) -> None:
        """One request: append what the server has beyond `part`, or start again where it ignores ranges."""
        import requests

        have = _size(part)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(self.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            status = response.status_code
            if status == 416 and have:  # nothing beyond what is here: the hash decides
                return
            if status in (408, 429) or status >= 500:
                raise requests.HTTPError(f"status {status}")
            if status not in (200, 206):
                raise SourceUnavailable(f"{self.url}: the server answers {status} {response.reason}")
            have = have if status == 206 else 0
            if have and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink()
                raise requests.HTTPError("the server sent another range than asked for")
            length = response.headers.get("Content-Length", "")
            total = have + int(length) if length.isdecimal() else None
            self._check_size(total or 0, part)
            with part.open("ab" if have else "wb") as out, _progress(self.filename, have, total) as advance:
                for block in response.raw.stream(CHUNK, decode_content=False):
                    have += len(block)
                    self._check_size(have, part)
                    out.write(block)
                    advance(len(block))

    def _check_size(self, size: int, part: Path) -> None:
        if size > self.max_bytes:
            part.unlink(missing_ok=True)
            raise DataError(f"{self.url}: larger than the {self.max_bytes} bytes allowed")


@dataclass(frozen=True)
class AllOf:
    """Several files that make one source: all are needed."""

    parts: tuple[Url, ...]

    def describe(self) -> str:
        """Return the first address and how many follow."""
        return f"{self.parts[0].describe()} and {len(self.parts) - 1} more"

    def fetch(self, into: Path) -> dict[str, str]:
        """Fetch every part into the folder `into`; raises what the first failing part raises."""
        got: dict[str, str] = {}
        for part in self.parts:
            got |= part.fetch(into)
        return got


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _progress(label: str, done: int, total: int | None) -> Iterator[Callable[[int], object]]:
    """Show a progress bar where standard error is a terminal; yield the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, completed=done, total=total)
        yield lambda size: bar.advance(task, size)
