"""A web server on this machine that misbehaves as told."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files`, by name. Attributes say how; change them at any time."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.honours_range = True
        self.content_type = "application/octet-stream"
        self.length_lie = 0  # added to the true Content-Length
        self.cut_after: int | None = None  # bytes of a response after which the connection breaks
        self.pause = 0.0  # seconds after each `piece` bytes
        self.piece = 256
        self.hold = threading.Event()  # when clear, the connection stays open and silent behind the last byte
        self.hold.set()
        self.asked: list[tuple[str, str | None]] = []  # (name, Range) of each request
        self.sent = 0  # bytes of all bodies

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is nothing to report here."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, name, asked = self.server, self.path.lstrip("/"), self.headers.get("Range")
        server.asked.append((name, asked))
        if name not in server.files:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.honours_range else 0
        whole = server.files[name]
        body = whole[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(max(0, len(body) + server.length_lie)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        body = body[: server.cut_after]
        for at in range(0, len(body), server.piece):
            server.sent += len(body[at : at + server.piece])
            self.wfile.write(body[at : at + server.piece])
            time.sleep(server.pause)
        server.hold.wait()

    def log_message(self, *arguments) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """A running server; stopped at the end of the block."""
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
