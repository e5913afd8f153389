"""PostgreSQL: the client's TLS ends here, and the pooler's console cannot be reached.

Source: PostgreSQL, "Message Formats" (SSLRequest, GSSENCRequest, CancelRequest, StartupMessage, ErrorResponse).
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

_SSL, _GSS, _CANCEL, _VERSION_3 = 80877103, 80877104, 80877102, 3
_STARTUP_MAX = 10_000
_CONSOLE = b"pgbouncer"
_ERROR = b"SFATAL\0VFATAL\0C3D000\0Mleasehold: there is no such database\0\0"

Met = tuple[socket.socket, socket.socket, bytes]


def meet(told: dict[str, Any], client: socket.socket, context: ssl.SSLContext | None) -> Met | None:
    """Read up to the startup message, and connect to the pooler; ``None`` when it was refused.

    ``told``: ``upstream``, the pooler's socket. ``ValueError``: it was no startup message.
    """
    while True:
        packet = _packet(client)
        code = int.from_bytes(packet[4:8], "big")
        if code == _SSL and context is not None and not isinstance(client, ssl.SSLSocket):
            client.sendall(b"S")
            client = context.wrap_socket(client, server_side=True)
        elif code in (_SSL, _GSS):
            client.sendall(b"N")
        else:
            break
    if code >> 16 != _VERSION_3 and code != _CANCEL:
        raise ValueError("no startup message")
    if code != _CANCEL and _database(packet[8:]) == _CONSOLE:
        client.sendall(b"E" + (len(_ERROR) + 4).to_bytes(4, "big") + _ERROR)
        client.close()
        return None
    pooler = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    pooler.connect(told["upstream"])
    return client, pooler, packet


def _packet(client: socket.socket) -> bytes:
    """Exactly one packet: what comes after it belongs to somebody else (CVE-2021-23222)."""
    head = _exactly(client, 4)
    length = int.from_bytes(head, "big")
    if not 8 <= length <= _STARTUP_MAX:
        raise ValueError("no startup message")
    return head + _exactly(client, length - 4)


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = client.recv(count - len(data))
        if not part:
            raise ConnectionError("the client has left")
        data += part
    return data


def _database(parameters: bytes) -> bytes:
    """The database of a startup message; without one it is the user's name."""
    words = parameters.split(b"\0")
    given = dict(zip(words[0::2], words[1::2], strict=False))
    return given.get(b"database") or given.get(b"user", b"")
