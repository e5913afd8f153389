"""One request and its answer, the same over HTTP/1.1 and HTTP/2, and the HTTP/1.1 side (RFC 9112).

Lenient on purpose where that lets a hostile request arrive and be recorded; nothing here checks what a proxy
should have checked.
"""

from __future__ import annotations

import asyncio
import http
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

Headers = list[tuple[bytes, bytes]]
_PIECE = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``target`` is the request target as it came; ``headers`` in order, names in lower case."""

    version: str
    method: str
    target: str
    headers: Headers
    head: bytes

    @property
    def path(self) -> str:
        return self.target.split("?", 1)[0]

    @property
    def query(self) -> dict[str, str]:
        _, _, query = self.target.partition("?")
        return dict(parse_qsl(query, keep_blank_values=True))

    def header(self, name: bytes) -> bytes | None:
        """The first value of header ``name`` (lower case)."""
        return next((value for key, value in self.headers if key == name), None)


class Exchange(ABC):
    """A request, its body as it comes in, and the answer: one ``write``, one chunk or frame."""

    request: Request

    @abstractmethod
    def body(self) -> AsyncIterator[bytes]:
        """The pieces of the request's body."""

    @abstractmethod
    async def start(self, status: int, headers: Headers, length: int | None = None) -> None:
        """Send the status and headers; without ``length`` the body's end is told by the framing."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send a piece of the body and flush it."""

    @abstractmethod
    async def end(self, trailers: Headers | None = None) -> None:
        """Finish the answer."""

    async def read_all(self) -> bytes:
        return b"".join([piece async for piece in self.body()])


Handle = Callable[[Exchange], Awaitable[None]]


class Http1Exchange(Exchange):
    """``raw`` gives up HTTP: the streams are the handler's, and the connection ends after it."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.reader = reader
        self.writer = writer
        self.started = False
        self.done = False
        self._chunked = False
        self._unread = True

    async def body(self) -> AsyncIterator[bytes]:
        self._unread = False
        if (self.request.header(b"expect") or b"").lower() == b"100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"chunked" in (self.request.header(b"transfer-encoding") or b"").lower():
            async for piece in self._chunks():
                yield piece
            return
        left = int(self.request.header(b"content-length") or b"0")
        while left:
            piece = await self.reader.read(min(left, _PIECE))
            if not piece:
                raise EOFError("body cut off")
            left -= len(piece)
            yield piece

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if size == 0:
                while await self.reader.readuntil(b"\r\n") != b"\r\n":
                    continue
                return
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)

    async def start(self, status: int, headers: Headers, length: int | None = None) -> None:
        lines = [f"HTTP/1.1 {status} {_reason(status)}".encode()]
        lines += [name + b": " + value for name, value in headers]
        bodiless = status in (101, 204, 304) or status < 200
        if length is not None:
            lines.append(f"content-length: {length}".encode())
        elif not bodiless:
            lines.append(b"transfer-encoding: chunked")
        self._chunked = length is None and not bodiless and self.request.method != "HEAD"
        self.started = True
        self.writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
        await self.writer.drain()

    async def write(self, data: bytes) -> None:
        if not data or self.request.method == "HEAD":
            return
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        await self.writer.drain()

    async def end(self, trailers: Headers | None = None) -> None:
        if self._chunked:
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in trailers or [])
            self.writer.write(b"0\r\n" + lines + b"\r\n")
        await self.writer.drain()
        self.done = True

    async def finish(self) -> bool:
        """Read what the handler left of the body; whether the connection may carry another request."""
        if self._unread:
            async for _ in self.body():
                continue
        return self.done and (self.request.header(b"connection") or b"").lower() != b"close"


async def serve_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handle) -> None:
    """Answer the requests of one connection until it ends."""
    more = True
    while more:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        exchange = Http1Exchange(_parse(head), reader, writer)
        await handle(exchange)
        more = exchange.started and exchange.done and await exchange.finish()


def _parse(head: bytes) -> Request:
    first, *lines = head[:-4].split(b"\r\n")
    method, target, _version = first.split(b" ", 2)
    pairs = [line.partition(b":") for line in lines]
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    return Request(
        version="1.1",
        method=method.decode("latin-1"),
        target=target.decode("latin-1"),
        headers=headers,
        head=head,
    )


def _reason(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
