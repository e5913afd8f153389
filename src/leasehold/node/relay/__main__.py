"""A relay: one process for one lease, between Envoy and what speaks the server's protocol.

It does what no proxy at hand does for a client that does not know its credential: ends the client's TLS where a
protocol asks for TLS within itself, takes whatever password comes, logs in. It parses what a hostile client sends, in a
sandbox of its own. What it needs comes in a file that exists in memory only.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from leasehold.node.relay import mysql, postgres, redis
from leasehold.node.relay.pump import pump

_SERVE = {"postgres": postgres.meet, "redis": redis.meet, "mysql": mysql.meet}
_CLIENTS_MAX = 500
_HANDSHAKE_S = 30.0


def main() -> None:
    """Serve until killed. ``socket``: where it listens; the rest is the protocol's own."""
    told: dict[str, Any] = json.loads(Path(sys.argv[1]).read_bytes())
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # It gets its name when it listens: whoever finds the name may connect at once.
    unfinished = Path(f"{told['socket']}.new")
    listener.bind(str(unfinished))
    unfinished.chmod(0o600)
    listener.listen(128)
    unfinished.rename(told["socket"])
    context = _context(told) if "chain" in told else None
    places = threading.BoundedSemaphore(_CLIENTS_MAX)
    while True:
        client, _ = listener.accept()
        if places.acquire(blocking=False):
            threading.Thread(target=_serve, args=(told, client, context, places), daemon=True).start()
        else:
            client.close()


def _serve(
    told: dict[str, Any], client: socket.socket, context: ssl.SSLContext | None, places: threading.BoundedSemaphore
) -> None:
    with suppress(OSError, ValueError):
        client.settimeout(_HANDSHAKE_S)
        met = _SERVE[told["protocol"]](told, client, context)
        if met is not None:
            pump(*met)
    client.close()
    places.release()


def _context(told: dict[str, Any]) -> ssl.SSLContext:
    """The compartment's certificate for the server's name; OpenSSL reads it from files only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(fd, (told["chain"] + told["key"]).encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context


if __name__ == "__main__":
    main()
