"""The head of a request to the explicit proxy (RFC 9110, 9112): where it wants to go, and what it is answered."""

from __future__ import annotations

import json
import re

from leasehold.core.names import canonical_host
from leasehold.core.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_CONNECT = re.compile(rb"CONNECT ([!-~]+) HTTP/1\.[01]\Z")
_ABSOLUTE = re.compile(rb"[A-Z]{1,16} http://([!\"$-.0->A-~]+)(?:[/?#][!-~]*)? HTTP/1\.[01]\Z")
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")


@record
class Head:
    """``forward``: bytes that go on to the listener. ``answer``: what the client is told first. ``refused``: why not,
    as status, code and message."""

    host: str = ""
    port: int = 0
    forward: bytes = b""
    answer: bytes = b""
    refused: tuple[int, str, str] | None = None


def read_head(data: bytes, names: Collection[str], ports: Collection[int], limit: int) -> Head | None:
    """Parse what has come so far; ``None`` when the head is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return (
            Head(refused=(431, "headers-too-large", "The request's head is too large.")) if len(data) > limit else None
        )
    first, rest = data[:end].partition(b"\r\n")[0], data[end + 4 :]
    connect, absolute = _CONNECT.match(first), _ABSOLUTE.match(first)
    if connect is None and absolute is None:
        return Head(refused=(400, "request-malformed", "This proxy takes CONNECT and http:// requests."))
    target = (connect or absolute)[1].decode("ascii")  # type: ignore[index]  # one of them matched
    host, _, port_text = target.rpartition(":") if ":" in target else (target, "", "80" if absolute else "")
    try:
        host = canonical_host(host)
    except ValueError:
        return Head(refused=(403, "host-not-allowed", "This is not the name of a host that may be reached."))
    port = int(port_text) if _PORT.match(port_text) else 0
    if host not in names or port not in ports:
        return Head(host=host, refused=(403, "host-not-allowed", f"{host} port {port} may not be reached from here."))
    if connect is None:
        return Head(host=host, port=port, forward=data)
    if rest:
        # Bytes before the answer could be meant for another reader of the same connection.
        return Head(refused=(400, "early-data", "Data before the answer to CONNECT is refused."))
    return Head(host=host, port=port, answer=b"HTTP/1.1 200 OK\r\n\r\n")


def refusal(head: Head) -> bytes:
    """The response to a refused head; the connection is closed behind it."""
    status, code, message = head.refused or (500, "internal", "")
    hint = "Run `leasehold grants`, or ask the operator to add the host under [hosts] allow."
    body = json.dumps({"error": {"code": code, "message": message, "hint": hint}}).encode()
    return (
        f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-leasehold-decision: deny; code={code}\r\nconnection: close\r\n\r\n"
    ).encode() + body
