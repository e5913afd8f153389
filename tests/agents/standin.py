"""Stand-ins for the model APIs: they speak the protocols of Anthropic and OpenAI and know no model.

One TLS server on a loopback address answers to both names. Every request is recorded as it came, so that a test can say
which key arrived and what the agent sent back. The answers are in :mod:`agents.anthropic` and :mod:`agents.openai`.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agents import anthropic, openai
from servers.ca import TestCa

ANTHROPIC, OPENAI = "api.anthropic.com", "api.openai.com"
NAMES = (ANTHROPIC, OPENAI)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it was received; header names in lower case."""

    host: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str:
        """The value of the header, or the empty string."""
        return dict(self.headers).get(name, "")

    @property
    def key(self) -> str:
        """The key that arrived, by whichever header the protocol has for it."""
        return self.header("x-api-key") or self.header("authorization").removeprefix("Bearer ")

    @property
    def keys(self) -> tuple[str, ...]:
        """Every value that arrived in a place for keys."""
        found = [v for k, v in self.headers if k in ("x-api-key", "authorization", "api-key", "cookie")]
        return tuple(value.removeprefix("Bearer ") for value in found)


def echo(request: Request) -> dict[str, Any]:
    """What a chatty server tells its caller about the caller's own request: the key, in several encodings."""
    key = request.key.encode()
    return {
        "headers": dict(request.headers),
        "base64": base64.b64encode(key).decode(),
        "hex": key.hex(),
        "percent": quote(f"key={request.key}&", safe=""),
    }


class StandIn:
    """A running server. ``command`` is the shell command that the models ask for. Use as a context manager."""

    def __init__(self, address: str, ca: TestCa, *, command: str, port: int = 443) -> None:
        self.address = address
        self._command = command
        self._requests: list[Request] = []
        self._lock = threading.Lock()
        context: ssl.SSLContext = ca.server_context(NAMES, alpn=("http/1.1",))
        standin = self

        class Handler(_Handler):
            owner = standin

        self._server = _Server((address, port), Handler)
        self.port = self._server.server_port
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def requests(self) -> list[Request]:
        with self._lock:
            return list(self._requests)

    def clear(self) -> None:
        with self._lock:
            self._requests.clear()

    def record(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    def answer(self, request: Request) -> tuple[int, str, Iterable[bytes]]:
        """Status, content type and the pieces of the body."""
        told = json.dumps(echo(request))
        if request.method == "GET" or not request.body:
            return (200, "application/json", [told.encode()]) if request.path == "/v1/models" else _nothing()
        asked = json.loads(request.body)
        if request.path == "/v1/messages":
            return _reply(anthropic.answer(asked, self._command, told), asked)
        if request.path == "/v1/messages/count_tokens":
            return 200, "application/json", [b'{"input_tokens": 10}']
        if request.path == "/v1/responses":
            return _reply(openai.response(asked, self._command, told), asked)
        if request.path == "/v1/chat/completions":
            return _reply(openai.completion(asked, self._command, told), asked)
        return _nothing()


def _reply(events: list[bytes], asked: dict[str, Any]) -> tuple[int, str, Iterable[bytes]]:
    return 200, "text/event-stream" if asked.get("stream") else "application/json", events


def _nothing() -> tuple[int, str, Iterable[bytes]]:
    return (
        404,
        "application/json",
        [b'{"error": {"type": "not_found_error", "message": "the stand-in has no such thing"}}'],
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up or does not trust the certificate is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: StandIn

    def handle_one_request(self) -> None:
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            return
        request = Request(
            host=(self.headers.get("host") or "").partition(":")[0],
            method=self.command,
            target=self.path,
            headers=tuple((k.lower(), v) for k, v in self.headers.items()),
            body=self._body(),
        )
        self.owner.record(request)
        status, kind, pieces = self.owner.answer(request)
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("x-request-id", f"received-with {request.key}")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if self.command != "HEAD":
            for piece in (*pieces, b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def log_message(self, *_: object) -> None:
        """Requests are recorded, not printed."""


def hunt_command() -> str:
    """The command that the models ask for: ``hunt.py`` on one line, because aider runs each line by itself."""
    script = base64.b64encode(Path(__file__).with_name("hunt.py").read_bytes()).decode()
    return f"python3 -c \"import base64; exec(base64.b64decode('{script}'))\""
