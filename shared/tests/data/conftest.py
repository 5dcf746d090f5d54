"""A small web server that can misbehave, and a small dataset."""

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from sextet.data import Arrays, DataError, DataMissing, Passport, content_hash

ARRAYS: Arrays = {
    "images": np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 1),
    "labels": np.array([1, 0], np.int64),
}


@dataclass
class Reply:
    """How the server answers for one path."""

    body: bytes
    status: int = 200
    ignore_range: bool = False
    cut_after: list[int] = field(default_factory=list)  # for each request in turn: bytes sent before hanging up
    claimed_length: int | None = None
    content_range: str | None = None
    hold_after: list[int] = field(default_factory=list)  # the same: bytes sent before waiting for `Server.release`
    fail_first: int = 0  # requests answered with status 503


class Server:
    """Serves `replies` by path and remembers the Range headers it was asked with."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.ranges: list[str | None] = []
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{path}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        reply = self.replies[handler.path.strip("/")]
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        if reply.fail_first:
            reply.fail_first -= 1
            handler.send_error(503)
            return
        if reply.status != 200:
            handler.send_error(reply.status)
            return
        start = 0 if wanted is None or reply.ignore_range else int(wanted.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(reply.body):
            handler.send_error(416)
            return
        body = reply.body[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", reply.content_range or f"bytes {start}-{len(reply.body) - 1}/*")
        if reply.claimed_length != -1:
            handler.send_header("Content-Length", str(reply.claimed_length or len(body)))
        handler.end_headers()
        if reply.hold_after:
            handler.wfile.write(body[: reply.hold_after.pop(0)])
            self.release.wait(60)
            return
        handler.wfile.write(body[: reply.cut_after.pop(0)] if reply.cut_after else body)
        handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
    server.thread.join()


def packed(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode(folder: Path) -> Arrays:
    path = folder / "data.npz"
    if not path.exists():
        raise DataMissing(f"{folder} has no data.npz")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except Exception as error:
        raise DataError(f"{path}: {error}") from error


@dataclass
class Local:
    """A source that writes `body` as data.npz, or raises."""

    body: bytes = b""
    error: DataError | None = None
    calls: int = 0

    def describe(self) -> str:
        return "a local source"

    def fetch(self, into: Path) -> dict[str, str]:
        self.calls += 1
        if self.error:
            raise self.error
        (into / "data.npz").write_bytes(self.body)
        return {"local": "1"}


def tiny(*sources: object, pinned: bool = True) -> Passport:
    return Passport(
        name="tiny",
        title="Tiny",
        homepage="https://example.org",
        licence="CC0",
        size="1 kB",
        sources=sources,  # type: ignore[arg-type]
        decode=decode,
        content_sha256=content_hash(ARRAYS) if pinned else None,
        instructions="Get data.npz.",
        class_names=("a", "b"),
        counts={"labels": 2},
    )


@pytest.fixture
def make_tiny() -> Callable[..., Passport]:
    return tiny


@pytest.fixture
def local() -> type[Local]:
    return Local


@pytest.fixture
def arrays() -> Arrays:
    return {name: array.copy() for name, array in ARRAYS.items()}


@pytest.fixture
def pack() -> Callable[[Arrays], bytes]:
    return packed


@pytest.fixture
def reply() -> type[Reply]:
    return Reply
