"""The server's side of a WebSocket (RFC 6455), without extensions."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass

from servers.http import Headers, Http1Exchange

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    opcode: int
    payload: bytes


def accept_headers(exchange: Http1Exchange) -> Headers:
    """What a 101 answer carries."""
    key = exchange.request.header(b"sec-websocket-key") or b""
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    return [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", accept)]


async def read_frame(exchange: Http1Exchange) -> Frame:
    """The next frame, unmasked; fragments come one by one."""
    first, second = await exchange.reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", await exchange.reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", await exchange.reader.readexactly(8))
    mask = await exchange.reader.readexactly(4) if second & 0x80 else bytes(4)
    data = await exchange.reader.readexactly(length)
    payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
    return Frame(opcode=first & 0x0F, payload=payload)


async def send_frame(exchange: Http1Exchange, frame: Frame) -> None:
    """Send one whole message."""
    length = len(frame.payload)
    if length < 126:
        head = struct.pack("!BB", 0x80 | frame.opcode, length)
    elif length < 65_536:
        head = struct.pack("!BBH", 0x80 | frame.opcode, 126, length)
    else:
        head = struct.pack("!BBQ", 0x80 | frame.opcode, 127, length)
    exchange.writer.write(head + frame.payload)
    await exchange.writer.drain()


async def echo(exchange: Http1Exchange, greeting: bytes) -> None:
    """Accept, send ``greeting`` when there is one, then send back what comes until the peer closes."""
    await exchange.start(101, accept_headers(exchange))
    if greeting:
        await send_frame(exchange, Frame(opcode=TEXT, payload=greeting))
    while True:
        frame = await read_frame(exchange)
        if frame.opcode == PING:
            await send_frame(exchange, Frame(opcode=PONG, payload=frame.payload))
        else:
            await send_frame(exchange, frame)
        if frame.opcode == CLOSE:
            return
