"""What a client of another protocol reads when it is refused: an error in its own protocol, with a way on (DESIGN 8).

Sources: PostgreSQL's "Message Formats" (ErrorResponse), MariaDB's "ERR_Packet", RESP2 ("Simple errors"), RFC 4253
sections 4.2, 6 and 11.1 (a disconnect before the key exchange).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from leasehold.node.egress.model import Denied

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_STARTUP_MAX = 10_000
_PATIENCE_S = 10.0
_MYSQL_REFUSED = 1130  # ER_HOST_NOT_PRIVILEGED: what a server says before its greeting
_SSH_BY_APPLICATION = 11


class Refusal:
    """Answers every connection to one unix socket with the same no."""

    def __init__(self, path: Path, scheme: str, denied: Denied) -> None:
        self._path = path
        self._scheme = scheme
        self._message = f"leasehold: {denied.message} ({denied.code}) {denied.hint}"
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._answer, self._path)
        self._path.chmod(0o600)

    def close(self) -> None:
        """No more; idempotent."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            async with asyncio.timeout(_PATIENCE_S):
                if self._scheme == "postgres":
                    await _startup(reader, writer)
                elif self._scheme == "redis":
                    await reader.read(_STARTUP_MAX)
                writer.write(said(self._scheme, self._message))
                await writer.drain()
                if self._scheme == "ssh":
                    await reader.read(_STARTUP_MAX)  # a client that is told before it has spoken shows nothing
        writer.close()


def said(scheme: str, message: str) -> bytes:
    """The message as the protocol says it."""
    text = message.replace("\n", " ").replace("\0", " ").encode()
    if scheme == "postgres":
        fields = b"SFATAL\0VFATAL\0C28000\0M" + text + b"\0\0"
        return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    if scheme == "mysql":
        body = b"\xff" + _MYSQL_REFUSED.to_bytes(2, "little") + text[:512]
        return len(body).to_bytes(3, "little") + b"\0" + body
    if scheme == "redis":
        return b"-ERR " + text.replace(b"\r", b" ") + b"\r\n"
    payload = b"\x01" + _SSH_BY_APPLICATION.to_bytes(4, "big") + _string(text) + _string(b"")
    padding = 8 - (len(payload) + 5) % 8 + 8
    packet = (len(payload) + padding + 1).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding)
    return b"SSH-2.0-Leasehold\r\n" + packet


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read up to the startup message: a client takes no error before it has sent that."""
    while True:
        length = int.from_bytes(await reader.readexactly(4), "big")
        if not 8 <= length <= _STARTUP_MAX:
            raise ValueError("no startup message")
        body = await reader.readexactly(length - 4)
        if int.from_bytes(body[:4], "big") not in (_SSL_REQUEST, _GSS_REQUEST):
            return
        writer.write(b"N")
