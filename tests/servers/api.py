"""An HTTP API that records raw bytes: HTTP/1.1 and HTTP/2 by ALPN, and HTTP/1.1 without TLS on another port.

It accepts its credential as ``Authorization: Bearer``, ``x-api-key``, the password of basic authentication or
``?key=``. Under :data:`PROTECTED` it is needed; the other endpoints reflect what they got in every way that
an upstream may, so that a proxy's scrubbing has something to scrub.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import secrets
import ssl
from collections.abc import Awaitable, Callable

from servers import websocket
from servers.base import Place, Recorder, Upstream
from servers.encodings import COMPRESSIONS, ENCODINGS
from servers.http import Exchange, Headers, Http1Exchange, serve_http1
from servers.http2 import serve_http2
from servers.loop import LoopThread, listen

PROTECTED = ("/repos/", "/v1/", "/user", "/private", "/stream", "/download", "/upload", "/ws")
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain")
_PATTERN = hashlib.shake_256(b"download").digest(65_536)


def pattern(offset: int, length: int) -> bytes:
    """``length`` bytes of the endless download from ``offset`` (RFC 9110 ranges slice it)."""
    start = offset % len(_PATTERN)
    copies = (start + length) // len(_PATTERN) + 1
    return (_PATTERN * copies)[start : start + length]


class ApiServer(Upstream):
    """``recorded()``: the decrypted bytes of each connection, and the fields of each HTTP/2 request as text.

    (HPACK compresses them, so what is looked for would not be found in the bytes.)
    """

    def __init__(self, place: Place, loop: LoopThread, *, names: tuple[str, ...] = (), plain_port: int = 0) -> None:
        super().__init__(place)
        self.credential = f"sk/{secrets.token_urlsafe(24)}+="
        self.names = (place.host, *names)
        self.plain_port = plain_port
        self._loop = loop
        self._recorder = Recorder()
        self._servers: list[asyncio.Server] = []
        context = place.ca.server_context(self.names, alpn=("h2", "http/1.1"))
        loop.run(self._open(context))

    def recorded(self) -> list[bytes]:
        return self._recorder.entries()

    def received(self, port: int) -> list[bytes]:
        """Like :meth:`recorded`, only what came in on ``port``."""
        return self._recorder.entries(port)

    def clear(self) -> None:
        self._recorder.clear()

    def close(self) -> None:
        while self._servers:
            self._loop.loop.call_soon_threadsafe(self._servers.pop().close)

    async def _open(self, context: ssl.SSLContext) -> None:
        self._servers.append(await listen(self._serve, self.address, self.port, self._recorder, context))
        if self.plain_port:
            self._servers.append(await listen(self._serve, self.address, self.plain_port, self._recorder, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        serve = serve_http2 if tls is not None and tls.selected_alpn_protocol() == "h2" else serve_http1
        await serve(reader, writer, self.answer)

    async def answer(self, exchange: Exchange) -> None:
        """Answer one request; the endpoints are the keys of the table below."""
        request = exchange.request
        if request.version == "2":
            self._recorder.append(self._recorder.connection(self.port), request.head)
        first = "/" + request.path.lstrip("/").split("/", 1)[0]
        if request.method == "TRACE":
            await _send(exchange, 200, request.head, [(b"content-type", b"message/http")])
        elif any(request.path.startswith(prefix) for prefix in PROTECTED) and not carriers(exchange, self.credential):
            await _send(exchange, 401, _dump({"authenticated": False}), [_JSON, (b"www-authenticate", b"Bearer")])
        else:
            await _ENDPOINTS.get(first, _resource)(exchange, self.credential)


def carriers(exchange: Exchange, credential: str) -> list[str]:
    """In which ways the request carried the right credential."""
    request = exchange.request
    scheme, _, value = (request.header(b"authorization") or b"").partition(b" ")
    offered = {
        "bearer": value if scheme.lower() == b"bearer" else b"",
        "basic": _password(value) if scheme.lower() == b"basic" else b"",
        "x-api-key": request.header(b"x-api-key") or b"",
        "query": request.query.get("key", "").encode("utf-8", "surrogateescape"),
    }
    return [name for name, got in offered.items() if hmac.compare_digest(got, credential.encode())]


def _password(value: bytes) -> bytes:
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


async def _send(exchange: Exchange, status: int, body: bytes, headers: Headers) -> None:
    """A whole body, or the slice of it that ``Range: bytes=a-b`` asks for."""
    wanted = _range(exchange, len(body))
    if wanted and status == 200:
        start, stop = wanted
        headers = [*headers, (b"content-range", f"bytes {start}-{stop - 1}/{len(body)}".encode())]
        status, body = 206, body[start:stop]
    await exchange.start(status, headers, len(body))
    await exchange.write(body)
    await exchange.end()


def _range(exchange: Exchange, size: int) -> tuple[int, int] | None:
    value = (exchange.request.header(b"range") or b"").decode("latin-1")
    if not value.startswith("bytes=") or "," in value:
        return None
    first, _, last = value.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


def _dump(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _reflection(exchange: Exchange, encode: Callable[[bytes], bytes]) -> bytes:
    """Every header and query value, and the credential inside it alone, in one encoding; a line each."""
    request = exchange.request
    values = [(name.decode("latin-1"), value) for name, value in request.headers]
    values += [(f"?{name}", value.encode()) for name, value in request.query.items()]
    lines = []
    for name, value in values:
        lines.append(name.encode() + b": " + encode(value))
        scheme, _, token = value.partition(b" ")
        if name == "authorization" and token:
            lines.append(name.encode() + b"#token: " + encode(token))
            if scheme.lower() == b"basic":
                lines.append(name.encode() + b"#password: " + encode(_password(token)))
    return b"\n".join(lines) + b"\n"


async def _resource(exchange: Exchange, credential: str) -> None:
    """What an honest API would say: what was done, and whether it knew the caller."""
    body = await exchange.read_all()
    request = exchange.request
    found = carriers(exchange, credential)
    reply = {
        "method": request.method,
        "path": request.path,
        "http": request.version,
        "authenticated": bool(found),
        "carriers": found,
        "bytes": len(body),
    }
    await _send(exchange, 200, _dump(reply), [_JSON])


async def _echo(exchange: Exchange, credential: str) -> None:
    """The whole request, raw, as JSON."""
    body = await exchange.read_all()
    request = exchange.request
    reply = {
        "method": request.method,
        "target": request.target,
        "http": request.version,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
        "body": body.decode("latin-1"),
        "authenticated": bool(carriers(exchange, credential)),
    }
    await _send(exchange, 200, _dump(reply), [_JSON])


async def _reflect(exchange: Exchange, credential: str) -> None:
    """``?as=`` an encoding (default raw): headers as text. Sent with its length; ranges slice it."""
    await exchange.read_all()
    body = _reflection(exchange, ENCODINGS[exchange.request.query.get("as", "raw")])
    await _send(exchange, 200, body, [_TEXT])


async def _reflect_split(exchange: Exchange, credential: str) -> None:
    """``?as=&at=N&delay_ms=``: the same in pieces of ``at`` bytes (0: 1, 2, 3, 5, 8 …), flushed apart."""
    query = exchange.request.query
    await exchange.read_all()
    body = _reflection(exchange, ENCODINGS[query.get("as", "raw")])
    step, other = int(query.get("at", "1")), 2
    growing = step == 0
    step = step or 1
    await exchange.start(200, [_TEXT])
    while body:
        await exchange.write(body[:step])
        await asyncio.sleep(int(query.get("delay_ms", "0")) / 1000)
        body = body[step:]
        if growing:
            step, other = other, step + other
    await exchange.end()


async def _reflect_headers(exchange: Exchange, credential: str) -> None:
    """Each encoding in a response header of its own, in a cookie and a redirect's target, and in trailers."""
    await exchange.read_all()
    request = exchange.request
    value = request.header(b"authorization") or request.header(b"x-api-key") or b""
    token = value.partition(b" ")[2] or value
    headers = [(f"x-reflect-{name}".encode(), encode(token)) for name, encode in ENCODINGS.items()]
    headers += [
        (b"x-reflect-whole", value),
        (b"set-cookie", b"session=" + token),
        (b"location", b"/?t=" + token),
    ]
    await exchange.start(200, [_TEXT, *headers, (b"trailer", b"x-reflect-trailer")])
    await exchange.write(b"see the headers\n")
    await exchange.end([(b"x-reflect-trailer", token)])


