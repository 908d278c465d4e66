"""A server before an S3 server that breaks some requests off: a real one, for tests."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LANDED, LOST, CONFLICT = "landed", "lost", "conflict"


@contextmanager
def broken_proxy(behind: str, fates: list[str]) -> Iterator[str]:
    """The proxy's address. Each PUT takes one of the fates while there are any.

    `landed`: it is passed on, and the connection closed without an answer. `lost`: closed without
    being passed on. `conflict`: answered with 409 as S3 does while another request is under way.
    """

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fate = fates.pop(0) if self.command == "PUT" and fates else ""
            self.close_connection = True
            if fate == LOST:
                return
            if fate == CONFLICT:
                self._answer(409, {}, b"<Error><Code>ConditionalRequestConflict</Code></Error>")
                return
            code, headers, data = self._pass_on(body)
            if fate != LANDED:
                self._answer(code, headers, data)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve

        def _pass_on(self, body: bytes) -> tuple[int, Any, bytes]:
            # urllib would call a body without a type a form.
            headers = {"Content-Type": "application/octet-stream", **dict(self.headers)}
            request = urllib.request.Request(
                behind + self.path, data=body or None, method=self.command, headers=headers
            )
            try:
                with urllib.request.urlopen(request) as found:
                    return found.status, dict(found.headers), found.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, dict(error.headers), error.read()

        def _answer(self, code: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(code)
            for name, value in headers.items():
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", len(data))
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
