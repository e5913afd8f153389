"""One client's connection to the daemon: frames in and out on the event loop, descriptors included."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from typing import Any

from leasehold.core import wire
from leasehold.core.limits import LIMITS


class Connection:
    """Reads and writes frames of :mod:`leasehold.core.wire` without blocking the loop."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._writing = asyncio.Lock()

    async def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and the descriptors that came with it; ``None`` at the end of the stream."""
        head = await self._exactly(4)
        if head is None:
            return None
        (length,) = struct.unpack("!I", head)
        if length > LIMITS.message_bytes_max:
            return None
        body = await self._exactly(length)
        if body is None:
            return None
        message = json.loads(body)
        if not isinstance(message, dict):
            return None
        fds, self._fds = self._fds, []
        return message, fds

    async def send(self, message: dict[str, Any]) -> None:
        """Send one message; a client that has gone is no error here, its end is seen by ``receive``."""
        async with self._writing:
            try:
                await asyncio.get_running_loop().sock_sendall(self._sock, wire.encode(message))
            except OSError:
                return

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self._sock.close()

    async def _exactly(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            part, fds = await self._read()
            self._fds += fds
            if not part:
                return None
            self._buffer += part
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _read(self) -> tuple[bytes, list[int]]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data, fds = wire.read(self._sock, 65536)
            except BlockingIOError:
                readable = loop.create_future()
                loop.add_reader(self._sock, _wake, readable)
                try:
                    await readable
                finally:
                    loop.remove_reader(self._sock)
            except OSError:
                return b"", []
            else:
                return data, fds


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
