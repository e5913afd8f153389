"""Answers DNS queries (RFC 1035): the names of the compartment exist, nothing else does, and nobody else is asked."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_A, _IN = 1, 1
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP = 0, 1, 3, 4
_TTL_S = 60


def answer_query(query: bytes, names: Mapping[str, str], denied: Callable[[str], None]) -> bytes:
    """The reply to one query; empty for what deserves none. ``names``: canonical name to IPv4 address."""
    if len(query) < 12:
        return b""
    number, flags, questions = struct.unpack_from("!HHH", query)
    if flags & 0x8000:
        return b""
    if flags >> 11 & 15:
        return _reply(number, flags, _NOTIMP, b"", b"")
    parsed = _question(query) if questions == 1 else None
    if parsed is None:
        return _reply(number, flags, _FORMERR, b"", b"")
    name, kind, end = parsed
    question = query[12:end]
    address = names.get(name)
    if address is None:
        denied(name)
        return _reply(number, flags, _NXDOMAIN, question, b"")
    record = b""
    if kind == _A:
        record = b"\xc0\x0c" + struct.pack("!HHIH4B", _A, _IN, _TTL_S, 4, *map(int, address.split(".")))
    return _reply(number, flags, _NOERROR, question, record)


def _reply(number: int, flags: int, code: int, question: bytes, record: bytes) -> bytes:
    # A response, authoritative, recursion as it was desired and available.
    flags = 0x8480 | flags & 0x0100 | code
    return struct.pack("!HHHHHH", number, flags, bool(question), bool(record), 0, 0) + question + record


def _question(query: bytes) -> tuple[str, int, int] | None:
    """Name (lower case), type and where the question ends; ``None`` when it is malformed."""
    labels, at = [], 12
    while at < len(query) and query[at]:
        length = query[at]
        if length > 63 or at + 1 + length >= len(query) or at - 12 > 255:
            return None
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    if at + 5 > len(query):
        return None
    kind, _ = struct.unpack_from("!HH", query, at + 1)
    return ".".join(labels), kind, at + 5
