"""A file server on this machine that misbehaves as a test wants it to."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server:
    """A file server on this machine whose faults a test sets; ``asked`` holds the Range of every request."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges = True  # honours Range
        self.cuts: list[int] = []  # bytes after which each of the next answers breaks off
        self.codes: list[int] = []  # status of each of the next answers, instead of the file
        self.announce: int | None = None  # a Content-Length that is not true
        self.chunked = False  # no Content-Length
        self.shift = 0  # how far the promised range is off
        self.pause = 0.0  # seconds between blocks
        self.asked: list[str | None] = []

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.headers.get("Range"))
        if self.codes:
            return request.send_error(self.codes.pop(0))
        start = int(re.findall(r"\d+", self.asked[-1])[0]) if self.asked[-1] and self.ranges else 0
        if start and start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.send_header("Content-Length", "0")
            return request.end_headers()
        self._send_head(request, start)
        end = start + self.cuts.pop(0) if self.cuts else len(self.content)
        for position in range(start, end, 1 << 15):
            request.wfile.write(self.content[position : min(position + (1 << 15), end)])
            time.sleep(self.pause)

    def _send_head(self, request: BaseHTTPRequestHandler, start: int) -> None:
        request.send_response(206 if start else 200)
        if not self.chunked:
            request.send_header("Content-Length", str(self.announce or len(self.content) - start))
        if start:
            total = len(self.content)
            request.send_header("Content-Range", f"bytes {start + self.shift}-{total - 1}/{total}")
        request.end_headers()


@contextmanager
def serve(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve ``content`` at the address ``url`` of what is yielded, with the faults that are set there."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    faults = Server(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                faults.answer(self)
            except (BrokenPipeError, ConnectionResetError):  # the client was killed, as a test wants it
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            """Keep the test's output clean."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    faults.url = f"http://127.0.0.1:{listener.server_port}/file.zip"
    yield faults
    listener.shutdown()
    thread.join()
    listener.server_close()
