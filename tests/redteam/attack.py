"""What the rows share: raw requests from inside a compartment, and where the credential may never turn up."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING

from servers.config import CLIENTS
from servers.encodings import find

if TYPE_CHECKING:
    from servers.harness import Leasehold

HOST = "api.forge.test"


def raw(
    lh: Leasehold, *writes: bytes, host: str = HOST, port: int = 443, sni: str | None = HOST, timeout: float = 30
) -> str:
    """Send the bytes from inside; TLS unless ``sni`` is ``None``. What came back, as text."""
    encoded = [base64.b64encode(write).decode() for write in writes]
    command = [sys.executable, str(CLIENTS / "hostile.py"), host, str(port), sni or "-", *encoded]
    done = lh.run(*command, timeout=timeout)
    assert done.returncode == 0, done.stderr
    safe(lh, done.stdout + done.stderr)
    return done.stdout


def http2(lh: Leasehold, *fields: str, host: str = HOST, sni: str = HOST) -> str:
    """One raw HTTP/2 request from inside."""
    done = lh.run(sys.executable, str(CLIENTS / "hostile_h2.py"), host, sni, *fields)
    assert done.returncode == 0, done.stderr
    safe(lh, done.stdout + done.stderr)
    return done.stdout


def get(path: str, *headers: str, host: str = HOST, method: str = "GET") -> bytes:
    """One HTTP/1.1 request that closes the connection."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *headers, "connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def safe(lh: Leasehold, text: str) -> None:
    """No credential of the session stands in ``text``, in any form."""
    for name in ("api",):
        assert not find(lh.up.server(name).credential, text), f"the credential of {name} came back"


def works(lh: Leasehold) -> None:
    """The allowed twin: a dead proxy cannot pass."""
    lh.up.api.clear()
    assert "200 OK" in raw(lh, get("/v1/me"))
    assert carried(lh)


def carried(lh: Leasehold) -> bool:
    """Whether the API received its credential since the last ``clear``."""
    return any(find(lh.up.api.credential, data) for data in lh.up.api.recorded())


def reached(lh: Leasehold, marker: str) -> bool:
    """Whether the API received these bytes since the last ``clear``."""
    return any(marker.encode() in data for data in lh.up.api.recorded())


def attacker_got(lh: Leasehold) -> bool:
    """Whether the attacker's upstream saw as much as a connection, or any server a credential in plain HTTP."""
    plain = any(find(lh.up.api.credential, data) for data in lh.up.api.received(lh.up.api.plain_port))
    return bool(lh.up.evil.contacts) or plain
