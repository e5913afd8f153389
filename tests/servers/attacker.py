"""An upstream that an attacker owns: records raw bytes on any port, with and without TLS."""

from __future__ import annotations

import asyncio
import ssl

from servers.base import Place, Recorder, Upstream
from servers.loop import LoopThread, listen

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 7\r\nx-owner: attacker\r\n\r\ngotcha\n"


class Attacker(Upstream):
    """Listens with a valid certificate for its own name on ``port``; :meth:`listen` opens more.

    Each piece that holds the end of a request's head is answered with a 200.
    """

    def __init__(self, place: Place, loop: LoopThread) -> None:
        super().__init__(place)
        self._loop = loop
        self._recorder = Recorder()
        self._servers: list[asyncio.Server] = []
        self.listen(self.port, names=(place.host,))

    def listen(
        self,
        port: int,
        *,
        names: tuple[str, ...] = (),
        tls: bool = True,
        self_signed: bool = False,
        address: str = "",
    ) -> None:
        """Open ``port`` on ``address`` (its own when empty), with a leaf for ``names`` or without TLS."""
        context: ssl.SSLContext | None = None
        if tls:
            names = names or (self.host,)
            context = self.place.ca.server_context(names, alpn=("http/1.1",), self_signed=self_signed)
        opening = listen(_answer, address or self.address, port, self._recorder, context)
        self._servers.append(self._loop.run(opening))

    def recorded(self) -> list[bytes]:
        return self._recorder.entries()

    def received(self, port: int) -> list[bytes]:
        """Like :meth:`recorded`, only what came in on ``port``."""
        return self._recorder.entries(port)

    @property
    def contacts(self) -> int:
        """Connections since the last :meth:`clear`, silent ones too."""
        return self._recorder.contacts()

    def clear(self) -> None:
        self._recorder.clear()

    def close(self) -> None:
        while self._servers:
            self._loop.loop.call_soon_threadsafe(self._servers.pop().close)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        if b"\r\n\r\n" in data:
            writer.write(_ANSWER)
            await writer.drain()
        if b"connection: close" in data.lower():
            return
