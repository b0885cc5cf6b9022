"""A small HTTP server for tests: files with ranges and folders as links, and faults on request. With paths of ``/bucket/key`` it answers
S3's HEAD and GET of objects too."""

import re
import socket
import struct
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HttpStore:
    """
    Attributes:
        files: content by path, which begins with a slash.
        times: when each was written, seconds; without one it has no Last-Modified.
        tagged: whether files have an ETag.
        ranges: whether it knows ranges.
        faults: what happens to the next requests that are neither of a folder nor HEAD: a status, "cut" (the connection ends in the middle),
            "hang" (for a second, then it ends), or a function that is called first.
        head_faults: likewise of HEAD: statuses.
        denied: whether all is answered by 403.
        asked: (first byte, bytes sent) of each answered GET of a file.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.times: dict[str, float] = {}
        self.tagged, self.ranges, self.denied = False, True, False
        self.faults: list = []
        self.head_faults: list[int] = []
        self.asked: list[tuple[int, int]] = []
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HttpStore":
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: HttpStore

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        if self.store.head_faults:
            return self._status(self.store.head_faults.pop(0))
        self._answer(body=False)

    def do_GET(self) -> None:
        if self.path in self.store.files and self.store.faults:
            fault = self.store.faults.pop(0)
            if isinstance(fault, int):
                return self._status(fault)
            if fault == "hang":
                time.sleep(1)
                return self._cut()
            if fault == "cut":
                self._answer(body=True, part=0.5)
                return self._cut()
            fault()
        self._answer(body=True)

    def _cut(self) -> None:
        """A reset, not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wfile.flush()
        self.connection.close()

    def _status(self, status: int, headers: dict | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer(self, body: bool, part: float = 1) -> None:
        store, path = self.store, self.path.partition("?")[0]
        if store.denied:
            return self._status(403)
        content = store.files.get(path)
        if content is None:
            inside = {name.removeprefix(path).partition("/")[0] for name in store.files if name.startswith(path)}
            if not path.endswith("/") or not inside:
                return self._status(404)
            page = "".join(f'<a href="{name}">{name}</a>' for name in inside).encode()
            return self._status(200, {"Content-Type": "text/html"}, page)
        headers: dict = {"Accept-Ranges": "bytes"} if store.ranges else {}
        if path in store.times:
            headers["Last-Modified"] = formatdate(store.times[path], usegmt=True)
        if store.tagged:
            headers["ETag"] = f'"{hash(content)}"'
        first, status, sent = 0, 200, content
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found and store.ranges:
            first, last = int(found[1]), min(int(found[2]), len(content) - 1)
            if first > last:
                return self._status(416)
            status, sent = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        if not body:
            return self._status(200, headers | {"Content-Length": len(content)})
        store.asked.append((first, len(sent)))
        self._status(status, headers | {"Content-Length": len(sent)}, sent[: int(len(sent) * part)])
