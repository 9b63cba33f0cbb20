"""A web server on this machine that does as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A web server on 127.0.0.1 that answers each path as it is told to, and remembers what was asked for."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                reply = server.replies.get(self.path, failing(404))
                with suppress(ConnectionError):  # the other end has gone
                    reply(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


def sending(content: bytes, declared: int | None = -1) -> Reply:
    """Answer with `content`, announcing `declared` bytes (-1: the truth, None: nothing)."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if declared is not None:
            handler.send_header("Content-Length", str(len(content) if declared == -1 else declared))
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def failing(code: int) -> Reply:
    """Answer with an error."""
    return lambda handler: handler.send_error(code)


class File:
    """A file on the server, which can be continued in the middle as the standard has it; an instance is a reply.

    Attributes:
        content: Its bytes.
        headers: Sent with every whole answer, and with partial ones too.
        knows_ranges: Whether Range is honoured.
        cuts: How many bytes each of the next answers sends before the connection ends.
        ranges: The Range of each request so far, "" where there was none.
    """

    def __init__(self, content: bytes, headers: dict[str, str] | None = None, knows_ranges: bool = True) -> None:
        self.content = content
        self.headers = {"ETag": f'"{hash(content)}"'} if headers is None else headers
        self.knows_ranges = knows_ranges
        self.announces = True
        self.cuts: list[int] = []
        self.ranges: list[str] = []

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        span = handler.headers.get("Range", "")
        self.ranges.append(span)
        start = 0
        if span and self.knows_ranges and handler.headers.get("If-Range") in {None, *self.headers.values()}:
            start = int(span.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            handler.send_response(200)
        if self.announces:
            handler.send_header("Content-Length", str(len(self.content) - start))
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        rest = self.content[start:]
        handler.wfile.write(rest[: self.cuts.pop(0)] if self.cuts else rest)
