"""Who stands on both sides of Envoy in the scrubber's tests: upstreams that answer byte by byte as told, and what a
client reads.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

PATIENCE_S = 10.0

Part = bytes | threading.Event | float
"""Bytes to send at once; or what to wait for, or for how long (seconds), before the next ones."""
Headers = Sequence[tuple[str, str]]


class Upstream1:
    """An HTTP/1.1 server that sends exactly ``parts`` and records exactly what it got."""

    def __init__(self) -> None:
        self.parts: Sequence[Part] = ()
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=_accept, args=(self._listener, self._serve), daemon=True).start()

    def answer(self, *parts: Part) -> None:
        """What the next connection gets; bytes in several parts are sent in several segments."""
        self.requests.clear()
        self.parts = parts

    def close(self) -> None:
        self._listener.close()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                data = connection.recv(65536)
                if not data:
                    return
                request += data
            self.requests.append(request)
            for part in self.parts:
                if isinstance(part, bytes):
                    connection.sendall(part)
                else:
                    _wait(part)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def chunked(*pieces: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> list[bytes]:
    """A response in chunks, one segment for each, so that each may arrive alone."""
    head = b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ntransfer-encoding: chunked\r\n" + headers + b"\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece), b"0\r\n\r\n"]


def sized(body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> bytes:
    """A response with a content-length."""
    return b"HTTP/1.1 %s\r\nconnection: close\r\ncontent-length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)


@dataclass(slots=True)
class Script2:
    """What an HTTP/2 upstream does: each piece is one DATA frame; ``end``: where END_STREAM stands."""

    pieces: Sequence[Part] = ()
    headers: Headers = ((":status", "200"),)
    trailers: Headers = ()
    end: str = "last"  # last | empty | trailers


class Upstream2:
    """An HTTP/2 server (prior knowledge) that follows its ``script`` for every request."""

    def __init__(self) -> None:
        self.script = Script2()
        self.requests: list[list[tuple[str, str]]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=_accept, args=(self._listener, self._serve), daemon=True).start()

    def answer(self, script: Script2) -> None:
        self.requests.clear()
        self.script = script

    def close(self) -> None:
        self._listener.close()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_outbound_headers=False)
        session = h2.connection.H2Connection(config)
        session.initiate_connection()
        connection.sendall(session.data_to_send())
        with connection:
            while data := connection.recv(65536):
                for event in session.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.requests.append([(str(name), str(value)) for name, value in event.headers])
                    if isinstance(event, h2.events.StreamEnded):
                        self._play(session, connection, event.stream_id)
                connection.sendall(session.data_to_send())

    def _play(self, session: h2.connection.H2Connection, connection: socket.socket, stream: int) -> None:
        script = self.script
        session.send_headers(stream, list(script.headers), end_stream=not script.pieces and script.end == "last")
        pieces = list(script.pieces)
        for number, piece in enumerate(pieces):
            connection.sendall(session.data_to_send())
            if not isinstance(piece, bytes):
                _wait(piece)
                continue
            last = number == len(pieces) - 1 and script.end == "last"
            session.send_data(stream, piece, end_stream=last)
        if script.end == "empty":
            session.send_data(stream, b"", end_stream=True)
        elif script.end == "trailers":
            session.send_headers(stream, list(script.trailers), end_stream=True)
        connection.sendall(session.data_to_send())


def _wait(part: threading.Event | float) -> None:
    if isinstance(part, float):
        time.sleep(part)
    else:
        part.wait(PATIENCE_S)


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    def guarded(connection: socket.socket) -> None:
        try:
            serve(connection)
        except OSError:
            connection.close()  # Envoy went away, or this is the end of the test

    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=guarded, args=(connection,), daemon=True).start()


@dataclass(slots=True)
class Response:
    """What a client received. ``pieces``: body by chunk or frame; ``raw``: all bytes of an HTTP/1.1 connection."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    raw: bytes = b""
    ended: str = ""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def header(self, name: str) -> str | None:
        """All values of a header, comma-separated; ``None`` if it is not there."""
        values = [value for key, value in self.headers if key.lower() == name]
        return ", ".join(values) if values else None

    def take(self, event: h2.events.Event, session: h2.connection.H2Connection) -> None:
        """One event of an HTTP/2 client."""
        if isinstance(event, h2.events.ResponseReceived):
            self.headers = [(str(name), str(value)) for name, value in event.headers]
            self.status = int(self.headers[0][1])
        elif isinstance(event, h2.events.DataReceived):
            self.pieces.append(event.data)
            session.acknowledge_received_data(event.flow_controlled_length, 1)
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.StreamEnded):
            self.ended = "clean"
        elif isinstance(event, h2.events.StreamReset):
            self.ended = "reset"


def parse(raw: bytes, method: bytes = b"GET") -> Response:
    """An HTTP/1.1 response, with the chunks as they came."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    response = Response(status=int(lines[0].split()[1]), headers=headers, raw=raw)
    if response.header("transfer-encoding") != "chunked" or method == b"HEAD":
        response.pieces = [rest]
        return response
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            response.ended = "clean"
            break
        response.pieces.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return response


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    """All bytes up to and with ``wanted``; fails when nothing comes for some seconds."""
    data = b""
    while wanted not in data:
        more = connection.recv(65536)
        assert more, f"the connection ended before {wanted!r}: {data!r}"
        data += more
    return data


def frame(payload: bytes, *, opcode: int = 1, final: bool = True, flags: int = 0) -> bytes:
    """A WebSocket frame of a server (RFC 6455, 5.2)."""
    first = bytes([(0x80 if final else 0) | flags | opcode])
    if len(payload) < 126:
        return first + bytes([len(payload)]) + payload
    return first + b"\x7e" + struct.pack(">H", len(payload)) + payload


def message(payload: bytes, *, compressed: bool = False) -> bytes:
    """A gRPC message with its prefix."""
    return bytes([compressed]) + struct.pack(">I", len(payload)) + payload


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(65536):
        data += more
    return data


def settle(condition: Callable[[], bool]) -> bool:
    """Whether ``condition`` comes true within some seconds."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True
