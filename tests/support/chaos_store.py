"""A server before an S3 server that fails as it is told to while a night runs through it.

It also is the witness: it sees every receipt that is stored, and holds the put of a shard open
until its writer was struck.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_SHARD = re.compile(r"\.zarr/.*/c\.[0-9.]+$")
_RECEIPT = re.compile(r"/receipts/.*\.json$")
_HOP = ("connection", "content-length", "transfer-encoding", "date", "server")
_CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code></Error>"
_SLOW_DOWN = b"<Error><Code>SlowDown</Code></Error>"
_SLOW_S = 0.25


class HeldPut:
    """A put of a shard that is to be held open: the first that comes from some addresses."""

    def __init__(self, addresses: set[str], lands: bool) -> None:
        self.addresses, self.lands = addresses, lands
        self.came, self.goes_on = threading.Event(), threading.Event()
        self.key, self.address = "", ""


class ChaosStore:
    """What the store does with requests now, and what it has seen."""

    def __init__(self) -> None:
        self.receipts: set[str] = set()
        """Keys of the receipts that were stored."""
        self.requests: Counter[str] = Counter()
        """Requests by what became of them."""
        self._lock = threading.Lock()
        self._fates: list[str] = []
        self._until = {"slow": 0.0, "unavailable": 0.0}
        self._held: HeldPut | None = None

    def fail(self, fate: str, requests: int) -> None:
        """The next requests are `lost` (closed unseen), `landed` (done, and closed without an
        answer), `denied` (403), or `conflict` (409 as S3 has it, for conditional puts only)."""
        with self._lock:
            self._fates = [fate] * requests

    def hinder(self, how: str, seconds: float) -> None:
        """For some seconds requests are `slow`, or the store is `unavailable` (503)."""
        self._until[how] = time.monotonic() + seconds

    def hold(self, addresses: set[str], lands: bool) -> HeldPut:
        """Hold the next put of a shard from one of these addresses until it `goes_on`."""
        with self._lock:
            self._held = HeldPut(addresses, lands)
            return self._held

    def forget(self, held: HeldPut) -> None:
        """Hold it no more, if it has not come."""
        with self._lock:
            if self._held is held:
                self._held = None

    def calm(self) -> None:
        """Fail no more, and let go of what is held."""
        with self._lock:
            self._fates = []
            if self._held is not None:
                self._held.goes_on.set()
            self._held = None
        self._until = dict.fromkeys(self._until, 0.0)

    def takes(self, held_by: str, key: str) -> HeldPut | None:
        """The order to hold this put, if there is one for it; nobody else gets it."""
        with self._lock:
            held = self._held
            if held is None or held_by not in held.addresses or not _SHARD.search(key):
                return None
            self._held = None
            held.key, held.address = key, held_by
            return held

    def fate(self, conditional: bool) -> str:
        """What is to become of the next request: a word of `fail`, `unavailable`, or nothing."""
        now = time.monotonic()
        if now < self._until["slow"]:
            time.sleep(_SLOW_S)
        if now < self._until["unavailable"]:
            return "unavailable"
        with self._lock:
            if not self._fates or (self._fates[0] == "conflict" and not conditional):
                return ""
            return self._fates.pop()

    def saw(self, command: str, key: str, code: int) -> None:
        """A request was done."""
        if command == "PUT" and code == 200 and _RECEIPT.search(key):
            self.receipts.add(key)


@contextmanager
def chaos_proxy(behind: str, store: ChaosStore, host: str) -> Iterator[str]:
    """Serve on an address of this machine, before the server at `behind`; the proxy's URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            self._server = http.client.HTTPConnection(urlsplit(behind).netloc, timeout=120)

        def finish(self) -> None:
            super().finish()
            self._server.close()

        def _serve(self) -> None:
            key, _, _ = self.path.partition("?")
            size = int(self.headers.get("Content-Length") or 0)
            held = store.takes(self.client_address[0], key) if self.command == "PUT" else None
            body = self.rfile.read(size // 2 if held else size)
            if held is not None:
                held.came.set()
                held.goes_on.wait(60)
                body += self.rfile.read(size - len(body))
                if not held.lands:
                    self._close("held and lost")
                    return
            if len(body) < size:
                self._close("cut short")
                return
            conditional = "If-None-Match" in self.headers or "If-Match" in self.headers
            fate = store.fate(self.command == "PUT" and conditional) if held is None else ""
            self._meet(fate, key, body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve

        def _meet(self, fate: str, key: str, body: bytes) -> None:
            store.requests[fate or "answered"] += 1
            if fate == "lost":
                self.close_connection = True
            elif fate == "conflict":
                self._answer(409, [], _CONFLICT)
            elif fate == "denied":
                self._answer(403, [], _DENIED)
            elif fate == "unavailable":
                self._answer(503, [], _SLOW_DOWN)
            else:
                code, headers, data = self._pass_on(body)
                store.saw(self.command, key, code)
                if fate == "landed":
                    self.close_connection = True
                    return
                self._answer(code, headers, data)

        def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            # The server closes connections that were idle; a request on one of them did nothing.
            self._server.close()
            self._server.request(self.command, self.path, body or None, headers)
            found = self._server.getresponse()
            return found.status, found.getheaders(), found.read()

        def _answer(self, code: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response(code)
            length = str(len(data))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _close(self, why: str) -> None:
            store.requests[why] += 1
            self.close_connection = True

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                # The other end was killed or is cut off.
                self._close("client went away")

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

    server = Server((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        store.calm()
        server.shutdown()
        thread.join()
        server.server_close()
