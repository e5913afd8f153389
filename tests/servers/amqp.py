"""As much of an AMQP 0-9-1 client as the tests need: log in, ask, and see whether the server still answers."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import NamedTuple

_TIMEOUT_S = 10.0
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = b"\xce"
_START, _TUNE, _OPEN_OK, _CLOSE, _CLOSE_OK = (10, 10), (10, 30), (10, 41), (10, 50), (10, 51)
_CHANNEL_OPEN_OK, _CHANNEL_CLOSE = (20, 11), (20, 40)
_CONFIRMED = (85, 11)


class AmqpRefused(Exception):
    """The server closed the connection or the channel, with that code and text; 0 when it just hung up."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code


class _Frame(NamedTuple):
    kind: int
    channel: int
    payload: bytes


class AmqpClient:
    """One connection over TLS, and one channel of it; what is refused raises :class:`AmqpRefused`."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, user: str, password: str, vhost: str) -> None:
        raw = socket.create_connection(address, timeout=_TIMEOUT_S)
        self._sock = context.wrap_socket(raw, server_hostname=address[0])
        self._buffer = b""
        try:
            self._sock.sendall(b"AMQP\0\0\x09\x01")
            self._expect(_START)
            login = _long(f"\0{user}\0{password}".encode())
            self._method(0, (10, 11), _table(_CAPABLE) + _short("PLAIN") + login + _short("en_US"))
            tune = self._expect(_TUNE)
            channels, frame, _ = struct.unpack("!HIH", tune[:8])
            self._method(0, (10, 31), struct.pack("!HIH", channels, frame, 0))
            self._method(0, (10, 40), _short(vhost) + _short("") + b"\0")
            self._expect(_OPEN_OK)
            self._method(1, (20, 10), _short(""))
            self._expect(_CHANNEL_OPEN_OK)
        except BaseException:
            self.close()
            raise

    def declare(self, queue: str) -> None:
        """Make a queue that goes with the connection."""
        self._method(1, (50, 10), b"\0\0" + _short(queue) + b"\x0c" + _table(b""))
        self._expect((50, 11))

    def delete(self, queue: str) -> None:
        """Remove a queue; also one that is not there."""
        self._method(1, (50, 40), b"\0\0" + _short(queue) + b"\0")
        self._expect((50, 41))

    def bind(self, queue: str, exchange: str) -> None:
        """Let what comes to the exchange into the queue."""
        self._method(1, (50, 20), b"\0\0" + _short(queue) + _short(exchange) + _short("#") + b"\0" + _table(b""))
        self._expect((50, 21))

    def publish(self, exchange: str, key: str, body: bytes) -> None:
        """Send one message, and wait until the server has taken it."""
        self._method(1, (85, 10), b"\0")
        self._expect(_CONFIRMED)
        self._method(1, (60, 40), b"\0\0" + _short(exchange) + _short(key) + b"\0")
        self._frame(_HEADER, 1, struct.pack("!HHQH", 60, 0, len(body), 0))
        self._frame(_BODY, 1, body)
        self._expect((60, 80))

    def get(self, queue: str) -> bytes | None:
        """Take one message; ``None`` when there is none."""
        self._method(1, (60, 70), b"\0\0" + _short(queue) + b"\x01")
        method, _ = self._next()
        if method == (60, 72):
            return None
        size = struct.unpack("!Q", self._read_frame().payload[4:12])[0]
        body = b""
        while len(body) < size:
            body += self._read_frame().payload
        return body

    def alive(self) -> bool:
        """Whether the server still answers on it: closing a channel that is not open by then needs an answer."""
        try:
            self._method(1, (20, 20), b"\x01")
            self._expect((20, 21))
        except (AmqpRefused, OSError):
            return False
        return True

    def close(self) -> None:
        """Hang up; idempotent."""
        self._sock.close()

    def _expect(self, wanted: tuple[int, int]) -> bytes:
        method, arguments = self._next()
        if method != wanted:
            raise AssertionError(f"expected {wanted}, found {method}")
        return arguments

    def _next(self) -> tuple[tuple[int, int], bytes]:
        frame = self._read_frame()
        while frame.kind != _METHOD:
            frame = self._read_frame()
        at = struct.unpack("!HH", frame.payload[:4])
        method, arguments = (at[0], at[1]), frame.payload[4:]
        if method in (_CLOSE, _CHANNEL_CLOSE):
            code, length = struct.unpack("!HB", arguments[:3])
            raise AmqpRefused(code, arguments[3 : 3 + length].decode())
        return method, arguments

    def _read_frame(self) -> _Frame:
        kind, channel, size = struct.unpack("!BHI", self._exactly(7))
        payload = self._exactly(size + 1)
        return _Frame(kind, channel, payload[:-1])

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._sock.recv(65536)
            if not data:
                raise AmqpRefused(0, "the server hung up")
            self._buffer += data
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _method(self, channel: int, method: tuple[int, int], arguments: bytes) -> None:
        self._frame(_METHOD, channel, struct.pack("!HH", *method) + arguments)

    def _frame(self, kind: int, channel: int, payload: bytes) -> None:
        self._sock.sendall(struct.pack("!BHI", kind, channel, len(payload)) + payload + _END)


def _table(data: bytes) -> bytes:
    return _long(data)


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def _long(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


_CAPABLE = _short("capabilities") + b"F" + _table(_short("authentication_failure_close") + b"t\x01")
"""Who is refused is told so, instead of being hung up on."""
