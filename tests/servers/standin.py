"""What stand-ins for HTTP APIs have in common: JSON over TLS on loopback, one thread a connection.

A stand-in does what a provider's documentation says, as far as one issuer asks it. It proves nothing of the provider.
"""

from __future__ import annotations

import json
import shutil
import ssl
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from servers.ca import TestCa

ADDRESS = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. ``bearer``: the token that came with it; ``client``: which connection it came on."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    client: tuple[str, int]

    @property
    def bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


class StandIn(ABC):
    """Answers one request after the other. ``clock``: the provider's, ``skew_s`` ahead of ours."""

    def __init__(self, name: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=f"lh-{name}-"))
        ca = TestCa(self._folder)
        self.ca = ca.path
        self.skew_s = 0.0
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        self._trust = ca.client_context()
        self._server = _Server((ADDRESS, 0), _handler(self))
        self._server.socket = ca.server_context((ADDRESS,)).wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @abstractmethod
    def answer(self, asked: Asked) -> tuple[int, Any]:
        """Status, and an object for the body or nothing."""

    @property
    def now(self) -> float:
        return time.time() + self.skew_s

    def answered(self, asked: Asked) -> tuple[int, Any]:
        with self._lock:
            self.asked.append(asked)
            return self.answer(asked)

    def connection(self) -> HTTPSConnection:
        """For a client of the API, which goes past the issuer."""
        return HTTPSConnection(ADDRESS, self.port, timeout=10, context=self._trust)

    def close(self) -> None:
        """End it, with the connections that are open; idempotent."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust it, or has gone, is no news."""


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(stand_in.now if timestamp is None else timestamp)

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, ssl.SSLError):
                self.close_connection = True

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            data = self.rfile.read(length)
            status, fields = stand_in.answered(
                Asked(
                    method=self.command,
                    path=parts.path,
                    query=dict(parse_qsl(parts.query)),
                    headers={name.lower(): value for name, value in self.headers.items()},
                    body=json.loads(data) if data else {},
                    client=self.client_address,
                )
            )
            body = b"" if fields is None else json.dumps(fields).encode()
            self.send_response(status)
            if status != 204:
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_LIST = _answer  # noqa: N815  the base class's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
            """Nothing is printed."""

    return Handler


class Client:
    """A client with one connection and a token, which it shows with each request."""

    def __init__(self, stand_in: StandIn, headers: Mapping[str, str]) -> None:
        self._connection = stand_in.connection()
        self._headers = dict(headers)

    def status(self, method: str, path: str, body: object = None) -> int:
        """Of the answer; on the same connection as before."""
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, body=data, headers=self._headers)
        with self._connection.getresponse() as response:
            response.read()
            return response.status

    def close(self) -> None:
        self._connection.close()
