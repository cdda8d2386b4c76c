"""A web server for tests, with whatever can go wrong."""

import contextlib
import http.server
import threading
from dataclasses import dataclass, field

from programs import join


@dataclass
class Resource:
    """A file on the test's server, with what goes wrong at its next requests, one each."""

    content: bytes
    # a status to answer, ("cut", bytes to send before the end), ("late", seconds before the answer), or
    # ("trickle", seconds before each byte)
    mishaps: list = field(default_factory=list)
    ranges: bool = True
    heeds_if_range: bool = True
    etag: str | None = '"v1"'
    length: bool = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.asked = []  # (path, Range header, status)
        self.closing = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def asked_for(self, ending):
        return [(given, status) for path, given, status in self.asked if path.endswith(ending)]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        resource = self.server.files.get(self.path)
        mishap = resource.mishaps.pop(0) if resource and resource.mishaps else None
        kind, amount = mishap if isinstance(mishap, tuple) else (None, None)
        if kind == "late" and self.server.closing.wait(amount):
            return None
        if resource is None or isinstance(mishap, int):
            return self.answer(404 if resource is None else mishap)
        content, start, status = resource.content, 0, 200
        asked = self.headers.get("Range")
        unchanged = self.headers.get("If-Range") == resource.etag or not resource.heeds_if_range
        if asked and resource.ranges and unchanged:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(content):
                return self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
        headers = {}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if resource.etag:
            headers["ETag"] = resource.etag
        body = content[start:]
        if resource.length:
            headers["Content-Length"] = len(body)
        if kind == "cut":
            body = body[:amount]
        return self.answer(status, headers, body, pause_s=amount if kind == "trickle" else 0.0)

    def answer(self, status, headers=None, body=b"", pause_s=0.0):
        self.server.asked.append((self.path, self.headers.get("Range"), status))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, str(value))
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked may be gone
            for piece in [body[k : k + 1] for k in range(len(body))] if pause_s else [body]:
                self.server.closing.wait(pause_s)
                self.wfile.write(piece)


@contextlib.contextmanager
def serving():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield running
        finally:
            running.closing.set()
            running.shutdown()
            join(thread)
