"""Messages between ``leasehold`` and its broker on one host: length-prefixed JSON over a unix stream socket.

A frame is a 4-byte big-endian length and a JSON object. Descriptors travel with the first byte of a frame.
"""

from __future__ import annotations

import json
import os
import socket
import struct

from leasehold.core.limits import LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_FDS_MAX = 8
_INT = struct.calcsize("i")


def encode(message: dict[str, Any]) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > LIMITS.message_bytes_max:
        raise ValueError(f"message of {len(body)} bytes, at most {LIMITS.message_bytes_max}")
    return struct.pack("!I", len(body)) + body


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message; ``fds`` are duplicated into the receiver."""
    data = encode(message)
    sent = socket.send_fds(sock, [data], list(fds)) if fds else 0
    if sent < len(data):
        # Not for nothing: a peer that has answered and left already makes even an empty send fail.
        sock.sendall(data[sent:])


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Receive one message and its descriptors (close-on-exec); ``None`` at the end of the stream."""
    head, fds = _exactly(sock, 4)
    if not head:
        return None
    (length,) = struct.unpack("!I", head)
    if length > LIMITS.message_bytes_max:
        _close(fds)
        raise ValueError(f"message of {length} bytes, at most {LIMITS.message_bytes_max}")
    body, more = _exactly(sock, length)
    if len(body) != length:
        _close(fds + more)
        return None
    message = json.loads(body)
    if not isinstance(message, dict):
        _close(fds + more)
        raise ValueError("message is not an object")
    return message, fds + more


def read(sock: socket.socket, count: int) -> tuple[bytes, list[int]]:
    """Up to ``count`` bytes and the descriptors with them, close-on-exec; ``ValueError`` when there are too many."""
    # socket.recv_fds drops its flags argument, so the descriptors would be inherited by the next exec.
    data, ancillary, flags, _ = sock.recvmsg(count, socket.CMSG_SPACE(_FDS_MAX * _INT), socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += struct.unpack(f"{len(content) // _INT}i", content[: len(content) - len(content) % _INT])
    if flags & socket.MSG_CTRUNC:
        _close(fds)
        raise ValueError("more descriptors than a message may carry")
    return data, fds


def _exactly(sock: socket.socket, count: int) -> tuple[bytes, list[int]]:
    data, fds = b"", []
    while len(data) < count:
        part, got = read(sock, count - len(data))
        fds += got
        if not part:
            _close(fds)
            return b"", []
        data += part
    return data, fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