async def _compressed(exchange: Exchange, credential: str) -> None:
    """``/gzip``, ``/deflate``, ``/br``, ``/zstd``: the reflection compressed, whatever the client accepts."""
    await exchange.read_all()
    query = exchange.request.query
    name = exchange.request.path.strip("/").split("/")[0]
    plain = _reflection(exchange, ENCODINGS[query.get("as", "raw")])
    await _send(exchange, 200, COMPRESSIONS[name](plain), [_TEXT, (b"content-encoding", name.encode())])


async def _stream(exchange: Exchange, credential: str) -> None:
    """Server-sent events: ``?events=N&interval_ms=&pad=&reflect=1``."""
    query = exchange.request.query
    pad = "x" * int(query.get("pad", "0"))
    secret = credential if query.get("reflect") else ""
    await exchange.start(200, [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")])
    for number in range(int(query.get("events", "5"))):
        await exchange.write(f"id: {number}\ndata: event {number} {secret}{pad}\n\n".encode())
        await asyncio.sleep(int(query.get("interval_ms", "10")) / 1000)
    await exchange.end()


async def _download(exchange: Exchange, credential: str) -> None:
    """``?bytes=N`` of :func:`pattern`, with its length; ranges work; ``&chunked=1`` hides the length."""
    query = exchange.request.query
    size = int(query.get("bytes", "1024"))
    wanted = _range(exchange, size)
    start, stop = wanted or (0, size)
    headers: Headers = [(b"content-type", b"application/octet-stream"), (b"accept-ranges", b"bytes")]
    if wanted:
        headers.append((b"content-range", f"bytes {start}-{stop - 1}/{size}".encode()))
    await exchange.start(206 if wanted else 200, headers, None if query.get("chunked") else stop - start)
    while start < stop:
        piece = pattern(start, min(65_536, stop - start))
        await exchange.write(piece)
        start += len(piece)
    await exchange.end()


async def _upload(exchange: Exchange, credential: str) -> None:
    """Count and hash the body."""
    digest, count = hashlib.sha256(), 0
    async for piece in exchange.body():
        digest.update(piece)
        count += len(piece)
    await _send(exchange, 200, _dump({"bytes": count, "sha256": digest.hexdigest()}), [_JSON])


async def _status(exchange: Exchange, credential: str) -> None:
    """``/status/N``."""
    await exchange.read_all()
    status = int(exchange.request.path.rsplit("/", 1)[-1])
    await exchange.start(status, [], None if status in (204, 304) else 0)
    await exchange.end()


async def _redirect(exchange: Exchange, credential: str) -> None:
    """``?to=URL&status=``."""
    query = exchange.request.query
    await exchange.read_all()
    await _send(exchange, int(query.get("status", "302")), b"", [(b"location", query.get("to", "/").encode())])


async def _slow(exchange: Exchange, credential: str) -> None:
    """``?seconds=S`` before the answer."""
    await exchange.read_all()
    await asyncio.sleep(float(exchange.request.query.get("seconds", "1")))
    await _send(exchange, 200, b"at last\n", [_TEXT])


async def _websocket(exchange: Exchange, credential: str) -> None:
    """An echo; ``?reflect=1`` greets with the credential."""
    if not isinstance(exchange, Http1Exchange) or exchange.request.header(b"sec-websocket-key") is None:
        await _send(exchange, 426, b"WebSocket only\n", [_TEXT, (b"upgrade", b"websocket")])
        return
    await websocket.echo(exchange, credential.encode() if exchange.request.query.get("reflect") else b"")


async def _upgrade(exchange: Exchange, credential: str) -> None:
    """``?status=200``: answer an upgrade with that status, then echo raw bytes as if it had switched."""
    if not isinstance(exchange, Http1Exchange):
        await _send(exchange, 400, b"HTTP/1.1 only\n", [_TEXT])
        return
    status = int(exchange.request.query.get("status", "200"))
    token = exchange.request.header(b"upgrade") or b"none"
    line = b"HTTP/1.1 %d Whatever\r\nconnection: Upgrade\r\nupgrade: %b\r\n\r\n" % (status, token)
    exchange.writer.write(line)
    while data := await exchange.reader.read(65_536):
        exchange.writer.write(b"echo:" + data)
        await exchange.writer.drain()


_ENDPOINTS: dict[str, Callable[[Exchange, str], Awaitable[None]]] = {
    "/echo": _echo,
    "/reflect": _reflect,
    "/reflect-split": _reflect_split,
    "/reflect-headers": _reflect_headers,
    **{f"/{name}": _compressed for name in COMPRESSIONS},
    "/stream": _stream,
    "/download": _download,
    "/upload": _upload,
    "/status": _status,
    "/redirect": _redirect,
    "/slow": _slow,
    "/ws": _websocket,
    "/upgrade": _upgrade,
}
