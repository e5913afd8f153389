"""Redis: the relay logs in, and then takes whatever password a client begins with.

Only the first commands are looked at; from then on the bytes pass by. Envoy has a filter that logs in, but speaks
neither RESP3, which clients ask for by default, nor publish and subscribe. Source: Redis, "RESP protocol spec", AUTH,
HELLO.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

_FIRST_MAX = 16384
_WORDS_MAX = 16
_LINE_MAX = 512

Met = tuple[socket.socket, socket.socket, bytes]


class _Other(Exception):
    """Not one of the commands that begin a connection; nothing has to be done about it."""


def meet(told: dict[str, Any], client: socket.socket, _context: ssl.SSLContext | None) -> Met | None:
    """Log in, then answer what the client begins with; ``None`` when the server did not let us in.

    ``told``: ``upstream``, a socket that leads to the server, ``username`` and ``password``.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.settimeout(client.gettimeout())
    server.connect(told["upstream"])
    server.sendall(_command(b"AUTH", told["username"].encode(), told["password"].encode()))
    if _line(server) != b"+OK\r\n":
        client.sendall(b"-ERR leasehold: the server does not take the task's user\r\n")
        return None
    client.settimeout(None)  # it may connect long before it asks
    return client, server, _begun(client)


def _begun(client: socket.socket) -> bytes:
    """What the client begins with, without its passwords, as the server is to get it."""
    data = b""
    while True:
        part = client.recv(_FIRST_MAX)
        data += part
        try:
            while data:
                words, rest = _words(data)
                name = words[0].upper()
                if name == b"AUTH" and len(words) in (2, 3):
                    client.sendall(b"+OK\r\n")
                    data = rest
                elif name == b"HELLO":
                    return _command(*_without_password(words)) + rest
                else:
                    return data
        except _Other:
            return data
        except EOFError:
            if len(data) > _FIRST_MAX:
                return data
        if not part:
            return data  # it has left


def _without_password(words: list[bytes]) -> list[bytes]:
    """``HELLO [protocol [AUTH user password] [SETNAME name]]``."""
    at = next((i for i, word in enumerate(words) if i >= 2 and word.upper() == b"AUTH"), len(words))
    return words[:at] + words[at + 3 :]


def _words(data: bytes) -> tuple[list[bytes], bytes]:
    """The first command and what follows it; ``EOFError`` when more is needed."""
    if data[:1] != b"*":
        raise _Other  # an inline command, typed by hand
    count, rest = _number(data)
    if not 1 <= count <= _WORDS_MAX:
        raise _Other
    words = []
    for _ in range(count):
        if rest[:1] not in (b"$", b""):
            raise _Other
        length, rest = _number(rest)
        if not 0 <= length <= _FIRST_MAX:
            raise _Other
        if len(rest) < length + 2:
            raise EOFError
        words.append(rest[:length])
        rest = rest[length + 2 :]
    return words, rest


def _number(data: bytes) -> tuple[int, bytes]:
    line, end, rest = data.partition(b"\r\n")
    if not end:
        raise EOFError
    if not line[1:].isdigit():
        raise _Other
    return int(line[1:]), rest


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _line(server: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_MAX:
        part = server.recv(1)
        if not part:
            break
        line += part
    return line
